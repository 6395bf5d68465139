"""Remembers why the last requests went where they went; `sluice route explain` asks for it.

Numbers and names only, no text of anybody: what a request asked to be served by, who was compared
for each attempt, what was predicted of it there, and what came of it.
"""

from collections import OrderedDict
from typing import Any

from sluice_gateway.attempts import Attempt, Exchange, find_tpot
from sluice_gateway.forecast import count_sequences


class DecisionLog:
    """The last requests by id; of two with one id, the later.

    Args:
        most: How many are kept, each of a few KiB.
    """

    def __init__(self, *, gateway: str, most: int = 1000) -> None:
        self._gateway = gateway
        self._most = most
        self._records: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def add(self, exchange: Exchange) -> None:
        """Keep a request that has ended."""
        if exchange.goal is None:
            return  # it never got as far as a decision
        self._records[exchange.request_id] = describe_exchange(exchange)
        self._records.move_to_end(exchange.request_id)
        while len(self._records) > self._most:
            self._records.popitem(last=False)

    def find(self, request_id: str) -> dict[str, Any] | None:
        """Return what is known of a request, None if nothing is."""
        record = self._records.get(request_id)
        return None if record is None else {"gateway": self._gateway, **record}


def describe_exchange(exchange: Exchange) -> dict[str, Any]:
    """Return a request's decisions as JSON has them; times in seconds."""
    pool, goal = exchange.pool, exchange.goal
    return {
        "requestId": exchange.request_id,
        "pool": pool.spec.key if pool else None,
        "requestClass": goal.kind if goal else None,
        "objective": {"ttft": goal.ttft, "tpot": goal.tpot, "deadline": goal.strict}
        if goal
        else None,
        "shares": dict(pool.decision.find_group_shares()) if pool else {},
        "arrivedAt": round(exchange.arrived_at, 3),
        "waited": _round(exchange.waited),
        "status": exchange.status,
        "outcome": exchange.outcome,
        "ttft": _round(exchange.ttft),
        "tpot": _round(exchange.tpot),
        "met": exchange.met,
        "attempts": [_describe_attempt(attempt) for attempt in exchange.attempts],
    }


def _describe_attempt(attempt: Attempt) -> dict[str, Any]:
    progress, bid = attempt.progress, attempt.bid
    first_at, last_at = (progress.first_at, progress.last_at) if progress else (None, None)
    tokens = attempt.count_tokens()[1] / count_sequences(attempt)
    return {
        "pod": attempt.worker.pod.name,
        "acceleratorClass": attempt.worker.variant,
        "dispatchedAt": round(attempt.dispatched_at, 3),
        "reason": attempt.reason,
        "outcome": attempt.outcome,
        "goesOnAfter": attempt.cause or None,
        "exact": attempt.exact,
        "spilledFrom": attempt.spilled_from or None,
        "predicted": {"ttft": _round(bid.ttft), "tpot": _round(bid.itl)} if bid else None,
        "real": {
            "ttft": _round(first_at - attempt.dispatched) if first_at is not None else None,
            "tpot": _round(find_tpot(first_at, last_at, tokens)),
        },
        "candidates": [
            {
                "pod": look.pod,
                "acceleratorClass": look.variant,
                "inflight": look.inflight,
                "ttft": _round(look.forecast.ttft),
                "tpot": _round(look.forecast.itl),
            }
            for look in attempt.looked
        ],
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
