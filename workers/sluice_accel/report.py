"""The comparison with published rows as Markdown tables and as a document for programs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sluice_accel.published import LOAD_SOURCE, Measure
from sluice_accel.validation import (
    BY_GPU,
    BY_SHAPE,
    BY_SIZE,
    IN_FIT,
    YARDSTICKS,
    Errors,
    Validation,
)

NOTICE = "emulated devices: computed from a model, no hardware was measured"
_SPLITS = (IN_FIT, BY_GPU, BY_SHAPE, BY_SIZE)


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table, and an empty one."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def render_validation(found: Validation) -> str:
    """Return all tables as text, for people; errors are predicted less published, as shares."""
    lines = [f"({NOTICE})", ""]
    lines += ["### Yardstick", "", *_render_yardsticks(found)]
    lines += ["### Errors by group", "", "Mean size of the error (mean error; largest).", ""]
    lines += _render_groups(found)
    lines += ["### Constants of each fit", "", *_render_folds(found)]
    lines += ["### Every row", "", *_render_rows(found)]
    lines += ["### Latency under load", "", f"{LOAD_SOURCE}. No row of it, and no other of a 70B"]
    lines += ["model, was in the fit. Published → predicted.", "", *_render_loads(found)]
    return "\n".join(lines)


def _render_yardsticks(found: Validation) -> Iterator[str]:
    rows = []
    for group, split, most in YARDSTICKS:
        errors = found.judge(group, split)
        if errors is not None:
            kept = "kept" if errors.mean <= most else "missed"
            rows.append((group, split, str(errors.rows), f"{errors.mean:.1%}", f"{most:.0%}", kept))
    yield from format_table(("Rows", "Fit", "Count", "Mean error", "At most", ""), rows)


def _render_groups(found: Validation) -> Iterator[str]:
    rows = []
    for group in found.list_groups():
        judged = [found.judge(group, split) for split in _SPLITS]
        rows.append((group, *[_format_errors(errors) for errors in judged]))
    yield from format_table(("Rows", *_SPLITS), rows)


def _format_errors(errors: Errors | None) -> str:
    if errors is None:
        return "–"
    return f"{errors.mean:.1%} ({errors.bias:+.1%}; {errors.worst:+.0%})"


def _render_folds(found: Validation) -> Iterator[str]:
    rows = [
        (
            fold.left_out or "nothing",
            f"{fold.constants['bandwidth_efficiency']:.3f}",
            f"{fold.constants['compute_efficiency']:.3f}",
            f"{fold.constants['layer_overhead'] * 1e6:.0f} µs",
            f"{fold.constants['sequence_overhead'] * 1e6:.1f} µs",
        )
        for fold in found.folds
    ]
    yield from format_table(("Left out", "η_bw", "η_c", "t_layer", "t_seq"), rows)


def _render_rows(found: Validation) -> Iterator[str]:
    rows = []
    for row, predicted in zip(found.rows, found.predicted, strict=True):
        seconds = row.measure is Measure.FIRST_TOKEN
        value = f"{row.value * 1e3:g} ms" if seconds else f"{row.value:,g} tok/s"
        errors = [
            f"{predicted[split] / row.value - 1:+.0%}" if split in predicted else "–"
            for split in _SPLITS
        ]
        lengths = f"{row.prompt}/{row.output}"
        if row.measure is not Measure.MOST_TOKENS:
            lengths += f", batch {row.sequences}"
        rows.append((row.group, row.measure, lengths, value, *errors))
    yield from format_table(("Group", "Measure", "Prompt/output", "Published", *_SPLITS), rows)


def _render_loads(found: Validation) -> Iterator[str]:
    rows = [
        (
            str(row.clients),
            f"{row.first * 1e3:,.0f} → {load.first * 1e3:,.0f} ms",
            f"{row.between * 1e3:.1f} → {load.between * 1e3:.1f} ms",
            f"{row.rate:.0f} → {load.rate:.0f} tok/s",
        )
        for row, load in found.loads
    ]
    yield from format_table(("Clients", "TTFT", "ITL", "Throughput"), rows)


def dump_validation(found: Validation) -> dict[str, Any]:
    """Return everything that was found, as JSON takes it."""
    return {
        "notice": NOTICE,
        "yardsticks": [
            {"group": group, "fit": split, "mean_error": errors.mean, "at_most": most}
            for group, split, most in YARDSTICKS
            if (errors := found.judge(group, split)) is not None
        ],
        "groups": {
            group: {
                split: asdict(errors)
                for split in _SPLITS
                if (errors := found.judge(group, split)) is not None
            }
            for group in found.list_groups()
        },
        "fits": [
            {"split": each.split, "left_out": each.left_out, "constants": dict(each.constants)}
            for each in found.folds
        ],
        "rows": [
            {**asdict(row), "predicted": dict(predicted)}
            for row, predicted in zip(found.rows, found.predicted, strict=True)
        ],
        "load": [
            {"source": LOAD_SOURCE, "published": asdict(row), "predicted": asdict(load)}
            for row, load in found.loads
        ],
    }
