"""Picks one of several workers by what is predicted of a request on each.

Two drawn at random are compared, with those that may know the prompt. Only when neither leaves the
request's objectives room enough is everybody looked at. Pure: the random number is passed in.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from sluice_gateway.forecast import Forecast, Need
from sluice_gateway.goals import RequestClass


class Candidate(Protocol):
    """What routing needs to know of a usable worker."""

    @property
    def uid(self) -> str:
        """Uid of the worker's pod."""

    @property
    def group(self) -> str:
        """Group of workers that has a share of its own: mostly those of one accelerator class."""

    @property
    def inflight(self) -> int:
        """Requests that this gateway has running on it."""


WorkerT = TypeVar("WorkerT", bound=Candidate)
_CHOICES: Final = 2
"""How many are drawn: two are nearly as good as all, and do not make gateways follow each other
(Mitzenmacher 2001, The Power of Two Choices in Randomized Load Balancing)."""
_EACH: Final = 0.01
"""Of its objectives, what each request that runs on a worker is thought to cost beyond what is
foreseen: of foreign backends that is little."""
_EXPLORE: Final = 16
"""One in so many requests that are in no danger finds out what a worker is like that was slow."""
_FURTHER: Final = 8
"""How many are looked at when two were not enough: a decision stays well below a millisecond."""


class Dice:
    """Numbers drawn one after the other from a single random one, each independent of the others.

    Whoever draws twice with the same number draws the same place twice: of many workers some would
    never be drawn. What one throw leaves of the number decides the next. The 53 bits that it has
    last for all throws of a request among some hundreds of workers.

    Args:
        chance: Random, in [0, 1).
    """

    def __init__(self, chance: float) -> None:
        self._rest = chance

    def throw(self, count: int) -> int:
        """Return a number from 0 on and below `count`, all as likely."""
        place = self._rest * count
        number = min(int(place), count - 1)
        self._rest = place - number
        return number

    def rotate(self, workers: Sequence[WorkerT]) -> list[WorkerT]:
        """Return workers in their order, from any of them on."""
        start = self.throw(len(workers)) if workers else 0
        return [*workers[start:], *workers[:start]]


@dataclass(frozen=True, slots=True)
class Pick(Generic[WorkerT]):
    """The worker that was picked.

    Attributes:
        safe: The request's objectives are held with room to spare, by the forecast.
        near: It is of another group than the one that was due, and counts all the same.
        spilled: It is one that was not asked for, because nobody else would hold.
    """

    worker: WorkerT
    forecast: Forecast
    reason: str
    safe: bool
    near: bool = False
    spilled: bool = False


class Picker(Generic[WorkerT]):
    """Compares workers for one request, each predicted once.

    Attributes:
        looked: The workers that were compared, with what was predicted.
    """

    def __init__(
        self,
        need: Need,
        foresee: Callable[[WorkerT], Forecast],
        *,
        dice: Dice,
        familiar: Collection[str],
    ) -> None:
        self._need = need
        self._foresee = foresee
        self._dice = dice
        self._familiar = familiar
        self._found: dict[str, Forecast] = {}
        self.looked: list[tuple[WorkerT, Forecast]] = []

    def pick(self, due: Sequence[WorkerT], near: Sequence[WorkerT]) -> Pick[WorkerT]:
        """Pick one of those whose turn it is (at least one), or that are near it."""
        drawn = [*self._draw(due), *self._draw(near)]
        best = min(drawn, key=self._rate)
        if self._explores():
            drawn = [one for one in drawn if self._look(one).is_safe(self._need)] or [best]
            best = max(drawn, key=self._rate)
        near_uids = {worker.uid for worker in near}
        return self._conclude(best, of=len(due) + len(near), near=best.uid in near_uids)

    def look_further(
        self, pick: Pick[WorkerT], due: Sequence[WorkerT], others: Sequence[WorkerT]
    ) -> Pick[WorkerT]:
        """Look at all of those that are due, then at the others: one of them may hold.

        If nobody does, it stays where it was due.
        """
        due, others = self._sample(due), self._sample(others)
        best = min(due, key=self._rate)
        if self._look(best).holds(self._need) or not others:
            better = pick.near and self._rate(pick.worker) <= self._rate(best)
            return pick if better else self._conclude(best, of=len(due))
        spill = min(others, key=self._rate)
        if self._look(spill).holds(self._need):
            return self._conclude(spill, of=len(due) + len(others), spilled=True)
        return pick if pick.near else self._conclude(best, of=len(due))

    def _explores(self) -> bool:
        """Return whether the worse one is taken if it is safe, too: to see if it still is worse."""
        return self._dice.throw(_EXPLORE) == _EXPLORE - 1

    def _draw(self, workers: Sequence[WorkerT]) -> list[WorkerT]:
        """Draw two, and add those that may know the prompt."""
        if len(workers) < _CHOICES:
            return list(workers)
        first = self._dice.throw(len(workers))
        other = first + 1 + self._dice.throw(len(workers) - 1)
        drawn = [workers[first], workers[other % len(workers)]]
        if self._familiar:
            drawn += [one for one in workers if one.uid in self._familiar and one not in drawn]
        return drawn

    def _look(self, worker: WorkerT) -> Forecast:
        forecast = self._found.get(worker.uid)
        if forecast is None:
            forecast = self._found[worker.uid] = self._foresee(worker)
            self.looked.append((worker, forecast))
        return forecast

    def _rate(self, worker: WorkerT) -> tuple[bool, float]:
        """Return what puts workers in order: who holds comes first, then who suits the class."""
        forecast = self._look(worker)
        holds = forecast.holds(self._need)
        if holds and self._need.goal.kind is RequestClass.BATCH:
            return False, forecast.find_cost(self._need)
        return not holds, forecast.find_strain(self._need) + _EACH * worker.inflight

    def _conclude(
        self, worker: WorkerT, *, of: int, near: bool = False, spilled: bool = False
    ) -> Pick[WorkerT]:
        forecast = self._look(worker)
        reason = (
            f"best of {len(self.looked)} looked at of {of}: first token in {forecast.ttft:.3g} s, "
            f"then {1000 * forecast.itl:.3g} ms a token"
        )
        safe = forecast.is_safe(self._need)
        return Pick(worker, forecast, reason, safe=safe, near=near, spilled=spilled)

    def _sample(self, workers: Sequence[WorkerT]) -> Sequence[WorkerT]:
        """Return those to look at, one after the other from a place that chance names.

        Of equal ones the first is taken: it must not always be the same.
        """
        rotated = self._dice.rotate(workers)
        if len(workers) <= _FURTHER:
            return rotated
        known = [worker for worker in rotated if worker.uid in self._found]
        return [*known, *rotated[:_FURTHER]]
