"""What the client's outcomes and the gateway's log say, counted. Pure.

Times are seconds since the epoch, unless a name ends in `_s`: those are seconds since something.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sluice.cli.demo.load import REQUEST_SECONDS, Outcome

TTFT_SECONDS = 2.0
TPOT_SECONDS = 0.2
OBJECTIVE = 0.99
"""The sample pool's SLO."""
WINDOW_SECONDS = 15.0
"""Over which attainment is taken, as the operator's signal window on the embedded cluster."""
HUNG_SECONDS = 60.0
"""A request that is neither answered nor refused by then hangs: the gateway itself lets none wait
for a worker for more than 30 s."""


def describe_miss(outcome: Outcome) -> str:
    """Return why a request that has ended missed the SLO, or "" if it met it."""
    if outcome.error:
        return "shed" if outcome.shed else "lost"
    if outcome.ttft is None or outcome.ttft > TTFT_SECONDS:
        return "TTFT"
    if outcome.pieces < 2 or outcome.ended is None or outcome.first is None:  # noqa: PLR2004
        return ""
    slow = (outcome.ended - outcome.first) / (outcome.pieces - 1) > TPOT_SECONDS
    return "TPOT" if slow else ""


def is_inside(outcome: Outcome) -> bool:
    """Tell whether a request that has ended met the SLO; lost and refused ones did not."""
    return not describe_miss(outcome)


def count_misses(outcomes: Iterable[Outcome], since: float, until: float) -> dict[str, int]:
    """Return how many requests that ended in a time missed the SLO, by class and why."""
    return dict(
        Counter(
            f"{one.accelerator or 'none'} {why}"
            for one in outcomes
            if one.ended is not None and since <= one.ended < until
            if (why := describe_miss(one))
        )
    )


def measure_share_inside(
    outcomes: Sequence[Outcome], now: float, *, count_shed: bool = True
) -> float | None:
    """Return the share inside the SLO of the requests that ended in the window before `now`.

    Those that wait for their first token for longer than the SLO allows are misses already. None
    when there was no request. What was refused with 429 is a miss, or left out.
    """
    judged = []
    for one in reversed(outcomes):
        if one.shed and not count_shed:
            continue
        if one.sent < now - WINDOW_SECONDS - REQUEST_SECONDS:
            break
        if one.ended is None:
            if one.first is None and one.sent < now - TTFT_SECONDS:
                judged.append(False)
        elif one.ended > now - WINDOW_SECONDS:
            judged.append(is_inside(one))
    return sum(judged) / len(judged) if judged else None


def is_hung(outcome: Outcome, now: float) -> bool:
    """Tell whether a request was neither answered nor refused in a generous time."""
    late = (outcome.ended or now) - outcome.sent > HUNG_SECONDS
    return late and (outcome.ended is None or bool(outcome.error))


def count_requests(outcomes: Iterable[Outcome], since: float, now: float) -> dict[str, Any]:
    """Return what became of the requests that ended after `since`, or have not ended."""
    mine = [one for one in outcomes if one.ended is None or one.ended >= since]
    hung = [one for one in mine if is_hung(one, now)]
    failed = [one for one in mine if one.error and not one.shed and not is_hung(one, now)]
    return {
        "requests": len(mine),
        "lost_before_first_token": sum(not one.text for one in failed),
        "streams_cut": sum(bool(one.text) for one in failed),
        "shed_429": sum(one.shed for one in mine),
        "hung": len(hung),
        "errors": dict(Counter(one.error[:100] for one in [*failed, *hung])),
    }


def list_attempts(log: Iterable[str]) -> list[dict[str, Any]]:
    """Return the attempts of all requests in the gateway's log, each on one pod."""
    attempts: list[dict[str, Any]] = []
    for line in log:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            attempts += entry.get("attempts") or ()
    return attempts


def find_quantile(values: Sequence[float], quantile: float) -> float | None:
    """Return a quantile of sorted values, None of none."""
    return values[min(len(values) - 1, int(quantile * len(values)))] if values else None
