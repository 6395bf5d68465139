"""A stream that breaks off goes on elsewhere exactly as it would have gone on."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.completions import Completions
from sluice_worker.decoder import Decoder
from sluice_worker.engine import Engine, Limits
from sluice_worker.errors import RequestError
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import Pacer
from sluice_worker.parsing import check_body
from sluice_worker.protocol import (
    ChatOptions,
    CompletionOptions,
    ContinueRequest,
)
from sluice_worker.shapes import ChatShape, CompletionShape
from sluice_worker.tokens import Vocabulary

from .checkpoints import write_byte_checkpoint

KINDS = {
    "/v1/completions": (CompletionOptions, CompletionShape),
    "/v1/chat/completions": (ChatOptions, ChatShape),
}
PROMPT = [0, *(5 + byte for byte in b"to be continued")]


def favour(text, much):
    """Return a bias for the bytes of a text, so that whole characters come out."""
    return {str(5 + byte): much for byte in text.encode()}


class Bench:
    """A worker without its sockets: what a request makes it write, event by event."""

    def __init__(self, path):
        self.vocabulary = Vocabulary(path / "tokenizer.json")
        self.seen = []
        limits = Limits(sequences=16, batched_tokens=40, waiting=64)
        decoder = Decoder(load_checkpoint(path))
        self.engine = Engine(decoder, limits, Pacer(None), Metrics("m"), self.seen.extend)
        self.completions = Completions("m", self.vocabulary, Metrics("m"), lambda: self.engine, {})

    def go_on(self, path, request, *broken):
        """Return (piece, event) of each of these: choice, its tokens, characters sent."""
        outputs = [self._resume(path, request, *one) for one in broken]
        self.engine.submit_all([output.sequence for output, _ in outputs])
        while self.engine.step():
            pass
        written = {output.sequence: (output, shape, []) for output, shape in outputs}
        for emission in self.seen:
            output, shape, pieces = written[emission.sequence]
            if output.finish is None:
                write = shape.write_piece if output.begun else shape.open_choice
                piece = output.take(emission)
                pieces.append((piece, write(output, piece)))
                output.begun = True
        self.seen.clear()
        return [pieces for _, _, pieces in written.values()]

    def _resume(self, path, request, index, tokens, sent):
        document = {
            "path": path,
            "request": request,
            "id": "same",
            "created": 7,
            "prompt_token_ids": PROMPT,
            "choices": [{"index": index, "token_ids": tokens, "characters": sent}],
        }
        body = check_body(ContinueRequest, document)
        options, shape = KINDS[path]
        asked = check_body(options, body.request)
        params = asked.sampling(self.completions._find_limit(asked, PROMPT), 0)
        output = self.completions._resume(asked, params, body, body.choices[0])
        return output, shape("m", self.vocabulary, asked.details, (body.id, body.created))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(write_byte_checkpoint(tmp_path_factory.mktemp("model") / "bytes"))


SAMPLING = st.fixed_dictionaries(
    {
        "seed": st.integers(-(2**63), 2**63 - 1),
        "temperature": st.sampled_from([0, 0.5, 1.0, 1.7]),
    },
    optional={
        "top_p": st.sampled_from([0.5, 0.9]),
        "top_k": st.sampled_from([2, 40]),
        "min_p": st.sampled_from([0.01, 0.2]),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "logit_bias": st.sampled_from([favour("€", 6), favour("ab€", 8), {"1": 6.0}]),
        "stop": st.lists(st.sampled_from(["a", "€", "b€", "\ufffd", "aba"]), max_size=3),
        "stop_token_ids": st.just([5 + ord("b")]),
        "include_stop_str_in_output": st.booleans(),
        "min_tokens": st.integers(0, 16),
        "ignore_eos": st.booleans(),
        "return_token_ids": st.booleans(),
    },
)
MARKED = st.sampled_from(
    [
        ("/v1/completions", {}),
        ("/v1/completions", {"logprobs": 2, "echo": True}),
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 3}),
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sampling=SAMPLING, marked=MARKED, index=st.integers(0, 2))
def test_broken_at_any_token_it_goes_on_byte_by_byte(bench, sampling, marked, index):
    path, marks = marked
    request = {"model": "m", "max_tokens": 16, "n": 3, "stream": True, **sampling, **marks}
    (whole,) = bench.go_on(path, request, (index, [], 0))
    broken, tokens, sent = [], [], 0
    for piece, _ in whole:
        broken.append((index, list(tokens), sent))
        tokens += [] if piece.token is None else [piece.token]
        sent += len(piece.text)
    # All at once, so that they also are each other's company.
    for number, rest in enumerate(bench.go_on(path, request, *broken)):
        assert [event for _, event in rest] == [event for _, event in whole[number:]]


def test_choices_of_one_request_go_on_together(bench):
    request = {"model": "m", "max_tokens": 12, "n": 3, "stream": True, "seed": 5}
    whole = bench.go_on("/v1/completions", request, *((index, [], 0) for index in range(3)))
    assert len({"".join(piece.text for piece, _ in one) for one in whole}) == 3
    broken = [
        (
            index,
            [piece.token for piece, _ in one[: index + 2]],
            sum(len(piece.text) for piece, _ in one[: index + 2]),
        )
        for index, one in enumerate(whole)
    ]
    rest = bench.go_on("/v1/completions", request, *broken)
    for index, one in enumerate(rest):
        assert [event for _, event in one] == [event for _, event in whole[index][index + 2 :]]


def test_characters_that_were_final_but_not_sent_come_first(bench):
    request = {"model": "m", "max_tokens": 12, "stream": True, "seed": 5} | {
        "logit_bias": favour("abc", 50)
    }
    (whole,) = bench.go_on("/v1/completions", request, (0, [], 0))
    tokens = [piece.token for piece, _ in whole[:5]]
    (rest,) = bench.go_on("/v1/completions", request, (0, tokens, 3))
    said = "".join(piece.text for piece, _ in whole)
    assert "".join(piece.text for piece, _ in rest) == said[3:]


@pytest.mark.parametrize(
    ("over", "broken", "said"),
    [
        ({}, (0, [6] * 13, 0), "13 tokens; max_tokens is 12"),
        ({}, (0, [6, 6], 3), "has sent 3 characters; of its tokens' text 2 were final"),
        ({}, (0, [6, 1, 6], 0), "a token that ended it"),
        ({"stop": "\x01\x01"}, (0, [6] * 3, 0), "tokens after the stop text"),
        ({}, (0, [6, 1000], 0), "the token 1000"),
    ],
)
def test_what_cannot_have_been_is_refused_by_a_sentence(bench, over, broken, said):
    request = {"model": "m", "max_tokens": 12, "stream": True, "seed": 5} | over
    with pytest.raises(RequestError, match=said):
        bench.go_on("/v1/completions", request, broken)


def test_the_events_are_json(bench):
    request = {"model": "m", "max_tokens": 5, "stream": True, "seed": 5, "logprobs": True}
    request |= {"top_logprobs": 2, "return_token_ids": True}
    ((role, *_),) = bench.go_on("/v1/chat/completions", request, (1, [], 0))
    first, second = (json.loads(one[6:]) for one in role[1].decode().strip().split("\n\n"))
    assert first["prompt_token_ids"] == PROMPT
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    choice = second["choices"][0]
    assert (second["id"], second["created"], choice["index"]) == ("same", 7, 1)
    (told,) = choice["logprobs"]["content"]
    assert choice["token_ids"] == [5 + told["bytes"][0]]
    assert len(told["top_logprobs"]) == 2
