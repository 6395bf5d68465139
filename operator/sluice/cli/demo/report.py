"""What was measured, as a document and as text; both say that the devices are emulated."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sluice.cli.demo.fleet import Fleet
from sluice.cli.demo.load import Load, Outcome
from sluice.cli.demo.reference import find_different, measure_accuracy
from sluice.cli.demo.story import Corruption, Kill, Story
from sluice.cli.demo.survival import tell_survival

NOTICE = "emulated devices, Maia constants assumed: no hardware measurement"
OVERRUN_LIMIT = 0.05


def find_last_request(log: Iterable[str], kill: Kill) -> float | None:
    """Return seconds from a kill to the last request that the gateway sent to the dead workers.

    Args:
        log: lines of the gateway's log; those of requests name each attempt's time and pod.
        kill: which workers, and when they died.

    Returns:
        0 when none was sent after the kill; None when the log holds no request at all.
    """
    latest, any_request = 0.0, False
    for line in log:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        for attempt in entry.get("attempts") or ():
            any_request = True
            if attempt.get("pod") in kill.workers:
                latest = max(latest, float(attempt.get("dispatched_at", 0.0)) - kill.at)
    return round(latest, 2) if any_request else None


def describe_run(
    story: Story, load: Load, fleet: Fleet, numerics: Mapping[str, str], gateway_log: list[str]
) -> dict[str, Any]:
    """Return the document that --json writes; `numerics` is what each class computes in."""
    outcomes = load.outcomes
    ended = [one for one in outcomes if one.ended is not None]
    ttfts = sorted(one.ttft for one in ended if one.ttft is not None)
    caught = [one for one in ended if one.wrong and _is_before_catch(one, story.corruptions)]
    return {
        "notice": NOTICE,
        "kills": [kill.node for kill in story.kills],
        "detection_s": [_round(kill.detection_s) for kill in story.kills],
        "last_request_to_dead_node_s": [find_last_request(gateway_log, k) for k in story.kills],
        "replacement_wanted_s": [_round(kill.replacement_wanted_s) for kill in story.kills],
        "replacement_ready_s": [_round(kill.replacement_ready_s) for kill in story.kills],
        "returned_s": [_round(kill.returned_s) for kill in story.kills],
        "requests": len(outcomes),
        "failed": sum(bool(one.error) for one in ended),
        "failed_before_first_token": sum(
            bool(one.error) and not one.text and not one.shed for one in ended
        ),
        "shed": sum(one.shed for one in ended),
        "wrong_answers": sum(one.wrong for one in ended) - len(caught),
        "unjudged_answers": sum(one.unjudged for one in ended),
        "numerics": dict(numerics),
        "answered_differently_by_class": len(find_different(load.references)),
        "corruptions": [
            {
                "node": one.node,
                "rate": one.rate,
                "caught_s": _round(one.caught_s),
                "returned_s": _round(one.returned_s),
                "cause": one.cause,
            }
            for one in story.corruptions
        ],
        "wrong_answers_before_catch": len(caught),
        "ramp_steps": story.steps,
        "unfinished": len(outcomes) - len(ended),
        "by_class": {
            name: sum(one.accelerator == name for one in ended)
            for name in sorted({one.accelerator for one in ended if one.accelerator})
        },
        "ttft_p50_s": _round(_quantile(ttfts, 0.5)),
        "ttft_p95_s": _round(_quantile(ttfts, 0.95)),
        "model_accuracy": {
            name: round(measure_accuracy(each, load.questions), 3)
            for name, each in load.references.items()
        },
        "overrun_share": round(fleet.overrun_share(), 4),
        "valid": fleet.overrun_share() <= OVERRUN_LIMIT,
        "spilled": story.spilled,
        "fell_back": story.fell_back,
        "returned": story.returned,
        "errors": sorted({one.error for one in ended if one.error})[:5],
    }


def _is_before_catch(outcome: Outcome, corruptions: Sequence[Corruption]) -> bool:
    """Tell whether an answer may have come from a device that computed wrongly, not caught yet.

    A stream that began before the catch may end after it.
    """
    return any(
        (outcome.ended or 0.0) >= one.at
        and (one.caught_s is None or outcome.sent <= one.at + one.caught_s)
        for one in corruptions
    )


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _quantile(values: Sequence[float], quantile: float) -> float | None:
    return values[min(len(values) - 1, int(quantile * len(values)))] if values else None


def format_report(found: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"What was measured ({found['notice']})", ""]
    for index, node in enumerate(found["kills"]):
        lines.append(f"  {node} killed under load")
        lines += [
            f"    {label:36}{_seconds(found[key][index])}"
            for label, key in (
                ("detected and tainted after", "detection_s"),
                ("last request sent to it after", "last_request_to_dead_node_s"),
                ("GPU replacement wanted after", "replacement_wanted_s"),
                ("GPU replacement serving after", "replacement_ready_s"),
                ("back on Maia after", "returned_s"),
            )
        ]
    if "survival" in found:
        lines.append(f"  {tell_survival(found['survival'])}")
    for one in found["corruptions"]:
        lines.append(f"  {one['node']} computed one value in {1 / one['rate']:.0f} wrongly")
        lines.append(f"    {'caught by known answers after':36}{_seconds(one['caught_s'])}")
        lines.append(f"    {'proven again and back after':36}{_seconds(one['returned_s'])}")
    share = 100 * found["overrun_share"]
    accuracy = ", ".join(
        f"{100 * each:.0f} % on {n}" for n, each in found["model_accuracy"].items()
    )
    numerics = ", ".join(f"{name} in {its}" for name, its in found["numerics"].items())
    early = found["failed_before_first_token"]
    cut = found["failed"] - early - found["shed"]
    text = f"""\
  requests {found["requests"]}; wrong answers {found["wrong_answers"]}, and \
{found["wrong_answers_before_catch"]} until the corruption was caught
  each held against the undisturbed answer of its class ({numerics}); \
{found["answered_differently_by_class"]} questions are answered differently by two classes
  failed before their first token {early}; shed with 429 {found["shed"]}; streams cut {cut}
  the share of the workers that came back climbed by {", ".join(found["ramp_steps"])}
  by class {found["by_class"]}
  TTFT p50 {found["ttft_p50_s"]} s, p95 {found["ttft_p95_s"]} s
  the compact model itself answers right: {accuracy}
  steps overrun by computing {share:.1f} % (above {100 * OVERRUN_LIMIT:.0f} % a run is invalid)
  spilled {found["spilled"]}, fell back {found["fell_back"]}, returned {found["returned"]}"""
    lines.append(text)
    lines += [f"  error: {error}" for error in found["errors"]]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "not seen" if value is None else f"{value:.1f} s"
