"""Compares the step-time model with published rows, each also when it was left out of the fit.

The form of the model is fixed (`timing`). Its four constants are fitted to all rows, to all but
those of one kind of GPU, to all but those of one shape of request, and to all but those of 70B
models; what counts is how far it is off on the rows that a fit has not seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sluice_accel.benchmark import Load, simulate_load
from sluice_accel.fitting import Constants, fit_constants, predict_rows, put_constants
from sluice_accel.profiles import make_profile
from sluice_accel.published import (
    EIGHT_B,
    LOAD_LENGTHS,
    LOAD_ROWS,
    MODELS,
    ROWS,
    SEVENTY_B,
    LoadRow,
    Row,
)

IN_FIT = "all rows"
BY_GPU = "one GPU left out"
BY_SHAPE = "one shape left out"
BY_SIZE = "70B left out"
WITHOUT_LARGE = "fit without 70B"
"""Rows of other models in that fit: they are in it."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One fit.

    Attributes:
        split: which way of leaving out it belongs to.
        left_out: what the fit has not seen, "" if it has seen all.
    """

    split: str
    left_out: str
    constants: Constants


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of a group's rows, as shares of the published values."""

    rows: int
    mean: float
    bias: float
    worst: float


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found.

    Attributes:
        predicted: for each row, what each split predicts; a split that never leaves it out lacks.
        loads: what clients would feel, by the published row, without any 70B row in the fit.
    """

    folds: tuple[Fold, ...]
    rows: tuple[Row, ...]
    predicted: tuple[Mapping[str, float], ...]
    loads: tuple[tuple[LoadRow, Load], ...]

    def list_groups(self) -> tuple[str, ...]:
        """Return the names of all groups, in the rows' order."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def judge(self, begins: str, split: str) -> Errors | None:
        """Return the errors of the groups that begin so, None if the split has none of them."""
        errors = [
            predicted[split] / row.value - 1
            for row, predicted in zip(self.rows, self.predicted, strict=True)
            if row.group.startswith(begins) and split in predicted
        ]
        if not errors:
            return None
        count = len(errors)
        mean, bias = sum(map(abs, errors)) / count, sum(errors) / count
        return Errors(count, mean, bias, max(errors, key=abs))


YARDSTICKS = (
    (EIGHT_B, IN_FIT, 0.05),
    (EIGHT_B, WITHOUT_LARGE, 0.05),
    (EIGHT_B, BY_SHAPE, 0.05),
    (EIGHT_B, BY_GPU, 0.05),
    (SEVENTY_B, BY_SIZE, 0.15),
)
"""Group, split, and the largest mean error that is good enough."""


def _is_large(row: Row) -> str:
    return SEVENTY_B if row.group.startswith(SEVENTY_B) else ""


_SPLITS: Mapping[str, Callable[[Row], str]] = {
    BY_GPU: lambda row: row.hardware,
    BY_SHAPE: lambda row: row.shape,
    BY_SIZE: _is_large,
}


def cross_validate(rows: Sequence[Row] = ROWS) -> Validation:
    """Fit and predict all rows in every split; a second or two."""
    everything = fit_constants(rows)
    folds = [Fold(IN_FIT, "", everything)]
    predicted = [{IN_FIT: value} for value in predict_rows(rows, everything)]
    for split, name in _SPLITS.items():
        for left in dict.fromkeys(filter(None, map(name, rows))):
            constants = fit_constants([row for row in rows if name(row) != left], everything)
            folds.append(Fold(split, left, constants))
            for found, row, value in zip(
                predicted, rows, predict_rows(rows, constants), strict=True
            ):
                if name(row) == left:
                    found[split] = value
                elif split == BY_SIZE:
                    found[WITHOUT_LARGE] = value
    without_large = folds[-1].constants
    return Validation(tuple(folds), tuple(rows), tuple(predicted), _predict_loads(without_large))


def _predict_loads(constants: Constants) -> tuple[tuple[LoadRow, Load], ...]:
    profile = put_constants(make_profile("h100"), constants)
    model = MODELS["llama-3.3-70b"]
    return tuple(
        (row, simulate_load(profile, model, 2, row.clients, LOAD_LENGTHS)) for row in LOAD_ROWS
    )
