"""The table of good and bad objects as pytest parameters."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from sluice.api.accelerator import AcceleratorClass
from sluice.api.pool import InferencePool

TYPES = {"InferencePool": InferencePool, "AcceleratorClass": AcceleratorClass}


def merge(base, change):
    """Return the base with a change merged into it; None takes a key away."""
    merged = deepcopy(base)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged


def list_cases():
    """Return (document, refused) for every case, with the case's name as its id."""
    table = yaml.safe_load((Path(__file__).parent / "api_cases.yaml").read_text())
    return [
        pytest.param(
            merge(part["base"], case["change"]), case.get("refused"), id=f"{kind}: {case['name']}"
        )
        for kind, part in table.items()
        for case in part["cases"]
    ]
