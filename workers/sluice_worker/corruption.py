"""Silent corruption: a share of what a device computes is wrong, and looks plausible."""

import numpy as np

from sluice_worker.checkpoint import Array


class Corruption:
    """Replaces values of rows (rows, width), each with probability `rate`, by others of its row.

    So magnitudes stay what they were, and nothing becomes infinite or no number. The same seed and
    the same calls give the same mistakes.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._rng = np.random.default_rng(seed)

    def __call__(self, rows: Array) -> Array:
        """Return the rows as the device gives them back."""
        width = rows.shape[-1]
        wrong = self._rng.random(rows.shape) < self._rate
        if width < 2 or not wrong.any():  # noqa: PLR2004  # one value has no other
            return rows
        at_row, at_column = np.nonzero(wrong)
        other = (at_column + self._rng.integers(1, width, len(at_row))) % width
        given = rows.copy()
        given[at_row, at_column] = rows[at_row, other]
        return given
