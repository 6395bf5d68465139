"""What each program that computes with a model begins with: weights, tokens and kernels."""

from pathlib import Path

import structlog

from sluice_worker.checkpoint import Checkpoint, load_checkpoint
from sluice_worker.errors import CheckpointError
from sluice_worker.kernelload import Kernels, KernelsError, load_kernels
from sluice_worker.tokens import Vocabulary

log = structlog.get_logger()


def load_model(path: Path) -> tuple[Checkpoint, Vocabulary]:
    """Load weights and tokenizer.

    Raises:
        CheckpointError: one of them is missing or not supported, or they do not fit together.
    """
    checkpoint = load_checkpoint(path)
    vocabulary = Vocabulary(checkpoint.tokenizer)
    if vocabulary.size > checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.tokenizer} has tokens up to {vocabulary.size - 1}; the weights end at"
            f" {checkpoint.config.vocab_size - 1}"
        )
    return checkpoint, vocabulary


def choose_kernels() -> Kernels | None:
    """Return the compiled kernels; None, with a warning, where NumPy has to do."""
    try:
        return load_kernels()
    except KernelsError as error:
        log.warning("steps take several times as long: no compiled kernels", why=str(error))
        return None
