"""Reads a completion request's body, and prepares what the workers get of it.

Only what routing and retrying need is checked here; the rest is for the worker to judge.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from sluice_gateway.affinity import cut_prompt, read_lead
from sluice_gateway.answers import Refusal, refuse_request

ENDPOINTS: Final = frozenset({"/v1/completions", "/v1/chat/completions"})
_MODEL_LENGTH: Final = 256
_TOKENS_MOST: Final = 1 << 24
_CHOICES_MOST: Final = 128
"""Beyond these nothing is believed of a request: the worker will refuse it, or is none."""


@dataclass(frozen=True, slots=True)
class Call:
    """A completion request, ready to be sent to any worker.

    Attributes:
        path: One of `ENDPOINTS`.
        body: JSON for the worker: with a seed, and with usage and token ids asked for when
            streaming, so that another worker can go on with it.
        streaming: The client wants server-sent events.
        wants_usage: The client itself asked for usage in the stream.
        wants_ids: The client itself asked for token ids in the stream.
        choices: Completions asked for (`n`), of each prompt.
        prompts: How many prompts it has.
        counted: Whether `choices` is what was asked for: it is not believed without bounds.
        prompt_size: Bytes of the prompt's text, a token id counting as one; what is around it
            takes a worker no time.
        tokens_most: The longest answer that it allows, in tokens; None if it does not say.
    """

    path: str
    model: str
    body: bytes
    streaming: bool
    wants_usage: bool
    choices: int
    tokens_most: int | None = None
    prompt_size: int = 0
    wants_ids: bool = False
    prompts: int = 1
    counted: bool = True
    lead: tuple[int, ...] = ()
    priority: int | None = None

    @property
    def sequences(self) -> int:
        """What a worker makes of it: each choice of each prompt takes a place in its batch."""
        return self.choices * self.prompts

    @property
    def is_chat(self) -> bool:
        """Whether it asks for a chat completion."""
        return "chat" in self.path


def parse_call(path: str, raw: bytes, *, seed: int) -> Call:
    """Read a request body.

    Args:
        path: The endpoint that was asked.
        raw: The body as it came.
        seed: Put in when the client gave none, so that every attempt gives the same answer.

    Raises:
        Refusal: With a 400, if the body is not a JSON object, or `model` or `stream` is wrong.
    """
    document = _parse_object(raw)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        _refuse("`model` is missing; name one of the models in /v1/models", param="model")
    if len(model) > _MODEL_LENGTH:
        _refuse(f"`model` is longer than {_MODEL_LENGTH} characters", param="model")
    streaming = document.get("stream")
    if streaming is not None and not isinstance(streaming, bool):
        _refuse(f"`stream` should be true or false, not {str(streaming)[:50]!r}", param="stream")
    if document.get("seed") is None:
        document["seed"] = seed
    wants_usage = _ask_for_usage(document) if streaming else False
    wants_ids = _ask_for_ids(document) if streaming else False
    choices = document.get("n")
    most = document.get("max_completion_tokens") or document.get("max_tokens")
    prompt = document.get("messages" if "chat" in path else "prompt")
    priority = document.get("priority")
    return Call(
        path=path,
        model=model,
        body=_render(document),
        streaming=bool(streaming),
        wants_usage=wants_usage,
        choices=_read_count(choices, _CHOICES_MOST) or 1,
        tokens_most=_read_count(most, _TOKENS_MOST),
        prompt_size=_measure(prompt),
        wants_ids=wants_ids,
        counted=choices is None or _read_count(choices, _CHOICES_MOST) is not None,
        prompts=1 if "chat" in path else _count_prompts(prompt),
        lead=cut_prompt(read_lead(prompt)),
        priority=priority if type(priority) is int else None,
    )


def _measure(prompt: object) -> int:
    """Return the bytes of a prompt: a text, a list of texts or tokens, or messages."""
    size = 0
    parts = [prompt]
    while parts:
        part = parts.pop()
        if isinstance(part, str):
            size += len(part.encode(errors="replace"))
        elif isinstance(part, list):
            parts += part
        elif isinstance(part, dict):  # a message, or a part of its content
            parts.append(part.get("content") or part.get("text"))
        else:
            size += 1
    return size


def _read_count(value: object, most: int) -> int | None:
    """Return a number from 1 to `most`, None if the value is anything else."""
    return value if type(value) is int and 1 <= value <= most else None


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        _refuse(f"the body is not valid JSON: {_explain(error)}")
    if not isinstance(document, dict):
        _refuse(f"the body should be a JSON object, not {type(document).__name__}")
    return document


def _render(document: dict[str, Any]) -> bytes:
    try:
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:  # 1e999 was read as infinity, which has no form in JSON
        _refuse("a number in the body is too large")


def _ask_for_usage(document: dict[str, Any]) -> bool:
    """Ask the worker for usage at the end of the stream; return whether the client did."""
    options = document.get("stream_options")
    if options is None:
        options = {}
    if not isinstance(options, dict):
        return False  # for the worker to refuse
    wanted = options.get("include_usage") is True
    document["stream_options"] = {**options, "include_usage": True}
    return wanted


def _ask_for_ids(document: dict[str, Any]) -> bool:
    """Ask the worker for the ids of its tokens; return whether the client did."""
    wanted = document.get("return_token_ids")
    if wanted is None or wanted is False:
        document["return_token_ids"] = True
    return wanted is True


def _count_prompts(prompt: object) -> int:
    """Return how many prompts a completion has: a list of texts or of lists is several."""
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return len(prompt) if several and isinstance(prompt, list) else 1


def _explain(error: ValueError | RecursionError) -> str:
    """Say what is wrong with a body, without any of its text."""
    if isinstance(error, _ConstantError):
        return f"{error} is not a number that JSON knows"
    if isinstance(error, json.JSONDecodeError):
        return str(error)  # names a position, never the text
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is not UTF-8" if isinstance(error, UnicodeError) else "a number is too long"


class _ConstantError(ValueError):
    """NaN or an infinity, which Python's decoder would take."""


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


def _refuse(message: str, *, param: str | None = None) -> NoReturn:
    answer = refuse_request(message, code="invalid_request", param=param)
    raise Refusal(answer, "invalid")
