"""Streams that break off and go on: their client gets what it would have got undisturbed."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sluice_gateway.calls import parse_call
from sluice_gateway.continuation import (
    CONTINUE_PATH,
    CannotGoOnError,
    begin_transcript,
    can_go_on,
    end_full_choices,
    plan_leg,
)
from sluice_gateway.events import EventSplitter, StreamProgress

from .streamedmodel import CHAT, TEXT, Model

OURS = ("fp8-block", "sha256:1")
FOREIGN = ("", "")


def make_call(path=TEXT, **over):
    said = {"prompt": "one"} if path == TEXT else {"messages": [{"content": "one"}]}
    body = {"model": "m", "stream": True, "max_tokens": 5, "seed": 1} | said | over
    return parse_call(path, json.dumps(body).encode(), seed=0)


def begin(call, *, maker=OURS):
    """Return a stream's empty transcript."""
    transcript = begin_transcript(call)
    transcript.maker = maker
    return transcript


def relay(call, transcript, data, size=1 << 20):
    """Give a worker's bytes to the gateway in pieces; return what the client gets, and progress."""
    progress = StreamProgress(transcript, wants_usage=call.wants_usage)
    splitter = EventSplitter(most_bytes=1 << 20)
    out = []
    for start in range(0, len(data), size):
        out.append(progress.take(splitter.feed(data[start : start + size]), 1.0))
        assert progress.failure is None
    return b"".join(out), progress


def tell_undisturbed(call):
    data = b"".join(Model(call.path, json.loads(call.body)).stream())
    return relay(call, begin(call), data)[0]


def tell_cut(call, cuts, size):
    """Return what the client gets of a stream that breaks off after so many bytes, each time."""
    model = Model(call.path, json.loads(call.body))
    out, transcript = b"", None
    whole = b"".join(model.stream())
    for cut in (*cuts, None):
        if transcript is None:
            fresh = begin(call)
            given, progress = relay(call, fresh, whole[:cut], size)
            out += given
            if progress.done:
                return out
            transcript = fresh if progress.begun else None
            continue
        while not transcript.complete:
            given, is_whole = tell_leg(call, transcript, model, cut, size)
            out += given
            if not is_whole:
                break
        if transcript.complete:
            return out + transcript.render_end()
    return out


def tell_leg(call, transcript, model, cut, size):
    """Return what the client gets of one leg, and whether it came as a whole."""
    leg = plan_leg(call, transcript, foreign=False)
    document = json.loads(leg.body)
    if leg.path == CONTINUE_PATH:
        events = model.go_on(document)
    else:
        events = Model(TEXT, document, ("id-2", 1_800_000_000)).stream()
    assert transcript.begin_leg(leg, OURS)
    return relay(call, transcript, b"".join(events)[:cut], size)[0], cut is None


def sort_events(data):
    """Return the events of each choice in their order, and those without one."""
    found = {}
    for event in data.decode().removesuffix("\n\n").split("\n\n"):
        payload = event.removeprefix("data: ")
        choices = [] if payload == "[DONE]" else json.loads(payload)["choices"]
        found.setdefault(choices[0]["index"] if choices else None, []).append(event)
    return found


CALLS = st.builds(
    make_call,
    st.sampled_from([TEXT, CHAT]),
    n=st.integers(1, 3),
    seed=st.integers(0, 9),
    max_tokens=st.integers(1, 9),
    logprobs=st.sampled_from([None, 1]),
    return_token_ids=st.booleans(),
    stream_options=st.fixed_dictionaries({"include_usage": st.booleans()}),
) | st.builds(
    make_call,
    prompt=st.sampled_from([["one"], ["one", "another"], ["a", "b", "c"]]),
    echo=st.booleans(),
    n=st.integers(1, 2),
    max_tokens=st.integers(1, 6),
)


@settings(max_examples=60, deadline=None)
@given(CALLS, st.lists(st.integers(0, 4000), max_size=5), st.sampled_from([7, 300, 1 << 20]))
@example(make_call(), [], 7)
def test_a_stream_that_breaks_off_anywhere_reaches_its_client_as_if_it_had_not(call, cuts, size):
    told, expected = tell_cut(call, cuts, size), tell_undisturbed(call)
    assert sort_events(told) == sort_events(expected)
    assert told.endswith(b"data: [DONE]\n\n")
    assert (b"token_ids" in told.replace(b'\\"token_ids', b"")) == call.wants_ids
    if call.choices * call.prompts == 1:
        assert told == expected


@pytest.mark.parametrize("path", [TEXT, CHAT])
def test_every_cut_of_one_stream(path):
    call = make_call(path, stream_options={"include_usage": True}, max_tokens=3)
    expected = tell_undisturbed(call)
    size = sum(map(len, Model(path, json.loads(call.body)).stream()))
    assert {tell_cut(call, [cut], 1 << 20) for cut in range(0, size, 3)} == {expected}
    assert expected.count(b'"usage"') == 1


def begin_broken(call, *, tokens):
    """Return the transcript of a stream that broke off after so many tokens of each choice."""
    model, transcript = Model(call.path, json.loads(call.body)), begin(call)
    events = [event for event in model.stream() if b'"finish_reason":"' not in event]
    count = call.choices * call.prompts * (tokens + (call.path == CHAT))
    relay(call, transcript, b"".join(events[:count]))
    return transcript


def write_text(*choices, ids=True):
    """Return a completion's events as another server writes them."""
    events = []
    for number, (text, finish) in enumerate(choices):
        said = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        said |= {"token_ids": [100 + number]} if ids else {}
        document = {"id": "theirs", "created": 1, "object": "text_completion", "choices": [said]}
        events.append(f"data: {json.dumps(document)}\n\n".encode())
    return b"".join([*events, b"data: [DONE]\n\n"])


def read(data):
    return [
        json.loads(event[6:])
        for event in data.decode().split("\n\n")
        if event.startswith("data: {")
    ]


def test_the_end_comes_once_however_the_last_of_it_was_lost():
    call = make_call(stream_options={"include_usage": True})
    *events, usage, end = Model(TEXT, json.loads(call.body)).stream()
    for came in (events, [*events, usage], [*events, usage, end]):
        transcript = begin(call)
        told, _ = relay(call, transcript, b"".join(came))
        assert transcript.needs_no_worker
        told += transcript.render_end()
        assert told == tell_undisturbed(call)
        assert transcript.render_end() == b""


@pytest.mark.parametrize("usage", [False, True])
def test_a_chat_goes_on_as_a_completion_where_nobody_knows_continuations(usage):
    call = make_call(CHAT, seed=4, max_tokens=9, stream_options={"include_usage": usage})
    transcript = begin_broken(call, tokens=3)
    given = transcript.choices[0]
    leg = plan_leg(call, transcript, foreign=True)
    body = json.loads(leg.body)
    assert body["prompt"] == [*b"chat", *given.tokens]
    assert body["max_tokens"] == 9 - len(given.tokens)
    assert (body["seed"], body["stream"], "messages" in body) == (4, True, False)
    assert not transcript.begin_leg(leg, FOREIGN)
    told, _ = relay(call, transcript, write_text(("more", None), ("", "stop")))
    told += transcript.render_end()
    first, *_, last = documents = read(told)
    assert first["choices"][0]["delta"] == {"content": "more"}
    assert {(one["id"], one["object"]) for one in documents} == {("id-1", "chat.completion.chunk")}
    assert [one.get("sluice") for one in documents].count({"continuation": "approximate"}) == 1
    assert last["sluice"]
    assert [one["usage"]["completion_tokens"] for one in documents if "usage" in one] == (
        [len(given.tokens)] if usage else []
    )
    assert told.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("odd", [{"seed": "abc"}, {"min_tokens": "3"}])
def test_a_number_in_a_form_that_only_its_worker_took_goes_no_further(odd):
    call = make_call(CHAT, **odd)
    with pytest.raises(CannotGoOnError, match="form of its own"):
        plan_leg(call, begin_broken(call, tokens=3), foreign=True)


def test_a_choice_that_had_not_opened_gets_its_role_when_it_goes_on_as_a_completion():
    call = make_call(CHAT, n=2)
    transcript = begin(call)
    events = Model(CHAT, json.loads(call.body)).stream()
    relay(call, transcript, b"".join(events[:2]))
    transcript.choices[0].finished = True
    leg = plan_leg(call, transcript, foreign=True)
    transcript.begin_leg(leg, FOREIGN)
    told, _ = relay(call, transcript, write_text(("Hi", None), ("", "stop"), ids=False))
    deltas = [one["choices"][0]["delta"] for one in read(told)]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]
    assert json.loads(leg.body)["seed"] == 2  # another choice is another draw


def test_tokens_whose_text_was_not_sent_are_drawn_again_by_a_worker_that_cannot_know():
    call = make_call(max_tokens=8)
    transcript = begin(call)
    choice = transcript.choices[0]
    model = Model(TEXT, json.loads(call.body))
    relay(call, transcript, model.stream()[0])
    choice.tokens.extend([5, 6])
    body = json.loads(plan_leg(call, transcript, foreign=True).body)
    assert body["prompt"] == [*b"one", *model.list_ids(0)[:1]]
    assert body["max_tokens"] == 7


def test_a_choice_with_all_its_tokens_only_needs_its_end():
    call = make_call(CHAT, max_tokens=4, seed=3)
    transcript = begin_broken(call, tokens=9)
    transcript.choices[0].tokens.extend([1] * (4 - len(transcript.choices[0].tokens)))
    (document,) = read(end_full_choices(call, transcript))
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["choices"][0]["delta"] == {}
    assert transcript.complete


def test_what_is_more_than_text_does_not_go_on_as_a_completion():
    call = make_call(CHAT, tools=[{"type": "function"}])
    transcript = begin_broken(call, tokens=2)
    with pytest.raises(CannotGoOnError, match="more of its text"):
        plan_leg(call, transcript, foreign=True)
    assert plan_leg(call, transcript, foreign=False)


@pytest.mark.parametrize(
    "event",
    [
        write_text(("no ids", None), ids=False),
        b'data: {"id":"","created":1,"choices":[{"delta":{"tool_calls":[1]},"token_ids":[1]}]}\n\n',
        b'data: {"choices":[{"index":0,"text":"no id","token_ids":[1]}]}\n\n',
        b'data: {"id":"x","created":1,"choices":[{"index":0,"text":"","token_ids":[-1]}]}\n\n',
    ],
)
def test_a_stream_of_which_too_little_is_known_does_not_go_on(event):
    call = make_call(prompt=["one"])
    transcript = begin(call)
    relay(call, transcript, event)
    assert not can_go_on(call, transcript)
    with pytest.raises(CannotGoOnError):
        plan_leg(call, transcript, foreign=False)


def test_a_worker_that_goes_on_with_what_nobody_asked_for_talks_nonsense():
    call = make_call(CHAT, n=2)
    transcript = begin_broken(call, tokens=2)
    transcript.choices[0].finished = True
    leg = plan_leg(call, transcript, foreign=False)
    assert leg.choices == {1: 1}
    transcript.begin_leg(leg, OURS)
    progress = StreamProgress(transcript, wants_usage=False)
    event = b'data: {"id":"id-1","created":1,"choices":[{"index":0,"delta":{"content":"x"}}]}'
    assert progress.take([event], 1.0) == b""
    assert "nobody asked for" in str(progress.failure)


def test_what_is_too_long_for_one_body_takes_several():
    call = make_call(n=3)
    transcript = begin_broken(call, tokens=1)
    for choice in transcript.choices:
        choice.tokens.extend([123_456] * 20_000)
    leg = plan_leg(call, transcript, foreign=False)
    assert leg.choices == {0: 0}
    assert len(leg.body) < 1 << 18


def test_a_worker_that_ends_before_its_choices_have_talks_nonsense():
    call = make_call()
    transcript = begin_broken(call, tokens=2)
    transcript.begin_leg(plan_leg(call, transcript, foreign=False), OURS)
    progress = StreamProgress(transcript, wants_usage=False)
    assert progress.take([b"data: [DONE]"], 1.0) == b""
    assert "before its choices had" in str(progress.failure)


@pytest.mark.parametrize(
    ("maker", "marked"), [(OURS, False), (("mx9", OURS[1]), True), ((OURS[0], "sha256:2"), True)]
)
def test_going_on_in_other_numerics_or_with_another_model_is_said_in_the_last_chunk(maker, marked):
    call = make_call()
    transcript = begin_broken(call, tokens=1)
    leg = plan_leg(call, transcript, foreign=False)
    events = Model(TEXT, json.loads(call.body)).go_on(json.loads(leg.body))
    assert transcript.begin_leg(leg, maker) is not marked
    assert not transcript.approximate  # as long as nothing has come of it
    told, _ = relay(call, transcript, b"".join(events))
    *others, last = read(told)
    assert ("sluice" in last) is marked
    assert not any("sluice" in one for one in others)


@pytest.mark.parametrize("wants_ids", [False, True])
@pytest.mark.parametrize("wants_usage", [False, True])
def test_vllm_s_events_lose_what_was_not_asked_for_and_nothing_else(wants_ids, wants_usage):
    usage = {"stream_options": {"include_usage": True}} if wants_usage else {}
    call = make_call(CHAT, return_token_ids=wants_ids, **usage)
    transcript = begin(call)
    said = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    head = {"id": "x", "created": 1}
    documents = [head | {"choices": [said], "prompt_token_ids": [1, 2]}]
    for number in range(3):
        said = {"index": 0, "delta": {"content": "é"}, "logprobs": None, "finish_reason": None}
        said |= {"stop_reason": None, "token_ids": [number]}
        documents.append(head | {"choices": [said], "usage": None})
    data = b"".join(
        f"data: {json.dumps(one, separators=(',', ':'))}\n\n".encode() for one in documents
    )
    told = read(relay(call, transcript, data)[0])
    assert transcript.choices[0].tokens.tolist() == [0, 1, 2]
    assert transcript.choices[0].characters == 3
    for document in documents[1:]:
        if not wants_usage:
            del document["usage"]
        if not wants_ids:
            del document["choices"][0]["token_ids"]
    if not wants_ids:
        del documents[0]["prompt_token_ids"]
    assert told == documents
