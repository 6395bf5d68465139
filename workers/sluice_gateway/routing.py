"""Chooses the workers for a request: state in, ranked workers and a reason out.

Pure: no clock, no randomness and no I/O, so that the simulator can run the same code. The caller
passes usable workers only, and says which groups have healthy ones, busy or not: a group that is
full keeps its share. What makes a worker healthy or usable is the fleet's business.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar


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


_EXACT: Final = 1e-9
"""Deficits below are errors of rounding: 0.1 x 30 - 3 is above 0."""
WorkerT = TypeVar("WorkerT", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Rules:
    """By what a pool's traffic is shared now.

    Attributes:
        shares: Effective fraction by group, adding up to 1; empty when nothing is decided, or when
            no group with a share can serve.
        bound: Groups that get their share and no more, however full the others are.
        decided: Shares were decided, whoever can serve.
    """

    shares: Mapping[str, float]
    bound: frozenset[str] = frozenset()
    decided: bool = False


@dataclass(frozen=True, slots=True)
class Ranking(Generic[WorkerT]):
    """Workers, best first, and why the first one is first.

    Attributes:
        workers: Every candidate that was neither excluded nor left out because its group is bound
            and has its share; empty when there is none.
        counts: The dispatch counts towards the shares: the first worker's group was the furthest
            behind, or is bound.
        bound: Groups that get their share and no more.
    """

    workers: Sequence[WorkerT]
    reason: str
    counts: bool
    bound: Collection[str] = ()


def find_rules(
    shares: Mapping[str, float],
    *,
    healthy: Collection[str],
    usable: Collection[str],
    capped: Collection[str] = (),
) -> Rules:
    """Return by what to share the traffic.

    Args:
        shares: Decided fraction of traffic by group; empty means that all workers are equal.
        healthy: Groups with a healthy worker, busy or not.
        usable: Groups with a worker that can take a request now: a doubted one on trial, too.
        capped: Groups that get no more than their share while another with one has a healthy
            worker.
    """
    settled = any(shares.get(name, 0.0) > 0 and name not in capped for name in healthy)
    return Rules(
        shares=find_effective_shares(shares, {*healthy, *usable}, capped),
        bound=frozenset(capped) if settled else frozenset(),
        decided=bool(shares),
    )


def find_effective_shares(
    shares: Mapping[str, float], able: Collection[str], capped: Collection[str] = ()
) -> dict[str, float]:
    """Return the shares of the groups that are able to serve, adding up to 1.

    Capped groups get their share and no more, as long as any other group with a share can serve.
    Empty when nothing is decided, or when no group with a share can serve.
    """
    able_shares = {name: share for name, share in shares.items() if share > 0 and name in able}
    fixed = {name: share for name, share in able_shares.items() if name in capped}
    total = sum(able_shares.values())
    free = total - sum(fixed.values())
    if len(fixed) == len(able_shares) or free <= 0:
        return {name: share / total for name, share in able_shares.items()}
    left = max(0.0, 1.0 - sum(fixed.values()))
    # Divided first: 1 / free is infinite for the smallest of shares.
    return {name: fixed.get(name, share / free * left) for name, share in able_shares.items()}


def rank_workers(
    workers: Sequence[WorkerT],
    *,
    order: Sequence[str],
    rules: Rules,
    sent: Mapping[str, int],
    excluded: Collection[str] = (),
    tie: float = 0.0,
) -> Ranking[WorkerT]:
    """Rank workers for one request.

    The group furthest behind its share comes first (deficit = share x (sent + 1) - its own
    dispatches), then the others with a share, then groups without one in the given order. Bound
    groups that are not behind are left out.
    Within a group, the worker with the fewest requests in flight comes first.

    Args:
        workers: The pool's usable workers.
        order: The groups in the order of preference.
        rules: By what the traffic is shared.
        sent: Dispatches by group that count towards the shares.
        excluded: Uids that this request must not use again.
        tie: Number in [0, 1) that decides between equally loaded workers.
    """
    left = [worker for worker in workers if worker.uid not in excluded]
    standing = _Standing(rules, sent, order)
    candidates = [worker for worker in left if standing.admits(worker.group)]
    if not candidates:
        why = f"none of {len(workers)} usable workers is left to try"
        if left:
            groups = sorted({worker.group for worker in left})
            why += f": {'; '.join(map(standing.describe, groups))}, and no more"
        return Ranking((), why, counts=False, bound=rules.bound)
    start = int(tie * len(candidates))
    candidates = candidates[start:] + candidates[:start]
    if not rules.shares:
        return _rank_without_shares(candidates, order, rules)
    candidates.sort(key=lambda worker: (standing.find_place(worker.group), worker.inflight))
    first, due = candidates[0], standing.behind[0]
    reason = f"{standing.describe(first.group)}; least in flight there: {first.inflight}"
    if first.group != due:
        reason = f"nobody is free where it was due: {standing.describe(due)}; {reason}"
    counts = first.group == due or first.group in rules.bound
    return Ranking(candidates, reason, counts=counts, bound=rules.bound)


class _Standing:
    """Where the groups stand by their shares.

    Attributes:
        behind: Groups with a share, the one furthest behind first.
    """

    def __init__(self, rules: Rules, sent: Mapping[str, int], order: Sequence[str]) -> None:
        self._rules = rules
        self._sent = sent
        self._order = order
        self._total = sum(sent.get(name, 0) for name in rules.shares)
        self._deficits = {
            name: share * (self._total + 1) - sent.get(name, 0)
            for name, share in rules.shares.items()
        }
        self.behind = sorted(
            self._deficits, key=lambda name: (-self._deficits[name], _place(order, name))
        )
        self._places = {name: place for place, name in enumerate(self.behind)}

    def admits(self, group: str) -> bool:
        """Return whether a group may get a request: any may, but for bound ones not behind."""
        return group not in self._rules.bound or self._deficits.get(group, 0.0) > _EXACT

    def find_place(self, group: str) -> int:
        """Return when a group's turn is; those without a share come last."""
        last = len(self.behind) + _place(self._order, group)
        return self._places.get(group, last)

    def describe(self, group: str) -> str:
        """Return a group's standing in numbers."""
        if group not in self._places:
            return f"{group} has no share"
        sent, share = self._sent.get(group, 0), self._rules.shares[group]
        return f"{group} has {sent} of {self._total} requests at a share of {100 * share:.3g}%"


def _rank_without_shares(
    candidates: list[WorkerT], order: Sequence[str], rules: Rules
) -> Ranking[WorkerT]:
    """Rank when nothing is decided, or when no group with a share can serve."""
    if rules.decided:
        candidates.sort(key=lambda worker: (_place(order, worker.group), worker.inflight))
        first = candidates[0]
        why = f"no group with a share has a worker; next in order: {first.group}"
    else:
        candidates.sort(key=lambda worker: worker.inflight)
        first = candidates[0]
        why = f"no shares decided; {len(candidates)} workers"
    reason = f"{why}; least in flight: {first.inflight}"
    return Ranking(candidates, reason, counts=False)


def _place(order: Sequence[str], name: str) -> int:
    """Return a group's place in the order; unknown ones come last."""
    return order.index(name) if name in order else len(order)
