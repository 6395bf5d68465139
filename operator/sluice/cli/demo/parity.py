"""Parity of the demo's classes: measured and told, and never a reason for the demo to fail.

Its bounds say something about a model that has learnt its tasks; whether the committed one keeps
them is a matter of the model, and not of what the demo shows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sluice.cli.errors import CommandError
from sluice.cli.parity import Side, compare_sides, format_parity


def measure_parity(models: Path, numerics: Mapping[str, str]) -> dict[str, Any]:
    """Return what `sluice parity` finds between the first two classes, or why it found nothing.

    Args:
        models: directory of the compact model's.
        numerics: of each class of the pool.
    """
    sides = [Side(name, its, "the pool and its class", "0") for name, its in numerics.items()]
    try:
        found = compare_sides(models / "compact", sides[:2])
    except CommandError as error:
        return {"error": str(error)}
    return found | {"classesFrom": "this demo's cluster"}


def tell_parity(found: dict[str, Any]) -> str:
    """Return for people what was found, and what it is worth."""
    head = "Would answers change if traffic moved between the two classes? (sluice parity)\n\n"
    if "error" in found:
        return f"{head}  not measured: {found['error']}"
    prompts = found["prompts"]
    right = f"{prompts['right']} of {prompts['questions']} questions"
    lines = format_parity(found).splitlines()
    lines += [
        "",
        "No bound fails the demo: parity says something about a model that has learnt its tasks.",
        f"In float32 this one answers {right} rightly.",
    ]
    return head + "\n".join(f"  {line}".rstrip() for line in lines)
