"""One request on its way through the engine, and what comes out of it."""

from dataclasses import dataclass, field

from sluice_worker.checkpoint import Array
from sluice_worker.decoder import KeyValueCache
from sluice_worker.sampling import Drawn, Sampler, SamplingParams
from sluice_worker.scores import TokenScore, score_tokens


@dataclass(frozen=True, slots=True)
class Emission:
    """One output token of a sequence, or its end (`finish` is stop, length or error).

    Attributes:
        score: of the token, if the request asks for it.
        ended_by: the stop token that ended it, if one did; the model's end token is none.
    """

    sequence: "GenerationRequest"
    token: int | None
    finish: str | None
    score: TokenScore | None = None
    ended_by: int | None = None


@dataclass(eq=False, slots=True)
class GenerationRequest:
    """One request on its way through the engine.

    Attributes:
        prompt: what comes first; for an output that began elsewhere, that beginning, too.
        done: prompt and output tokens whose keys and values are in the cache.
        arrived, first_at, last_at: monotonic times of arrival, first and latest token.
        started_at: when the first step with it began.
        cancelled: nobody wants it any more; it leaves at the next step.
        probe: it has the slot that is kept for known answers, and is no client's.
        priority: lower numbers are more important, as in vLLM.
        number: of its arrival.
        hashes: of its full blocks, see `blocks`.
        preemptions: times that it had to give its blocks back.
        choice: which of several outputs of one prompt.
        continued: how many tokens at the end of `prompt` are output that exists already.
        sampler: draws its tokens; made when it is submitted.
        prompt_scores: of each token of the prompt, if asked for; the first has none.
    """

    prompt: list[int]
    params: SamplingParams
    arrived: float
    output: list[int] = field(default_factory=list)
    done: int = 0
    cache: KeyValueCache | None = None
    first_at: float | None = None
    last_at: float | None = None
    cancelled: bool = False
    probe: bool = False
    priority: int = 0
    number: int = 0
    hashes: list[bytes] = field(default_factory=list)
    preemptions: int = 0
    choice: int = 0
    continued: int = 0
    started_at: float | None = None
    sampler: Sampler | None = None
    prompt_scores: list[TokenScore | None] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt) + len(self.output)

    @property
    def pending(self) -> int:
        """Tokens of prompt and output that are still to be computed."""
        return self.length - self.done

    @property
    def decodes(self) -> bool:
        """Tell whether all that is to be computed is the latest output token."""
        return bool(self.output) and self.pending == 1

    def list_tokens(self, start: int, end: int) -> list[int]:
        """Return tokens of prompt and output from one position up to another."""
        split = len(self.prompt)
        if start >= split:
            return self.output[start - split : end - split]
        return [*self.prompt[start:end], *self.output[: max(0, end - split)]]

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt alone."""
        return len(self.prompt) - self.continued

    @property
    def is_scored(self) -> bool:
        """Tell whether the next step needs the logits after every token of its chunk."""
        return self.params.prompt_logprobs is not None and self.done < len(self.prompt)

    def score_prompt(self, logits: Array, start: int) -> None:
        """Note the scores of prompt tokens by the logits (tokens, vocabulary) from `start` on."""
        if not self.prompt_scores:
            self.prompt_scores = [None] * len(self.prompt)
        tokens = self.prompt[start + 1 : start + 1 + len(logits)]
        scores = score_tokens(logits[: len(tokens)], tokens, self.params.prompt_logprobs or 0)
        self.prompt_scores[start + 1 : start + 1 + len(tokens)] = scores

    def draw(self, logits: Array) -> Drawn | None:
        """Return the next token by the logits (vocabulary,), None if no output is wanted."""
        assert self.sampler is not None  # noqa: S101  # `submit` has made it
        return self.sampler.draw(logits) if self.params.max_tokens else None
