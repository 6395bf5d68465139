"""Writes the requests by which another worker goes on with a stream.

Pure. Our own workers have an endpoint for it (docs/worker-api.md, "Going on elsewhere"). Any other
that speaks OpenAI's API with token ids as a prompt is given prompt and output as one, a choice at
a time. What a stream lacks may take several requests, one after the other: one for each prompt,
and as many as a worker's bound on bodies asks for.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from sluice_gateway.calls import Call
from sluice_gateway.transcript import GivenChoice, Leg, Transcript

Json = dict[str, Any]

CONTINUE_PATH: Final = "/internal/v1/continue"
COMPLETIONS_PATH: Final = "/v1/completions"
_AHEAD: Final = -(1 << 30)
"""Priority among a worker's waiting requests (lower comes first): ahead of all new ones. Only for
our own: other servers may refuse what they do not order by."""
_BODY_MOST: Final = 200 << 10
"""Bytes of one request; our workers take 256 KiB. One choice is never split."""
_FOREIGN_FIELDS: Final = (
    "model",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "user",
    "return_token_ids",
)
"""What a request for the rest of a choice keeps; the other fields speak of the whole."""
_CHOICES_MOST: Final = 1 << 12
"""Choices of one stream that are remembered; one with more does not go on elsewhere."""
_TOOLS: Final = ("tools", "functions", "response_format")
"""What makes text into more than text: no completion goes on with that."""


class CannotGoOnError(Exception):
    """Too little is known of a stream for another worker to go on with it."""


def begin_transcript(call: Call) -> Transcript:
    """Return the empty record of a stream that is asked for."""
    return Transcript(
        chat=call.is_chat,
        choices=min(_CHOICES_MOST, call.sequences),
        per_prompt=call.choices,
        wants_ids=call.wants_ids,
        wants_usage=call.wants_usage,
        counted=call.counted and call.sequences <= _CHOICES_MOST,
    )


def can_go_on(call: Call, transcript: Transcript) -> bool:
    """Return whether enough is known of a stream for another worker to go on with it."""
    known = len(transcript.choices) == call.sequences
    if not known or not transcript.trackable or not transcript.head:
        return False
    numbers = {one.index // transcript.per_prompt for one in transcript.choices if not one.finished}
    return not call.is_chat or numbers <= transcript.prompts.keys()


def plan_leg(call: Call, transcript: Transcript, *, foreign: bool) -> Leg:
    """Return the next request that goes on with a stream that is not complete.

    Args:
        call: The request as it was sent first.
        transcript: What its client has been given.
        foreign: The worker knows nothing of continuations.

    Raises:
        CannotGoOnError: If there is no such request.
    """
    if not can_go_on(call, transcript):
        raise CannotGoOnError("the tokens that its client has been given are not known")
    request: Json = json.loads(call.body)
    left = [choice for choice in transcript.choices if not choice.finished]
    number = left[0].index // transcript.per_prompt
    prompt = transcript.prompts.get(number)
    if prompt is None:
        ahead = {} if foreign else {"priority": _AHEAD}
        return _begin_prompt(call, {**request, **ahead}, number)
    group = [one for one in left if one.index // transcript.per_prompt == number]
    if foreign:
        return _go_on_elsewhere(call, request, prompt.tolist(), group[0])
    return _go_on(call, transcript, request, prompt.tolist(), group)


def end_full_choices(call: Call, transcript: Transcript) -> bytes:
    """End the choices that have all their tokens, for a worker that cannot be asked for none."""
    most = call.tokens_most
    full = [
        choice
        for choice in transcript.choices
        if most is not None and not choice.finished and len(choice.tokens) >= most
    ]
    return b"".join(transcript.end_choice(choice.index, "length") for choice in full)


def _begin_prompt(call: Call, request: Json, number: int) -> Leg:
    """Ask afresh for the choices of a prompt of which nothing has come."""
    prompts = request["prompt"]
    one = [prompts[number]] if call.prompts > 1 else prompts
    body = _render({**request, "prompt": one})
    first = number * call.choices
    return Leg(COMPLETIONS_PATH, body, {here: first + here for here in range(call.choices)})


def _go_on(
    call: Call, transcript: Transcript, request: Json, prompt: list[int], group: list[GivenChoice]
) -> Leg:
    """Ask one of our workers to go on with choices of one prompt."""
    for key in ("prompt", "messages"):
        request.pop(key, None)
    document = {
        "path": call.path,
        "request": {**request, "priority": _AHEAD},
        "id": transcript.head["id"],
        "created": transcript.head["created"],
        "prompt_token_ids": prompt,
    }
    size = len(_render(document))
    choices: list[Json] = []
    for choice in group:
        told = {
            "index": choice.index,
            "token_ids": choice.tokens.tolist(),
            "characters": choice.characters,
        }
        size += len(_render(told)) + 1
        if choices and size > _BODY_MOST:
            break
        choices.append(told)
    indices = {told["index"]: told["index"] for told in choices}
    return Leg(CONTINUE_PATH, _render({**document, "choices": choices}), indices)


def _go_on_elsewhere(call: Call, request: Json, prompt: Sequence[int], choice: GivenChoice) -> Leg:
    """Ask any worker to complete prompt and output of one choice."""
    if any(request.get(key) for key in _TOOLS):
        raise CannotGoOnError("its worker was to make more of its text than a completion is")
    seed, least = request["seed"], request.get("min_tokens") or 0
    if type(seed) is not int or type(least) is not int:
        raise CannotGoOnError("its worker took a number in a form of its own")
    choice.forget_loose()
    given = len(choice.tokens)
    scores = request.get("logprobs")
    if call.is_chat:
        scores = (request.get("top_logprobs") or 0) if scores else None
    body: Json = {key: request[key] for key in _FOREIGN_FIELDS if key in request}
    body |= {
        "prompt": [*prompt, *choice.tokens],
        "seed": seed + choice.index % call.choices,
        "logprobs": scores,
        "min_tokens": max(0, least - given),
    }
    if call.tokens_most is not None:
        body["max_tokens"] = call.tokens_most - given
    elif call.is_chat:
        body["max_tokens"] = None  # what fits: chats have no other bound
    if request.get("echo") and not choice.opened:
        body["echo"] = True
    return Leg(COMPLETIONS_PATH, _render(body), {0: choice.index}, is_text=True, foreign=True)


def _render(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
