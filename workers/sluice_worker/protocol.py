"""The OpenAI API's requests and answers, as far as this server does them."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sluice_worker.errors import RequestError
from sluice_worker.sampling import SamplingParams

Json = dict[str, Any]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    stream: bool = False
    stream_options: Mapping[str, Any] | None = None
    n: Literal[1] | None = 1
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
            raise ValueError("at most four texts, none of them empty")
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
        return bool(self.stream_options and self.stream_options.get("include_usage"))


class CompletionRequest(_Request):
    """Body of /v1/completions."""

    prompt: str | list[str] | list[int]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16


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

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


RequestT = TypeVar("RequestT", bound=_Request)


def parse_request(kind: type[RequestT], body: bytes) -> RequestT:
    """Read a request body.

    Raises:
        RequestError: it is no JSON object, or a field is missing or wrong; the sentence names it.
    """
    try:
        document = json.loads(body)
    except ValueError as error:
        raise RequestError("the body is not JSON") from error
    if not isinstance(document, dict):
        raise RequestError("the body must be a JSON object")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{name}: {first['msg']}", param=name.split(".", 1)[0]) from error


def describe_error(error: RequestError) -> Json:
    """Return the OpenAI error body."""
    kinds = {429: "rate_limit_error", 503: "service_unavailable_error", 404: "not_found_error"}
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
