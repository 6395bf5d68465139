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
    def variant(self) -> str:
        """Accelerator class of the worker."""

    @property
    def inflight(self) -> int:
        """Requests that this gateway has running on it."""


WorkerT = TypeVar("WorkerT", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Ranking(Generic[WorkerT]):
    """Workers, best first, and why the first one is first.

    Attributes:
        workers: Every candidate that was not excluded; empty when there is none.
        by_share: The first worker's variant was chosen by the shares, so it counts towards them.
    """

    workers: Sequence[WorkerT]
    reason: str
    by_share: bool


def find_effective_shares(
    shares: Mapping[str, float], workers: Collection[Candidate]
) -> dict[str, float]:
    """Return the shares of the variants that have a usable worker, adding up to 1.

    Empty when nothing is decided, or when no variant with a share can serve.
    """
    present = {worker.variant for worker in workers}
    able = {name: share for name, share in shares.items() if share > 0 and name in present}
    total = sum(able.values())
    return {name: share / total for name, share in able.items()}


def rank_workers(
    workers: Sequence[WorkerT],
    *,
    variants: Sequence[str],
    shares: Mapping[str, float],
    sent: Mapping[str, int],
    excluded: Collection[str] = (),
    tie: float = 0.0,
) -> Ranking[WorkerT]:
    """Rank workers for one request.

    The variant furthest behind its share comes first (deficit = share x (sent + 1) - its own
    dispatches), then the others with a share, then variants without one in the pool's order.
    Within a variant, the worker with the fewest requests in flight comes first.

    Args:
        workers: The pool's usable workers.
        variants: The pool's order of variants.
        shares: Decided fraction of traffic by variant; empty means that all workers are equal.
        sent: Dispatches by variant that count towards the shares.
        excluded: Uids that this request must not use again.
        tie: Number in [0, 1) that decides between equally loaded workers.
    """
    candidates = [worker for worker in workers if worker.uid not in excluded]
    if not candidates:
        return Ranking((), f"none of {len(workers)} usable workers is left to try", by_share=False)
    start = int(tie * len(candidates))
    candidates = candidates[start:] + candidates[:start]
    effective = find_effective_shares(shares, candidates)
    if not effective:
        return _rank_without_shares(candidates, variants, shares)
    total = 1 + sum(sent.get(name, 0) for name in effective)
    deficits = {name: share * total - sent.get(name, 0) for name, share in effective.items()}
    order = sorted(effective, key=lambda name: (-deficits[name], _place(variants, name)))
    places = {name: place for place, name in enumerate(order)}
    rest = len(order)
    candidates.sort(
        key=lambda worker: (
            places.get(worker.variant, rest + _place(variants, worker.variant)),
            worker.inflight,
        )
    )
    first = candidates[0]
    reason = (
        f"{first.variant} has {sent.get(first.variant, 0)} of {total - 1} requests at a share of "
        f"{effective[first.variant]:.0%}; least in flight there: {first.inflight}"
    )
    return Ranking(candidates, reason, by_share=True)


def _rank_without_shares(
    candidates: list[WorkerT], variants: Sequence[str], shares: Mapping[str, float]
) -> Ranking[WorkerT]:
    """Rank when nothing is decided, or when no variant with a share can serve."""
    if shares:
        candidates.sort(key=lambda worker: (_place(variants, worker.variant), worker.inflight))
        first = candidates[0]
        why = f"no variant with a share has a worker; next in order: {first.variant}"
    else:
        candidates.sort(key=lambda worker: worker.inflight)
        first = candidates[0]
        why = f"no shares decided; {len(candidates)} workers"
    reason = f"{why}; least in flight: {first.inflight}"
    return Ranking(candidates, reason, by_share=False)


def _place(variants: Sequence[str], name: str) -> int:
    """Return a variant's place in the pool's order; unknown ones come last."""
    return variants.index(name) if name in variants else len(variants)
