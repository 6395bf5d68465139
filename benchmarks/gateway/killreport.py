"""What became of the streams that were struck at, counted against their reference. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from killstreams import Told
from reference import Reference

ENOUGH_TOKENS = 10
"""A strike counts if one of the streams that it hits had so many."""


@dataclass(frozen=True)
class Strike:
    """One harm: when (seconds since the epoch), and to which workers."""

    at: float
    workers: frozenset[str]


def count_hits(
    strike: Strike, told: Mapping[int, Told], requests: Mapping[str, Mapping[str, Any]]
) -> tuple[int, int]:
    """Return how many streams a strike hit, and how many of them had `ENOUGH_TOKENS`.

    Args:
        strike: The harm.
        told: What clients were told, by number.
        requests: The gateways' lines of them, which say where each was at what time.
    """
    hit = [
        one
        for number, one in told.items()
        if _find_worker(requests.get(f"stream-{number}"), strike.at) in strike.workers
    ]
    return len(hit), sum(sum(at <= strike.at for at in one.at) >= ENOUGH_TOKENS for one in hit)


def _find_worker(entry: Mapping[str, Any] | None, at: float) -> str:
    """Return the worker that a request was on at a time; nothing if on none."""
    if entry is None or entry["arrived_at"] + entry["duration"] < at:
        return ""
    on = [one["pod"] for one in entry["attempts"] if one["dispatched_at"] <= at]
    return on[-1] if on else ""


def judge_stream(
    told: Told, references: Mapping[str, Reference], number: int
) -> tuple[str, int | None]:
    """Return what became of a stream, and at which token it left its reference.

    `lost`; `equal`; `marked` if it said that it went on approximately, and did otherwise than its
    reference; `wrong` if it is otherwise and said nothing.
    """
    text, tokens = references[told.variant][number] if told.variant in references else ("", [])
    if not told.is_whole or not tokens:
        return "lost", None
    if (told.text, told.tokens) == (text, tokens):
        return "equal", None
    pairs = zip(told.tokens, tokens, strict=False)
    place = next(
        (at for at, (a, b) in enumerate(pairs) if a != b), min(len(told.tokens), len(tokens))
    )
    complete = len(told.tokens) == len(tokens) and told.usages[0]["completion_tokens"] == len(
        tokens
    )
    marked = told.mark == {"continuation": "approximate"} and complete
    return ("marked" if marked else "wrong"), place


def summarise(
    told: Mapping[int, Told],
    references: Mapping[str, Reference],
    strikes: Sequence[Strike],
    requests: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return one row of numbers."""
    judged = {number: judge_stream(one, references, number) for number, one in told.items()}
    verdicts = Counter(verdict for verdict, _ in judged.values())
    places = sorted(place for verdict, place in judged.values() if verdict == "marked" and place)
    moves = {
        number: requests.get(f"stream-{number}", {}).get("continuations", 0) for number in told
    }
    moved = [told[number] for number, count in moves.items() if count]
    pauses = sorted(one.pause for one in moved)
    causes = Counter(
        attempt["goes_on_after"]
        for entry in requests.values()
        for attempt in entry["attempts"]
        if attempt.get("goes_on_after")
    )
    hits = [count_hits(strike, told, requests) for strike in strikes]
    return {
        "streams": len(told),
        "lost": verdicts["lost"],
        "equal": verdicts["equal"],
        "marked and different": verdicts["marked"],
        "wrong": verdicts["wrong"],
        "said to be approximate": sum(bool(one.mark) for one in told.values()),
        "first differing token (least, median, most)": _spread(places),
        "strikes": len(strikes),
        "strikes that hit a stream with 10 tokens": sum(enough > 0 for _, enough in hits),
        "streams hit": sum(hit for hit, _ in hits),
        "streams that went on elsewhere": len(moved),
        "moves": sum(moves.values()),
        "most moves of one stream": max(moves.values(), default=0),
        "moves by cause": dict(causes),
        "longest pause of those (p50, p99, most), s": _quantiles(pauses),
        "errors": [f"{number}: {one.error}" for number, one in told.items() if one.error][:20],
        "wrong ones": [number for number, (verdict, _) in judged.items() if verdict == "wrong"][
            :20
        ],
    }


def has_failed(row: Mapping[str, Any]) -> bool:
    """Return whether a stream was lost or wrong, or there were hardly any strikes."""
    enough = row["strikes that hit a stream with 10 tokens"] >= 0.9 * row["strikes"] > 0
    return bool(row["lost"] or row["wrong"] or not enough)


def _spread(places: Sequence[int]) -> str:
    return f"{places[0]}, {places[len(places) // 2]}, {places[-1]}" if places else "-"


def _quantiles(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle, high = values[len(values) // 2], values[min(len(values) - 1, int(len(values) * 0.99))]
    return f"{middle:.2f}, {high:.2f}, {values[-1]:.2f}"
