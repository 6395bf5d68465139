"""What a training keeps on disk: its state, its log, and in the end the checkpoint it exports.

The state is larger than the model (momentum and mean of all weights) and belongs into a directory
outside the repository. Files are written beside and moved, so a killed training loses minutes.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from models.training.layout import Shape, list_shapes, write_files
from models.training.network import Weights
from models.training.optimiser import Training, is_matrix

LOG: Final = "log.jsonl"


class StateError(Exception):
    """A state on disk does not belong to this training."""


@dataclass(slots=True)
class Progress:
    """How far a training is.

    Attributes:
        seed: of weights and questions.
        tokens: seen, padding left out.
        seconds: spent on steps.
        by_length: tokens seen in rows of each length.
        right: share of right answers to held-out questions by task, when last measured.
        decay_from: tokens seen when the rate began to fall; None while it is constant.
        decay_over: tokens over which it falls to nothing.
    """

    seed: int
    tokens: int = 0
    seconds: float = 0.0
    by_length: dict[str, int] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)
    decay_from: int | None = None
    decay_over: int = 0

    @property
    def rate(self) -> float:
        """Share of the full learning rate."""
        if self.decay_from is None:
            return 1.0
        return max(0.0, 1.0 - (self.tokens - self.decay_from) / self.decay_over)


def save_state(file: Path, shape: Shape, training: Training, progress: Progress) -> None:
    """Write a state; whoever reads meanwhile finds the old one."""
    arrays: dict[str, Any] = {"step": np.asarray(training.step)}
    for part in ("weights", "first", "second", "mean"):
        for name, value in getattr(training, part).items():
            arrays[f"{part}/{name}"] = np.asarray(value)
    about = json.dumps({"shape": asdict(shape), "progress": asdict(progress)})
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    with beside.open("wb") as stream:
        np.savez(stream, about=np.array(about), **arrays)
    beside.replace(file)


def load_state(file: Path, shape: Shape, seed: int) -> tuple[Training, Progress]:
    """Read a state.

    Raises:
        StateError: it is of another shape or seed, or damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop("about")))
        progress = Progress(**about["progress"])
        made_for = Shape(**about["shape"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        BadZipFile,
    ) as error:
        raise _damaged(file, repr(error)) from error
    if made_for != shape or progress.seed != seed:
        raise StateError(
            f"{file} is a training of seed {progress.seed} and shape {about['shape']}; begin"
            f" in another directory, or go on with these"
        )
    step = arrays.pop("step", None)
    parts: dict[str, Weights] = {"weights": {}, "first": {}, "second": {}, "mean": {}}
    for name, array in arrays.items():
        part, _, weight = name.partition("/")
        if part not in parts or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise _damaged(file, f"{name} is no part of a state, or not finite")
        parts[part][weight] = jnp.asarray(array)
    every = list_shapes(shape)
    adam = {name: one for name, one in every.items() if not is_matrix(name)}
    for part, found in parts.items():
        wanted = adam if part == "second" else every
        if {name: one.shape for name, one in found.items()} != wanted:
            raise _damaged(file, f"its {part} are not those of the model")
    if step is None or step.shape:
        raise _damaged(file, "it does not say how many steps it took")
    return Training(**parts, step=jnp.asarray(step)), progress


def _damaged(file: Path, why: str) -> StateError:
    return StateError(
        f"{file} is damaged ({why[:200]}): put a copy in its place, or remove it and begin anew"
    )


def write_log(directory: Path, **entry: Any) -> None:
    """Add a line to the log."""
    with (directory / LOG).open("a") as log:
        log.write(json.dumps(entry) + "\n")


def export_checkpoint(
    out: Path, shape: Shape, tokenizer: Path, weights: Weights, about: dict[str, Any]
) -> None:
    """Write a checkpoint in Hugging Face layout, bfloat16.

    Args:
        out: its directory.
        shape: of the model.
        tokenizer: its tokenizer.json.
        weights: to be rounded to the nearest bfloat16.
        about: what it has seen, for training.json.
    """
    write_files(out, shape)
    (out / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    rounded = {name: np.asarray(one).astype(bfloat16) for name, one in weights.items()}
    save_file(rounded, out / "model.safetensors", metadata={"format": "pt"})
    (out / "training.json").write_text(json.dumps(about, indent=1) + "\n")
