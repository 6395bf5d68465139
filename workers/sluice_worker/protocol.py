"""The OpenAI API's requests and answers, as far as this server does them.

What would change an answer and is not done here is refused by a sentence; what changes nothing
(`user`, `metadata`, …) is ignored.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, field_validator

from sluice_worker.errors import RequestError
from sluice_worker.sampling import SamplingParams

Json = dict[str, Any]

REFUSED: Final[Mapping[str, tuple[object, ...]]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
}
"""Fields of OpenAI's API that would change the answer, and the values that ask for nothing."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    include_usage: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    model: str
    stream: bool | None = False
    stream_options: _Options | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > 4 or any(not text for text in texts):  # noqa: PLR2004  # OpenAI's bound
            raise ValueError("it can be a text or up to four, none of them empty")
        return value

    def sampling(self, max_tokens: int, seed: int) -> SamplingParams:
        """Return how the output is sampled; `seed` is for requests that bring none."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed if self.seed is None else self.seed,
            max_tokens=max_tokens,
            stop=stop,
            ignore_eos=self.ignore_eos,
        )

    @property
    def include_usage(self) -> bool:
        """Tell whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """Body of /v1/completions; the prompt is a text, or tokens."""

    prompt: str | list[str] | list[int]
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, value: object) -> object:
        # Before pydantic, which would note a fault for every entry of a list that is all wrong.
        kinds = {type(one) for one in value} if isinstance(value, list) else {type(value)}
        if kinds not in ({str}, {int}, set()) or type(value) is int:
            raise ValueError("it should be a text, or a list of token ids")
        return value


class TextPart(BaseModel):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat."""

    role: str
    content: str | list[TextPart] | None = ""

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(_Request):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], FailFast()]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("messages")
    @classmethod
    def _check_messages(cls, value: list[Message]) -> list[Message]:
        if not value:
            raise ValueError("it should have at least one message")
        return value


class KnownPromptRequest(BaseModel):
    """Body of POST /internal/known-answers: a known prompt, and how many tokens its answer has."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    prompt: Annotated[list[int], FailFast(), Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, alias="maxTokens")]


RequestT = TypeVar("RequestT", bound=BaseModel)


def parse_request(kind: type[RequestT], body: bytes) -> RequestT:
    """Read a request body.

    Raises:
        RequestError: it is no JSON object, a field is missing or wrong, or one asks for what is not
            done here; the sentence names it.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON, or nested too deeply") from error
    if not isinstance(document, dict):
        raise RequestError("the body must be a JSON object")
    for name, harmless in REFUSED.items():
        value = document.get(name)
        # To Python, False equals 0; but completions' `logprobs: 0` does ask for something.
        if not any(
            value == one and isinstance(value, bool) is isinstance(one, bool) for one in harmless
        ):
            raise RequestError(
                f"{name} is {_shorten(value)}, which this server does not do: leave {name} out",
                code="unsupported_parameter",
                param=name,
            )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _describe_first(error) from error


def _describe_first(error: ValidationError) -> RequestError:
    """Return the first fault as a sentence with the field's name and value."""
    # Where several types are possible, the one that fits deepest is the one to explain.
    first = max(error.errors(include_url=False), key=lambda fault: len(fault["loc"]))
    # A type's name among the places (`str`, `list[str]`) is no field.
    path = [str(part) for part in first["loc"] if part != "str" and "[" not in str(part)]
    name = ".".join(path)
    if first["type"] == "missing":
        return RequestError(f"{name} is missing", param=path[0])
    told = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return RequestError(f"{name} is {_shorten(first['input'])}: {told}", param=path[0])


def _shorten(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004  # enough to recognise it


def describe_error(error: RequestError) -> Json:
    """Return the OpenAI error body."""
    kinds = {
        404: "not_found_error",
        429: "rate_limit_error",
        500: "internal_server_error",
        503: "service_unavailable_error",
    }
    return {
        "error": {
            "message": str(error),
            "type": kinds.get(error.status, "invalid_request_error"),
            "param": error.param,
            "code": error.code,
        }
    }


def describe_usage(prompt: int, output: int) -> Json:
    """Return token counts."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
