"""The OpenAI API's requests, as far as this server does them, with vLLM's additions.

What would change an answer and is not done here is refused by a sentence (`parsing`); what changes
nothing (`user`, `metadata`, …) is ignored.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    field_validator,
    model_validator,
)

from sluice_worker.sampling import SamplingParams
from sluice_worker.shapes import Details

TOP_MOST: Final = 20
"""Likeliest tokens told at each token: OpenAI's bound, and vLLM's."""
CHOICES_MOST: Final = 128
STOPS_MOST: Final = 4
STOP_LENGTH: Final = 256
TOKENS_MOST: Final = 1 << 24
"""Bound of numbers of tokens, so that none is too long to be told; the context is far below."""

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=TOKENS_MOST)]
Positive = Annotated[int, Field(ge=1, le=TOKENS_MOST)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Top = Annotated[int, Field(ge=0, le=TOP_MOST)]
Tokens = Annotated[list[int], FailFast()]
BIAS_DIGITS: Final = 20
"""Of a token as a key of logit_bias, zeros before it included."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class _StreamOptions(_Model):
    include_usage: bool | None = False


class _Options(_Model):
    """What requests of both endpoints have beside the prompt."""

    model: str
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES_MOST)] | None = 1
    best_of: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=-1, le=TOKENS_MOST)] | None = 0
    min_p: Annotated[float, Field(ge=0, le=1)] | None = 0.0
    seed: Seed | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=64, fail_fast=True)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Count = 0
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = 1.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    prompt_logprobs: Top | None = None
    return_token_ids: bool | None = False
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > STOPS_MOST or any(not 0 < len(text) <= STOP_LENGTH for text in texts):
            raise ValueError(
                f"it can be a text or up to four, none of them empty or longer than {STOP_LENGTH}"
                " characters"
            )
        return value

    @field_validator("logit_bias")
    @classmethod
    def _check_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for token in value or ():
            # First their length, for Python reads no integers of thousands of digits.
            short = token.isascii() and token.isdigit() and len(token) <= BIAS_DIGITS
            if not (short and int(token) <= TOKENS_MOST):
                raise ValueError("its keys should be token ids")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "_Options":
        if self.best_of is not None and self.best_of != self.count:
            raise ValueError(f"best_of is {self.best_of}, which is not n: leave best_of out")
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs is not possible with stream: leave one of them out")
        return self

    @property
    def count(self) -> int:
        """How many choices each prompt has."""
        return 1 if self.n is None else self.n

    @property
    def limit(self) -> int | None:
        """Most output tokens, None if the request does not say."""
        return self.max_tokens

    @property
    def logprob_count(self) -> int | None:
        """Likeliest tokens told at each output token, None if no log-probabilities are."""
        return None

    @property
    def echoes(self) -> bool:
        """Tell whether the prompt is a part of the answer."""
        return False

    @property
    def include_usage(self) -> bool:
        """Tell whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def details(self) -> Details:
        """What the answer tells beside its text."""
        return Details(
            self.logprob_count, bool(self.return_token_ids), self.prompt_logprobs is not None
        )

    def sampling(self, max_tokens: int, seed: int) -> SamplingParams:
        """Return how the output is sampled; `seed` is for requests that bring none."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        scored = self.prompt_logprobs
        if self.echoes and self.logprob_count is not None:
            scored = max(scored or 0, self.logprob_count)
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed if self.seed is None else self.seed,
            max_tokens=max_tokens,
            stop=stop,
            ignore_eos=self.ignore_eos,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            min_tokens=self.min_tokens,
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            include_stop=self.include_stop_str_in_output,
            logprobs=self.logprob_count,
            prompt_logprobs=scored,
        )


class CompletionOptions(_Options):
    """Body of /v1/completions without its prompt."""

    echo: bool | None = False
    logprobs: Top | None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _drop_false(cls, value: object) -> object:
        return None if value is False else value  # as some clients of both endpoints send it

    @property
    def logprob_count(self) -> int | None:
        """Likeliest tokens told at each output token, None if no log-probabilities are."""
        return self.logprobs

    @property
    def echoes(self) -> bool:
        """Tell whether the prompt is a part of the answer."""
        return bool(self.echo)


class CompletionRequest(CompletionOptions):
    """Body of /v1/completions; the prompt is a text, or tokens, or several of one kind."""

    prompt: str | list[str] | list[int] | list[list[int]]

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, value: object) -> object:
        # Before pydantic, which would note a fault for every entry of a list that is all wrong.
        if not (_are_all(value, str, int) or _is_token_lists(value) or isinstance(value, str)):
            raise ValueError("it should be a text, a list of token ids, or a list of either")
        return value

    def list_prompts(self) -> list[str | list[int]]:
        """Return the prompts."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [[one for one in self.prompt if isinstance(one, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]


def _are_all(value: object, *kinds: type) -> bool:
    """Tell whether a value is a list with entries of just one of these types."""
    return isinstance(value, list) and any(
        all(type(one) is kind for one in value) for kind in kinds
    )


def _is_token_lists(value: object) -> bool:
    return isinstance(value, list) and all(_are_all(one, int) for one in value)


class TextPart(_Model):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class Message(_Model):
    """One message of a chat."""

    role: str
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = ""

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatOptions(_Options):
    """Body of /v1/chat/completions without its messages."""

    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Top | None = None

    @model_validator(mode="after")
    def _check_top(self) -> "ChatOptions":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: set it to true")
        return self

    @property
    def limit(self) -> int | None:
        """Most output tokens, None if the request does not say."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    @property
    def logprob_count(self) -> int | None:
        """Likeliest tokens told at each output token, None if no log-probabilities are."""
        return (self.top_logprobs or 0) if self.logprobs else None


class Chat(_Model):
    """The messages of a chat."""

    messages: Annotated[list[Message], FailFast()]

    @field_validator("messages")
    @classmethod
    def _check_messages(cls, value: list[Message]) -> list[Message]:
        if not value:
            raise ValueError("it should have at least one message")
        return value

    def list_messages(self) -> list[dict[str, str]]:
        """Return role and content of each message."""
        return [{"role": one.role, "content": one.text()} for one in self.messages]


class ChatRequest(ChatOptions, Chat):
    """Body of /v1/chat/completions."""


class TokenizeRequest(_Model):
    """Body of /tokenize for a text, as in vLLM."""

    prompt: str
    add_special_tokens: bool | None = True
    return_token_strs: bool | None = False


class TokenizeChatRequest(Chat):
    """Body of /tokenize for a chat, as in vLLM."""

    return_token_strs: bool | None = False


class DetokenizeRequest(_Model):
    """Body of /detokenize, as in vLLM."""

    tokens: Tokens


class KnownPromptRequest(_Model):
    """Body of POST /internal/known-answers: a known prompt, and how many tokens its answer has."""

    prompt: Annotated[list[int], FailFast(), Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=TOKENS_MOST, alias="maxTokens")]


class ContinuedChoice(_Model):
    """A choice that broke off: its tokens so far, and how many characters of them were sent."""

    index: Annotated[int, Field(ge=0, lt=CHOICES_MOST * CHOICES_MOST)]
    token_ids: Tokens
    characters: Count


class ContinueRequest(_Model):
    """Body of /internal/v1/continue: a stream that broke off elsewhere; see docs/worker-api.md."""

    path: Literal["/v1/completions", "/v1/chat/completions"]
    request: dict[str, Any]
    id: Annotated[str, Field(min_length=1, max_length=128)]
    created: Annotated[int, Field(ge=0, lt=2**63)]
    prompt_token_ids: Annotated[list[int], FailFast(), Field(min_length=1)]
    choices: Annotated[list[ContinuedChoice], Field(min_length=1, max_length=CHOICES_MOST)]

    @field_validator("choices")
    @classmethod
    def _check_choices(cls, value: list[ContinuedChoice]) -> list[ContinuedChoice]:
        if len({one.index for one in value}) < len(value):
            raise ValueError("it has an index twice")
        return value
