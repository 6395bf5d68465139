"""Predicts when a worker would give a request its first token, and how far apart the next ones.

From what this gateway has running there (a queue, a batch, prompts not yet computed), from how long
steps of its engine take (`engines`), and from how far off such predictions were lately. The worker
that is modelled gives every sequence that decodes a token with each step, computes a chunk of the
oldest prompts beside them, and runs so many sequences at once; others wait for one to end.

Pure but for what corrections have learnt: times are passed in.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from sluice_gateway.answerlengths import Spread, find_end
from sluice_gateway.engines import Steps
from sluice_gateway.goals import Goal, RequestClass
from sluice_gateway.pace import Phase

_WEIGHT: Final = 0.1
"""Of an observation in a worker's own correction: the last dozen or so count."""
_COMMON_WEIGHT: Final = 0.02
"""The same in what all workers of a class have in common."""
_HALF_LIFE: Final = 60.0
"""Seconds without an observation after which half of a correction is forgotten."""
_COMMON_HALF_LIFE: Final = 1800.0
_MOST: Final = 4.0
"""How far a step may be off: twice the spread of errors, times a device that throttles."""
_FIRST_MOST: Final = 8.0
"""How far a first token may be off, beyond that: what other gateways sent is not seen from here."""
_RATIO_MOST: Final = 4.0
"""No single observation counts for more."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a request asks of a worker, and what is asked of its answer.

    Attributes:
        prompt: Tokens of its prompts, as far as can be told.
        output: Tokens that each of its choices is expected to have.
        output_most: The most that it allows.
        choices: Sequences that it becomes: the choices of all its prompts.
        prompts: How many prompts it has, each of which is computed once.
        batch: It is batch work, however urgent what is left of it is now.
        goal: Its class and objectives.
        ttft: Seconds that are left for its first token.
        finish: The whole answer is due by then, not its first token.
        answers: How long the pool's answers are; None if too few are known.
    """

    prompt: float
    output: float
    goal: Goal
    ttft: float
    output_most: float = math.inf
    choices: int = 1
    finish: bool = False
    answers: Spread | None = None
    prompts: int = 1
    batch: bool = False

    @property
    def prompt_each(self) -> float:
        """Tokens of one of its prompts."""
        return self.prompt / self.prompts


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is predicted of a request on a worker, in seconds.

    Attributes:
        ttft: From now to its first token, waiting for a place there included.
        itl: Between two of its tokens.
        added: By how much each step of the worker's gets longer with it.
        work: What the worker has to compute before its first token, for it alone.
        rest: What the request takes beyond its first sequence: its other prompts, and those of its
            sequences that find no slot beside the others.
    """

    ttft: float
    itl: float
    added: float = 0.0
    work: float = 0.0
    rest: float = 0.0

    def holds(self, need: Need) -> bool:
        """Return whether the request would be inside its objectives."""
        return self.find_due(need) <= need.ttft and self.itl <= need.goal.tpot

    def is_safe(self, need: Need) -> bool:
        """Return whether its objectives hold even if the forecast is well off."""
        spare_due = self.find_due(need) <= _SAFE_DUE * need.ttft
        return spare_due and self.itl <= _SAFE_ITL * need.goal.tpot

    def find_due(self, need: Need) -> float:
        """Return the seconds until what the request waits for: a token, or the whole answer."""
        whole = (need.output - 1) * self.itl + self.rest
        return self.ttft + whole if need.finish else self.ttft

    def find_strain(self, need: Need) -> float:
        """Return how much of its objectives the request would use up: the lower, the safer."""
        due = self.find_due(need) / max(need.ttft, 1e-3)
        return max(due, self.itl / need.goal.tpot) + _SECOND * min(due, self.itl / need.goal.tpot)

    def find_cost(self, need: Need) -> float:
        """Return the seconds of the device that the request takes: the lower, the cheaper."""
        return self.work + need.output * self.added + self.rest


_SAFE_DUE: Final = 0.5
"""A first token may well take twice as long as predicted: others come in between."""
_SAFE_ITL: Final = 0.85
_SECOND: Final = 0.25
"""How much of the lesser strain counts beside the greater one."""


class Work(Protocol):
    """What a forecast needs to know of a request that runs on a worker.

    Attributes:
        need: As it was when it was sent; None if nobody told.
        bid: What was predicted of it then.
    """

    dispatched: float
    phase: Phase
    streaming: bool
    size: int
    need: Need | None
    bid: Forecast | None

    def count_tokens(self) -> tuple[int, int]:
        """Return tokens of prompt and output so far."""


_PLACES: Final = {kind: place for place, kind in enumerate(RequestClass)}
_NONE: Final = (0.0,) * len(_PLACES)


@dataclass(frozen=True, slots=True)
class Load:
    """What runs on a worker, in sums.

    Attributes:
        sequences: All of them.
        decoding: Those that have a token.
        context: Tokens of prompt and output of those.
        pending: Tokens of prompts that are not computed yet and come before one more request, by
            its class: workers take the urgent first.
        place: Likewise, steps until one of the worker's slots is free for it; 0 if one is.
    """

    sequences: int = 0
    decoding: int = 0
    context: float = 0.0
    pending: tuple[float, ...] = _NONE
    place: tuple[float, ...] = _NONE


IDLE: Final = Load()


def count_sequences(one: Work) -> int:
    """Return how many places in a worker's batch a request asks for."""
    return one.need.choices if one.need is not None else 1


def weigh_load(running: Iterable[Work], steps: Steps, *, first_at: float, now: float) -> Load:
    """Return what runs on a worker.

    Args:
        running: Its requests.
        steps: How long its steps take.
        first_at: When one of its requests last had a first token; `-inf` if none had.
        now: The present.
    """
    sequences = decoding = 0
    context = 0.0
    begun: list[tuple[Need | None, float, int]] = []
    queue: list[_Queued] = []
    for one in running:
        need = one.need
        choices = count_sequences(one)
        prompt = need.prompt if need is not None else one.size / 4
        sequences += choices
        given = _count_given(one, now) / choices
        if given > 0 or one.phase is not Phase.FIRST:
            decoding += choices
            each = need.prompt_each if need is not None else prompt
            context += choices * (each + given)
            begun.append((need, given, choices))
        else:
            kind = need.goal.kind if need is not None else RequestClass.STANDARD
            queue.append(_Queued(_PLACES[kind], one.dispatched, prompt, need, choices))
    queue.sort(key=lambda entry: (entry.place, entry.dispatched))
    done = 0.0
    if queue and decoding < steps.slots:
        oldest = queue[0]
        step = steps.find_time(decoding + 1, context, mixed=True)
        done = (now - max(oldest.dispatched, first_at)) / step * steps.chunk if step > 0 else 0.0
        done = min(max(0.0, done), max(0.0, oldest.prompt - 1))
    pending, place = [], []
    for urgency in _PLACES.values():
        before = [entry for entry in queue if entry.place <= urgency]
        pending.append(sum(entry.prompt for entry in before) - (done if before else 0.0))
        place.append(0.0)
    if sequences >= steps.slots:  # else a slot is free, whatever the others still have to give
        left = [each for need, given, n in begun for each in [list_left(need, given)] * n]
        place = _find_places(queue, left, decoding, steps)
    return Load(sequences, decoding, context, tuple(pending), tuple(place))


def _find_places(
    queue: Sequence["_Queued"], left: list[Sequence[float]], decoding: int, steps: Steps
) -> list[float]:
    """Return the steps until a slot is free, for a request of each class.

    Args:
        queue: Requests without a token, the most urgent first.
        left: What each sequence that decodes may still have to give, each equally likely.
        decoding: How many these are.
        steps: How long the worker's steps take.
    """
    # Who came first has a slot already, and keeps it; what is urgent only passes those without.
    free = max(0, steps.slots - decoding)
    surplus = [sum(each) / len(each) for each in left[steps.slots :]]  # of requests that are begun
    del left[steps.slots :]
    unplaced: list[tuple[int, float, int]] = []
    for entry in sorted(queue, key=lambda entry: entry.dispatched):
        held = min(free, entry.choices)
        free -= held
        computing = entry.prompt / steps.chunk
        if held:
            left += [[computing + t for t in list_left(entry.need, 0.0)]] * held
        if held < entry.choices:
            steps_each = computing + expect_left(entry.need, 0.0)
            unplaced.append((entry.place, steps_each, entry.choices - held))
    place = []
    for urgency in _PLACES.values():
        ahead = [each for at, each, count in unplaced if at <= urgency for _ in range(count)]
        place.append(_find_place(left, surplus + ahead, steps.slots))
    return place


class _Queued(NamedTuple):
    """A request without a token: the place of its class, and what it is as in `Work` and `Need`."""

    place: int
    dispatched: float
    prompt: float
    need: Need | None
    choices: int


def predict(
    load: Load,
    need: Need,
    steps: Steps,
    *,
    step_error: float = 1.0,
    first_error: float = 1.0,
    cached: float = 0.0,
) -> Forecast:
    """Predict a request on a worker.

    Args:
        load: What runs there.
        need: The request.
        steps: How long steps take there.
        step_error: How many times as long they were found to take.
        first_error: The same for first tokens, beyond that.
        cached: Tokens of the prompt that the worker need not compute again.
    """
    busy = min(load.sequences, steps.slots)
    together = min(load.sequences + need.choices, steps.slots)
    own = min(need.choices, steps.slots)  # of its own that run at once
    context = load.context + own * (need.prompt_each + need.output / 2)
    rounds = math.ceil(max(1.0, need.prompt_each - cached) / steps.chunk)
    plain = step_error * steps.find_time(together, context, mixed=False)
    mixed = step_error * steps.find_time(together, context, mixed=True)
    # Prompts like this one take turns with all of the batch: so many steps compute one of them.
    turns = math.ceil(need.prompt_each / steps.chunk)
    mixture = min(1.0, together * turns / max(1.0, need.output))
    itl = plain + mixture * (mixed - plain)
    kind = _PLACES[need.goal.kind]
    begin = math.ceil(load.pending[kind] / steps.chunk) * mixed + (mixed / 2 if busy else 0.0)
    begin = max(begin, load.place[kind] * itl)
    alone = step_error * steps.find_time(busy, load.context, mixed=False)
    work = rounds * mixed
    others = math.ceil((need.prompt - need.prompt_each) / steps.chunk) * mixed
    turns_after = math.ceil(need.choices / steps.slots) - 1
    return Forecast(
        ttft=first_error * (begin + work),
        itl=itl,
        added=max(0.0, plain - alone),
        work=work,
        rest=others + turns_after * need.output * itl,
    )


def _count_given(one: Work, now: float) -> float:
    """Return the tokens that came, or may be thought to have come of an answer in one piece."""
    if one.streaming or one.bid is None:
        return one.count_tokens()[1]
    since = now - one.dispatched - one.bid.ttft
    return max(0.0, since / one.bid.itl) if one.bid.itl > 0 else 0.0


def expect_left(need: Need | None, given: float) -> float:
    """Return the tokens that a choice still lacks: one longer than expected lacks some, too."""
    if need is None:
        return 1.0
    if need.answers is not None:
        return need.answers.expect_left(given, need.output_most)
    return max(1.0, min(need.output_most - given, max(need.output - given, need.output / 4)))


def list_left(need: Need | None, given: float) -> Sequence[float]:
    """Return the tokens that a choice may still lack, each equally likely."""
    if need is None or need.answers is None:
        return (expect_left(need, given),)
    return need.answers.list_left(given, need.output_most)


def _find_place(left: Sequence[Sequence[float]], ahead: Sequence[float], slots: int) -> float:
    """Return the steps until a slot is free for one more sequence.

    Args:
        left: Of each sequence with a slot the steps that it may take, each equally likely.
        ahead: Steps that those without one will take, who come first. If they are more than all
            that have one, some of them must have ended, too.
        slots: Sequences that run at once.
    """
    if len(left) + len(ahead) < slots or not left:
        return 0.0
    rounds, ends = divmod(len(ahead), len(left))
    mean = sum(ahead) / len(ahead) if rounds else 0.0
    return rounds * mean + find_end(left, ends + 1)


@dataclass(slots=True)
class Correction:
    """A factor that is learnt by observation, bounded, and forgotten without.

    Attributes:
        weight: Of one observation.
        half_life: Seconds in which half of it is forgotten.
        most: It lies between this and its inverse.
    """

    weight: float = _WEIGHT
    half_life: float = _HALF_LIFE
    most: float = _MOST
    _log: float = 0.0
    _at: float = -math.inf

    def read(self, now: float) -> float:
        """Return the factor."""
        return math.exp(self._fade(now))

    def learn(self, ratio: float, now: float) -> None:
        """Take in by how much the observed was longer than the predicted, correction included."""
        bound = math.log(self.most)
        step = math.log(min(_RATIO_MOST, max(1 / _RATIO_MOST, ratio)))
        self._log = min(bound, max(-bound, self._fade(now) + self.weight * step))
        self._at = now

    def _fade(self, now: float) -> float:
        return self._log * 0.5 ** ((now - self._at) / self.half_life) if self._log else 0.0


@dataclass(slots=True)
class Errors:
    """How far off predictions are: of steps, and of first tokens beyond that."""

    step: Correction = field(default_factory=Correction)
    first: Correction = field(default_factory=lambda: Correction(most=_FIRST_MOST))

    @classmethod
    def of_class(cls) -> "Errors":
        """Return those that a class's workers have in common: slowly learnt and forgotten."""
        return cls(
            Correction(_COMMON_WEIGHT, _COMMON_HALF_LIFE, _MOST),
            Correction(_COMMON_WEIGHT, _COMMON_HALF_LIFE, _FIRST_MOST),
        )
