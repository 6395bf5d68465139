"""Following a worker's event stream: what goes to the client, when it begins, what it counts."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_gateway import events
from sluice_gateway.events import EventSplitter, has_token, read_payload
from sluice_gateway.soundness import StreamError
from sluice_gateway.transcript import Transcript


def begin(*, wants_usage):
    """Return the progress of a stream of which nothing has come."""
    transcript = Transcript(
        chat=False, choices=1, per_prompt=1, wants_ids=False, wants_usage=wants_usage
    )
    return events.StreamProgress(transcript, wants_usage=wants_usage)


def event(**document):
    return b"data: " + json.dumps(document, separators=(",", ":")).encode()


def token(text):
    return event(choices=[{"index": 0, "text": text}])


ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
USAGE = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2})
DONE = b"data: [DONE]"


def test_nothing_is_sent_before_the_first_token():
    progress = begin(wants_usage=False)
    assert progress.take([b": hello", ROLE], 1.0) == b""
    assert not progress.begun
    out = progress.take([event(choices=[{"index": 0, "delta": {"content": "Hi"}}])], 2.0)
    assert out.startswith(ROLE + b"\n\ndata: ")
    assert progress.begun
    assert progress.first_at == 2.0


def test_an_event_without_data_is_nothing():
    progress = begin(wants_usage=False)
    out = progress.take([b"data:", token("a"), b"data: ", token("b"), DONE], 1.0)
    assert out == b"".join(one + b"\n\n" for one in (token("a"), token("b"), DONE))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"text": "a"}, True),
        ({"text": ""}, True),
        ({"text": "", "finish_reason": "stop"}, True),
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {"role": "assistant"}}, False),
        ({"delta": {"role": "assistant", "content": "a"}}, True),
        ({"delta": {"content": ""}}, True),
        ({"delta": {}, "finish_reason": "stop"}, True),
        ({"delta": {"role": "assistant", "tool_calls": [{}]}}, True),
        ("odd", False),
    ],
)
def test_tokens_are_told_from_openings(choice, expected):
    assert has_token([choice]) is expected
    assert not has_token([])
    assert not has_token(None)


def test_usage_is_kept_from_a_client_that_did_not_ask():
    progress = begin(wants_usage=False)
    out = progress.take([token("a"), token("b"), USAGE, DONE], 1.0)
    assert b"usage" not in out
    assert out.endswith(b"data: [DONE]\n\n")
    assert progress.count_tokens() == (7, 2)
    assert progress.done


def test_usage_reaches_a_client_that_asked():
    progress = begin(wants_usage=True)
    assert USAGE in progress.take([token("a"), USAGE, DONE], 1.0)


def test_empty_usage_fields_are_taken_out():
    progress = begin(wants_usage=False)
    spaced = b'data: {"choices": [{"text": "a"}], "usage": null}'
    assert progress.take([spaced], 1.0) == b'data: {"choices": [{"text": "a"}]}\n\n'
    progress = begin(wants_usage=False)
    out = progress.take([event(choices=[{"text": "a"}], usage=None), DONE], 1.0)
    assert out == b'data: {"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n'


def test_without_usage_chunks_are_counted():
    progress = begin(wants_usage=False)
    progress.take([token("a"), token("b"), token("c")], 1.0)
    assert progress.count_tokens() == (0, 3)


def test_text_that_looks_like_keys_is_only_text():
    progress = begin(wants_usage=False)
    tricky = [token("a"), token('"usage":{"completion_tokens":99}'), token('"error"')]
    assert progress.take(tricky, 1.0).count(b"data:") == 3
    assert progress.count_tokens() == (0, 3)


def test_last_token_times_the_end():
    progress = begin(wants_usage=False)
    progress.take([token("a")], 1.0)
    progress.take([token("b")], 3.0)
    progress.take([USAGE, DONE], 9.0)
    assert (progress.first_at, progress.last_at) == (1.0, 3.0)


@pytest.mark.parametrize("before", [[], [token("a")]])
def test_an_error_event_while_nothing_was_sent_is_an_error(before):
    progress = begin(wants_usage=False)
    with pytest.raises(StreamError, match="error instead of a token") as caught:
        progress.take([*before, event(error={"message": "out of memory"})], 2.0)
    assert json.loads(caught.value.body)["error"]["message"] == "out of memory"


def test_tokens_before_an_error_in_a_begun_stream_are_not_lost():
    progress = begin(wants_usage=False)
    progress.take([token("a")], 1.0)
    out = progress.take([token("b"), event(error={"message": "out of memory"}), token("c")], 2.0)
    assert out == token("b") + b"\n\n"
    assert json.loads(progress.failure.body)["error"]["message"] == "out of memory"


@pytest.mark.parametrize("payload", [b"data: {not json", b"data: 42"])
def test_nonsense_before_the_first_token_is_an_error(payload):
    with pytest.raises(StreamError):
        begin(wants_usage=False).take([payload], 1.0)


def test_events_without_end_before_the_first_token_are_an_error():
    progress = begin(wants_usage=False)
    with pytest.raises(StreamError, match="more than 32"):
        progress.take([ROLE] * 33, 1.0)


def test_an_endless_event_is_an_error():
    splitter = EventSplitter(most_bytes=100)
    with pytest.raises(StreamError, match="longer than 100"):
        splitter.feed(b"data: " + b"x" * 200)


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)),
    st.sampled_from([b"\n\n", b"\r\n\r\n"]),
    st.data(),
)
def test_events_survive_any_cut(texts, blank, data):
    events = [token(text) for text in texts]
    stream = b"".join(one + blank for one in events)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    splitter = EventSplitter(most_bytes=1 << 20)
    edges = [0, *cuts, len(stream)]
    found = []
    for start, end in pairwise(edges):
        found += splitter.feed(stream[start:end])
    assert found == events


def test_payloads_of_odd_events():
    assert read_payload(b"event: x\ndata:{}") == b"{}"
    assert read_payload(b"data: a\ndata: b") == b"a\nb"
    assert read_payload(b": comment") is None
