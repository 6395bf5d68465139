"""Chooses the workers for a request: state in, ranked workers and a reason out.

Pure: no clock, no randomness and no I/O, so that the simulator can run the same code. The caller
passes usable workers only, and says which groups have healthy ones, busy or not: a group that is
full keeps its share. What makes a worker healthy or usable is the fleet's business.

Shares say which group's turn it is. Within it, and between groups whose turn is near, two workers
drawn at random are compared by what is predicted of the request on each (`picking`): several
gateways that know nothing of each other would all send to the one that is best of all.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sluice_gateway.forecast import Forecast, Need
from sluice_gateway.goals import RequestClass
from sluice_gateway.picking import Candidate, Dice, Pick, Picker

_EXACT: Final = 1e-9
"""Deficits below are errors of rounding: 0.1 x 30 - 3 is above 0."""
_SLACK: Final = 0.05
"""Of the counted requests: so far from its turn may be a group that suits a request better."""
_SLACK_LEAST: Final = 1.0
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
            behind, or near enough, or is bound.
        bound: Groups that get their share and no more.
        looked: What was predicted of the workers that were compared.
        spilled_from: The group that would have missed the objective; empty if none had to.
    """

    workers: Sequence[WorkerT]
    reason: str
    counts: bool
    bound: Collection[str] = ()
    looked: Sequence[tuple[WorkerT, Forecast]] = ()
    spilled_from: str = ""


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
    need: Need | None = None,
    foresee: Callable[[WorkerT], Forecast] | None = None,
    familiar: Collection[str] = (),
) -> Ranking[WorkerT]:
    """Rank workers for one request.

    The group furthest behind its share comes first (deficit = share x (sent + 1) - its own
    dispatches), then the others with a share, then groups without one in the given order. Bound
    groups that are not behind are left out. Without predictions, the worker with the fewest
    requests in flight comes first within a group.

    Args:
        workers: The pool's usable workers.
        order: The groups in the order of preference.
        rules: By what the traffic is shared.
        sent: Dispatches by group that count towards the shares.
        excluded: Uids that this request must not use again.
        tie: Number in [0, 1) that decides which workers are compared, and between equal ones.
        need: What the request asks for.
        foresee: Predicts it on a worker; with `need` only.
        familiar: Uids of workers that are compared in any case: they may know the prompt.
    """
    left = [worker for worker in workers if worker.uid not in excluded]
    standing = _Standing(rules, sent, order)
    admitted = {group for group in {w.group for w in left} if standing.admits(group)}
    candidates = [worker for worker in left if worker.group in admitted]
    if not candidates:
        why = f"none of {len(workers)} usable workers is left to try"
        if left:
            groups = sorted({worker.group for worker in left})
            why += f": {'; '.join(map(standing.describe, groups))}, and no more"
        return Ranking((), why, counts=False, bound=rules.bound)
    dice = Dice(tie)
    tiers = _Tiers(candidates, standing, order, rules)
    if need is None or foresee is None:
        return _rank_by_load(candidates, tiers, rules, dice)
    picker = Picker(need, foresee, dice=dice, familiar=familiar)
    pick = _pick_worker(candidates, tiers, picker, need)
    first = pick.worker
    spilled_from = tiers.due if pick.spilled else ""
    return Ranking(
        [first, *(worker for worker in candidates if worker is not first)],
        f"{tiers.describe(first, near=pick.near, spilled=pick.spilled)}; {pick.reason}",
        counts=not pick.spilled and (pick.near or tiers.counts(first)),
        bound=rules.bound,
        looked=picker.looked,
        spilled_from=spilled_from,
    )


def _rank_by_load(
    candidates: Sequence[WorkerT], tiers: "_Tiers", rules: Rules, dice: Dice
) -> Ranking[WorkerT]:
    """Rank workers of which nothing is predicted."""
    ranked = tiers.sort(candidates, dice)
    first = ranked[0]
    least = "least in flight there" if rules.shares else "least in flight"
    return Ranking(
        ranked,
        f"{tiers.describe(first)}; {least}: {first.inflight}",
        counts=tiers.counts(first),
        bound=rules.bound,
    )


def _pick_worker(
    candidates: Sequence[WorkerT], tiers: "_Tiers", picker: Picker[WorkerT], need: Need
) -> Pick[WorkerT]:
    """Pick one of those whose turn it is, else of those whose turn is near, else of all others."""
    places = tiers.places
    turn = min(places.values())
    due = [worker for worker in candidates if places[worker.group] == turn]
    near = [] if need.goal.kind is RequestClass.STANDARD else tiers.list_near(candidates)
    pick = picker.pick(due, near)
    if pick.safe:
        return pick
    others = [
        worker
        for worker in candidates
        if places[worker.group] != turn and worker.group not in tiers.bound
    ]
    return picker.look_further(pick, due, others)


class _Tiers:
    """In which order groups have their turn, for one request.

    Attributes:
        due: The group whose turn it is; empty if no shares are decided.
        places: By group of the candidates, when its turn is; the lowest comes first.
        bound: Groups that get their share and no more, so nothing that others cannot serve.
    """

    def __init__(
        self,
        candidates: "Sequence[Candidate]",
        standing: "_Standing",
        order: Sequence[str],
        rules: Rules,
    ) -> None:
        self._standing = standing
        self._order = order
        self._rules = rules
        self._count = len(candidates)
        self.due = standing.behind[0] if rules.shares else ""
        self.bound = rules.bound
        self.places = {group: self._find_place(group) for group in {c.group for c in candidates}}

    def _find_place(self, group: str) -> int:
        if self._rules.shares:
            return self._standing.find_place(group)
        return _place(self._order, group) if self._rules.decided else 0

    def sort(self, candidates: Sequence[WorkerT], dice: Dice) -> list[WorkerT]:
        """Return candidates by their turn, then by load; who comes first of equal ones is drawn."""
        tiers: dict[int, list[WorkerT]] = {}
        for one in candidates:
            tiers.setdefault(self.places[one.group], []).append(one)
        drawn = (dice.rotate(tiers[place]) for place in sorted(tiers))
        return [one for tier in drawn for one in sorted(tier, key=lambda one: one.inflight)]

    def counts(self, worker: "Candidate") -> bool:
        """Return whether a dispatch to a worker counts towards the shares."""
        if not self._rules.shares:
            return False
        return worker.group == self.due or worker.group in self._rules.bound

    def list_near(self, candidates: Sequence[WorkerT]) -> list[WorkerT]:
        """Return the workers of other groups whose turn is near enough to be taken now."""
        if not self._rules.shares:
            return []
        near = {group for group in self.places if self._standing.is_near(group)}
        return [one for one in candidates if one.group in near]

    def describe(self, first: "Candidate", *, near: bool = False, spilled: bool = False) -> str:
        """Say why a worker's group has its turn."""
        if not self._rules.shares:
            if self._rules.decided:
                return f"no group with a share has a worker; next in order: {first.group}"
            return f"no shares decided; {self._count} workers"
        said = self._standing.describe(first.group)
        if first.group == self.due:
            return said
        why = "it would be late" if spilled else "nobody is free"
        if near:
            why = "its class is served better than"
        return f"{why} where it was due: {self._standing.describe(self.due)}; {said}"


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

    def is_near(self, group: str) -> bool:
        """Return whether a group may be taken instead of the one that is due.

        The shares must still hold: neither gets further from its own than a few requests.
        """
        if group in self._rules.bound or group not in self._deficits or group == self.behind[0]:
            return False
        slack = max(_SLACK_LEAST, _SLACK * (self._total + 1))
        return self._deficits[group] > -slack and self._deficits[self.behind[0]] < slack + 1

    def describe(self, group: str) -> str:
        """Return a group's standing in numbers."""
        if group not in self._places:
            return f"{group} has no share"
        sent, share = self._sent.get(group, 0), self._rules.shares[group]
        return f"{group} has {sent} of {self._total} requests at a share of {100 * share:.3g}%"


def _place(order: Sequence[str], name: str) -> int:
    """Return a group's place in the order; unknown ones come last."""
    return order.index(name) if name in order else len(order)
