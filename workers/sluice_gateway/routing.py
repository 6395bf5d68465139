"""Chooses the workers for a request: state in, ranked workers and a reason out.

Pure: no clock, no randomness and no I/O, so that the simulator can run the same code. The caller
passes usable workers only; what makes a worker usable is the fleet's business.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


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


@dataclass(frozen=True, slots=True)
class Ranking(Generic[WorkerT]):
    """Workers, best first, and why the first one is first.

    Attributes:
        workers: Every candidate that was not excluded; empty when there is none.
        by_share: The first worker's group was chosen by the shares, so it counts towards them.
    """

    workers: Sequence[WorkerT]
    reason: str
    by_share: bool


def find_effective_shares(
    shares: Mapping[str, float],
    workers: Collection[Candidate],
    capped: Collection[str] = (),
) -> dict[str, float]:
    """Return the shares of the groups that have a usable worker, adding up to 1.

    Capped groups get their share and no more, as long as any other group with a share can serve.
    Empty when nothing is decided, or when no group with a share can serve.
    """
    present = {worker.group for worker in workers}
    able = {name: share for name, share in shares.items() if share > 0 and name in present}
    fixed = {name: share for name, share in able.items() if name in capped}
    free = sum(able.values()) - sum(fixed.values())
    if len(fixed) == len(able) or free <= 0:
        total = sum(able.values())
        return {name: share / total for name, share in able.items()}
    left = max(0.0, 1.0 - sum(fixed.values()))
    # Divided first: 1 / free is infinite for the smallest of shares.
    return {name: fixed.get(name, share / free * left) for name, share in able.items()}


def rank_workers(
    workers: Sequence[WorkerT],
    *,
    order: Sequence[str],
    shares: Mapping[str, float],
    sent: Mapping[str, int],
    capped: Collection[str] = (),
    excluded: Collection[str] = (),
    tie: float = 0.0,
) -> Ranking[WorkerT]:
    """Rank workers for one request.

    The group furthest behind its share comes first (deficit = share x (sent + 1) - its own
    dispatches), then the others with a share, then groups without one in the given order.
    Within a group, the worker with the fewest requests in flight comes first.

    Args:
        workers: The pool's usable workers.
        order: The groups in the order of preference.
        shares: Decided fraction of traffic by group; empty means that all workers are equal.
        sent: Dispatches by group that count towards the shares.
        capped: Groups that get no more than their share while others with one can serve.
        excluded: Uids that this request must not use again.
        tie: Number in [0, 1) that decides between equally loaded workers.
    """
    candidates = [worker for worker in workers if worker.uid not in excluded]
    if not candidates:
        return Ranking((), f"none of {len(workers)} usable workers is left to try", by_share=False)
    start = int(tie * len(candidates))
    candidates = candidates[start:] + candidates[:start]
    effective = find_effective_shares(shares, candidates, capped)
    if not effective:
        return _rank_without_shares(candidates, order, shares)
    total = 1 + sum(sent.get(name, 0) for name in effective)
    deficits = {name: share * total - sent.get(name, 0) for name, share in effective.items()}
    behind = sorted(effective, key=lambda name: (-deficits[name], _place(order, name)))
    places = {name: place for place, name in enumerate(behind)}
    rest = len(behind)
    candidates.sort(
        key=lambda worker: (
            places.get(worker.group, rest + _place(order, worker.group)),
            worker.inflight,
        )
    )
    first = candidates[0]
    reason = (
        f"{first.group} has {sent.get(first.group, 0)} of {total - 1} requests at a share of "
        f"{effective[first.group]:.0%}; least in flight there: {first.inflight}"
    )
    return Ranking(candidates, reason, by_share=True)


def _rank_without_shares(
    candidates: list[WorkerT], order: Sequence[str], shares: Mapping[str, float]
) -> Ranking[WorkerT]:
    """Rank when nothing is decided, or when no group with a share can serve."""
    if shares:
        candidates.sort(key=lambda worker: (_place(order, worker.group), worker.inflight))
        first = candidates[0]
        why = f"no group with a share has a worker; next in order: {first.group}"
    else:
        candidates.sort(key=lambda worker: worker.inflight)
        first = candidates[0]
        why = f"no shares decided; {len(candidates)} workers"
    reason = f"{why}; least in flight: {first.inflight}"
    return Ranking(candidates, reason, by_share=False)


def _place(order: Sequence[str], name: str) -> int:
    """Return a group's place in the order; unknown ones come last."""
    return order.index(name) if name in order else len(order)
