"""What became of requests, counted: the rows of the table on routing quality. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

NOTICE: Final = (
    "Devices are emulated: times are those of a model of Maia 200 and H100, measured on neither."
)
OVERRUN_LIMIT: Final = 0.05
"""Above this share of steps that took longer than the emulated device would, a row says little."""
_REFUSED: Final = 429


@dataclass(frozen=True, slots=True)
class Objective:
    """Seconds to the first token and for each further one."""

    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        status: of the answer; 0 without one.
        ttft: seconds to its first token; None if none came.
        tpot: seconds for each further token; None if the answer is not whole.
    """

    status: int
    ttft: float | None = None
    tpot: float | None = None

    def is_inside(self, objective: Objective) -> bool:
        """Tell whether the whole answer came, and both objectives were kept."""
        if self.ttft is None or self.tpot is None:
            return False
        return self.ttft <= objective.ttft and self.tpot <= objective.tpot


@dataclass(frozen=True, slots=True)
class Figures:
    """A row: shares are of all requests; quantiles (s) of those that were answered.

    Attributes:
        slow_first: share whose first token came too late; refused ones are not in it.
        slow_rest: likewise of the tokens after it.
        lost: answered with another error, or cut off.
        overrun: share of the workers' steps.
    """

    policy: str
    load: float
    seed: int
    requests: int
    inside: float
    refused: float
    slow_first: float
    slow_rest: float
    lost: int
    ttft_p50: float
    ttft_p95: float
    tpot_p95: float
    overrun: float

    def as_json(self) -> dict[str, Any]:
        """Return the row as it is written to a file."""
        return {key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(self).items()}


def find_quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile, NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def count_outcomes(
    outcomes: Sequence[Outcome],
    objective: Objective,
    *,
    policy: str,
    load: float,
    seed: int,
    overrun: float,
) -> Figures:
    """Return the row of one policy at one load."""
    count = len(outcomes)
    firsts = [one.ttft for one in outcomes if one.ttft is not None]
    rests = [one.tpot for one in outcomes if one.tpot is not None]
    refused = sum(one.status == _REFUSED for one in outcomes)
    return Figures(
        policy=policy,
        load=load,
        seed=seed,
        requests=count,
        inside=sum(one.is_inside(objective) for one in outcomes) / count,
        refused=refused / count,
        slow_first=sum(ttft > objective.ttft for ttft in firsts) / count,
        slow_rest=sum(tpot > objective.tpot for tpot in rests) / count,
        lost=count - len(rests) - refused,
        ttft_p50=find_quantile(firsts, 0.5),
        ttft_p95=find_quantile(firsts, 0.95),
        tpot_p95=find_quantile(rests, 0.95),
        overrun=overrun,
    )


HEADER: Final = (
    "| load | seed | policy | requests | inside both | 429 | TTFT missed | TPOT missed | lost |"
    " TTFT p50, p95 | TPOT p95 | overrun |\n" + "|---" * 12 + "|"
)


def render(row: Figures) -> str:
    """Return a row of the table under `HEADER`."""
    invalid = " (too much)" if row.overrun > OVERRUN_LIMIT else ""
    return (
        f"| {row.load:.0%} | {row.seed} | {row.policy} | {row.requests} | {row.inside:.1%} |"
        f" {row.refused:.1%} | {row.slow_first:.1%} | {row.slow_rest:.1%} | {row.lost} |"
        f" {row.ttft_p50:.2f}, {row.ttft_p95:.2f} s | {1e3 * row.tpot_p95:.0f} ms |"
        f" {row.overrun:.2%}{invalid} |"
    )
