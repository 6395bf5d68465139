"""How a worker batches: the flags that `render` gives it and that `decide` reckons with."""

from typing import Final

MAX_NUM_SEQS: Final = 8
"""Sequences that a worker runs at once."""
MAX_BATCHED_TOKENS: Final = 16
"""Real prompt tokens that one step prefills at the most."""
