"""Streams that break off and go on: their client gets what it would have got undisturbed."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sluice_gateway.calls import parse_call
from sluice_gateway.continuation import (
    COMPLETIONS_PATH,
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


@settings(max_examples=150, deadline=None)
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
