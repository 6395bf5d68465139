"""What the training sees when: lengths, difficulty, and how much of each task.

Short rows come first: a step on 128 tokens costs a fraction of one on 1,024, and what is learned
there (to look back for what followed a word) is what long ones need. From the third stage on, one
batch in four is as long as the context. The shares follow the accuracy on held-out questions:
what is right already gets little more than what keeps it right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from models.training.tasks import TASKS


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training.

    Attributes:
        until: tokens seen at its end.
        lengths: of the rows, in turn from batch to batch.
        levels: difficulty at its beginning and end.
    """

    until: float
    lengths: tuple[int, ...]
    levels: tuple[float, float]


STAGES: Final = (
    Stage(4e6, (128,), (0.1, 0.5)),
    Stage(12e6, (256,), (0.5, 1.0)),
    Stage(float("inf"), (256, 256, 256, 1024), (1.0, 1.0)),
)
BATCH_TOKENS: Final = 4096
"""Tokens of a batch: a small one, because steps are what is dear."""
_IMPORTANCE: Final = {"find": 2.0, "copy": 1.5, "facts": 1.5, "sort": 1.5}
"""Of tasks that take the most tokens to learn; the others have 1."""
_FIRST: Final = {"copy": 5.0, "find": 5.0}
"""What others build on, to repeat what stood elsewhere, gets most of the tokens until it is there.
Among equals it had not begun to be learned after 7 million tokens; alone it had after half one."""
_THERE: Final = 0.3
"""Share of right answers from which such a task is one among others."""
_KEPT: Final = 0.12
"""Weight of a task that has no errors, where one with nothing but errors has 1 more."""
_MOST: Final = 0.3


def choose_stage(tokens: float) -> tuple[Stage, float]:
    """Return the stage after so many tokens, and the difficulty there."""
    start = 0.0
    for stage in STAGES:
        if tokens < stage.until:
            first, last = stage.levels
            part = (tokens - start) / (stage.until - start)
            return stage, first + (last - first) * part
        start = stage.until
    raise AssertionError("the last stage has no end")


def choose_shares(right: Mapping[str, float]) -> dict[str, float]:
    """Return each task's share of the tokens.

    Args:
        right: share of held-out questions with the right answer; a task that is not in it counts
            as all wrong.
    """
    weights = {
        task: _IMPORTANCE.get(task, 1.0) * (_KEPT + 1.0 - right.get(task, 0.0)) for task in TASKS
    }
    for task, times in _FIRST.items():
        if right.get(task, 0.0) < _THERE:
            weights[task] *= times
    shares: dict[str, float] = {}
    while weights:
        rest = (1 - sum(shares.values())) / sum(weights.values())
        full = [task for task, weight in weights.items() if weight * rest > _MOST]
        if not full:
            return shares | {task: weight * rest for task, weight in weights.items()}
        for task in full:
            shares[task] = _MOST
            del weights[task]
    return shares
