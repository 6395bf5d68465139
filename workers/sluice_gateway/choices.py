"""Ranks a pool's workers for a request, and makes the first into a choice.

That choice is what an attempt, the log and `sluice route explain` go by.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sluice_gateway.forecast import Forecast, Need
from sluice_gateway.foresight import Foresight
from sluice_gateway.members import Choice, Look, Pool, Worker
from sluice_gateway.overload import find_allowance
from sluice_gateway.routing import Ranking, find_rules, rank_workers


@dataclass(frozen=True, slots=True)
class Asking:
    """One request that asks for a worker.

    Attributes:
        excluded: Uids that it must not use again.
        tie: Number in [0, 1) that chance gave.
        need: What it asks for; None if nobody told.
        known: Tokens of its prompt that workers may have computed already, by uid.
    """

    excluded: Collection[str]
    tie: float
    need: Need | None
    known: Mapping[str, float]


def rank_pool(
    pool: Pool,
    usable: list[Worker],
    healthy: set[str],
    now: float,
    asking: Asking,
    foresight: Foresight,
) -> Ranking[Worker]:
    """Rank a pool's workers for one request, by the shares that are decided.

    Args:
        pool: Whose workers they are.
        usable: Those that can take one more request now.
        healthy: Groups that have a healthy worker, busy or not.
        now: Monotonic seconds.
        asking: The request.
        foresight: Predicts it on a worker.
    """
    need, known = asking.need, asking.known
    returning = pool.decision.returning.values()
    rules = find_rules(
        pool.decision.find_group_shares(),
        healthy=healthy,
        usable={worker.group for worker in usable},
        capped=returning,
    )

    def foresee(worker: Worker) -> Forecast:
        assert need is not None  # noqa: S101 - nothing is foreseen without
        return foresight.foresee(pool, worker, need, now, cached=known.get(worker.uid, 0.0))

    return rank_workers(
        usable,
        order=(*pool.spec.variants, *returning),
        rules=rules,
        sent=pool.window.read_counts(rules.shares, now),
        excluded=asking.excluded,
        tie=asking.tie,
        need=need,
        foresee=foresee if need is not None else None,
        familiar=known,
    )


def build_choice(
    pool: Pool, ranking: Ranking[Worker], need: Need | None, portion: float
) -> Choice | None:
    """Return the choice of a ranking's first worker, None if it has none.

    Args:
        pool: Whose workers they are.
        ranking: The workers, best first.
        need: What the request asks for; None if nobody told.
        portion: As in `Fleet.choose_worker`.
    """
    if not ranking.workers:
        return None
    worker = ranking.workers[0]
    bid = next((found for one, found in ranking.looked if one is worker), None)
    return Choice(
        pool,
        worker,
        ranking.reason,
        need=need,
        bid=bid,
        looked=tuple(
            Look(one.pod.name, one.variant, one.inflight, found) for one, found in ranking.looked
        ),
        spilled_from=ranking.spilled_from,
        late=_find_lateness(ranking, need, bid, portion),
    )


def count_places(ranking: Ranking[Worker], most: int, batch_most: int) -> tuple[int, int]:
    """Return how many requests could be sent now, and how many of batch work among those.

    What is sent may change it. Of a group that gets no more than its share only the next request
    is sure.

    Args:
        ranking: Who could take one.
        most: Sequences on one worker.
        batch_most: The same, of batch work.
    """
    bound: dict[str, int] = {}
    places = batch = 0
    for worker in ranking.workers:
        room = max(0, batch_most - worker.batch)
        if worker.group in ranking.bound:
            bound[worker.group] = max(bound.get(worker.group, 0), min(1, room))
            continue
        free = 1 if worker.health.doubted else most - worker.sequences
        places += free
        batch += min(free, room)
    return places + len(bound), batch + sum(bound.values())


def _find_lateness(
    ranking: Ranking[Worker], need: Need | None, bid: Forecast | None, portion: float
) -> float:
    """Return by how many seconds a request would be later than it may be; 0 if nobody can tell.

    Of foreign backends too little is known to refuse what they would have to do; and while somebody
    has nothing to do, there is not too much, however long it takes.
    """
    if not portion or need is None or bid is None or ranking.workers[0].steps is None:
        return 0.0
    late = bid.find_due(need) - find_allowance(need, bid, portion)
    return late if late > 0 and all(one.inflight for one in ranking.workers) else 0.0
