"""Fits the four constants that published rows tell, by least squares of logarithms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from sluice_accel.benchmark import predict
from sluice_accel.profiles import AcceleratorProfile, make_profile
from sluice_accel.published import Row
from sluice_accel.quantities import derived

Constants = Mapping[str, float]

START: Final[Constants] = MappingProxyType(
    {
        "bandwidth_efficiency": 0.8,
        "compute_efficiency": 0.6,
        "layer_overhead": 30e-6,
        "sequence_overhead": 10e-6,
    }
)
_UNITS: Final = {"layer_overhead": "s", "sequence_overhead": "s"}
_BOUNDS: Final = {
    "bandwidth_efficiency": (0.1, 0.92),
    "compute_efficiency": (0.1, 1.0),
    "layer_overhead": (1e-7, 1e-3),
    "sequence_overhead": (1e-7, 1e-3),
}
"""An efficiency is a share, of bandwidth at most the best that is published for sustained work
(92 %, Microsoft on NVL72); overheads are positive, and below what a step was ever seen to take."""
_ROUNDS: Final = 40
"""Bounds of the search; steps and closeness are in logarithms, so in shares of a constant."""
_CLOSE: Final = 1e-4
_MOST_DAMPING: Final = 1e6
_STEP: Final = 1e-4


def put_constants(profile: AcceleratorProfile, constants: Constants) -> AcceleratorProfile:
    """Return the profile with these constants in place of its own."""
    put = {name: derived(value, _UNITS.get(name, ""), "fit") for name, value in constants.items()}
    put["small_batch_bandwidth_efficiency"] = put["bandwidth_efficiency"]
    return replace(profile, **put)  # type: ignore[arg-type]  # only Quantity fields are in it


def predict_rows(rows: Sequence[Row], constants: Constants) -> list[float]:
    """Return what the model with these constants says for each row."""
    served = {
        key: put_constants(make_profile(*key), constants)
        for key in {(row.hardware, row.numerics) for row in rows}
    }
    return [predict(served[row.hardware, row.numerics], row) for row in rows]


def fit_constants(rows: Sequence[Row], start: Constants = START) -> Constants:
    """Return the constants with the least squared errors of logarithms (Levenberg, Marquardt)."""
    names = list(START)
    low, high = (np.log([_BOUNDS[name][end] for name in names]) for end in (0, 1))
    at = np.clip(np.log([start[name] for name in names]), low, high)

    def miss(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray:
        constants = dict(zip(names, np.exp(logs).tolist(), strict=True))
        found = predict_rows(rows, constants)
        return np.array([math.log(f / row.value) for f, row in zip(found, rows, strict=True)])

    now, damping = miss(at), 1e-3
    for _ in range(_ROUNDS):
        slopes = np.stack([(miss(at + step) - now) / _STEP for step in _STEP * np.eye(len(at))], 1)
        rise = slopes.T @ now
        # A constant at its bound stays there while it would go farther.
        free = ~(((at <= low) & (rise > 0)) | ((at >= high) & (rise < 0)))
        some = slopes[:, free]
        normal = some.T @ some + damping * np.eye(some.shape[1])
        there = at.copy()
        there[free] -= np.linalg.solve(normal, rise[free])
        there = np.clip(there, low, high)
        then = miss(there)
        if then @ then < now @ now:
            moved = float(np.abs(there - at).max())
            at, now, damping = there, then, damping / 10
            if moved < _CLOSE:
                break
        else:
            damping *= 10
            if damping > _MOST_DAMPING:
                break
    return dict(zip(names, np.exp(at).tolist(), strict=True))
