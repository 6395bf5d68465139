"""The training loop: draw a batch, take a step, now and then measure, save and log."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from tokenizers import Tokenizer

from models.training.curriculum import BATCH_TOKENS, choose_shares, choose_stage
from models.training.layout import COMPACT, Shape
from models.training.network import Network, Weights
from models.training.optimiser import Training, find_wrong, start_training, take_step
from models.training.packing import Batch, Packer, pack_held_out
from models.training.state import (
    Progress,
    StateError,
    export_checkpoint,
    load_state,
    save_state,
    write_log,
)
from models.training.tokenizer import write_tokenizer

STABLE: Final = "stable.npz"
DECAY: Final = "decay.npz"
HELD_OUT_SEED: Final = 20270101
HELD_OUT: Final = 100
"""Questions of each task that are asked every `MEASURE_TOKENS`; `evaluate` asks others."""
MEASURE_TOKENS: Final = 2_000_000
SAVE_SECONDS: Final = 300.0
LOG_STEPS: Final = 25


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run shall do.

    Attributes:
        directory: of state and log.
        seed: of weights and questions.
        seconds: to train at most; without limit if the rate falls and this is 0.
        decay_tokens: over which the rate falls to nothing; 0 if it shall not.
        half: products in bfloat16.
        out: where to export a checkpoint.
        shape: of the model.
        batch_tokens: of a step.
    """

    directory: Path
    seed: int = 0
    seconds: float = 0.0
    decay_tokens: int = 0
    half: bool = False
    out: Path | None = None
    shape: Shape = COMPACT
    batch_tokens: int = BATCH_TOKENS
    held_out: int = HELD_OUT


def run(plan: Plan) -> None:
    """Train, save, and export if that is asked for."""
    network = Network(plan.shape, plan.half)
    jax.config.update("jax_compilation_cache_dir", str(plan.directory / "compiled"))
    file = _find_tokenizer(plan.directory)
    tokenizer = _load_tokenizer(file)
    training, progress = _find_start(plan, network)
    if plan.seconds or plan.decay_tokens:
        session = _Session(plan, network, tokenizer, training, progress)
        session.train()
        training = session.training
    if plan.out is not None:
        # What the rate fell on needs no mean.
        weights = training.mean if progress.decay_from is None else training.weights
        about = {"step": int(training.step), **asdict(progress)}
        export_checkpoint(plan.out, plan.shape, file, weights, about)
        print(f"{plan.out} has the checkpoint after {progress.tokens:,} tokens.")


def _find_tokenizer(directory: Path) -> Path:
    """Return the tokenizer that the training began with; a new training makes its own."""
    file = directory / "tokenizer.json"
    return file if file.exists() else write_tokenizer(directory)


def _load_tokenizer(file: Path) -> Tokenizer:
    """Return a tokenizer.

    Raises:
        StateError: the file is none.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise StateError(f"cannot read {file}: {error}") from error


def _find_start(plan: Plan, network: Network) -> tuple[Training, Progress]:
    """Return the state to go on from.

    A fall of the rate goes on if it began where the constant rate stands now; if that has gone on
    since, a new one begins there.
    """
    stable, decay = plan.directory / STABLE, plan.directory / DECAY
    if stable.exists():
        training, progress = load_state(stable, plan.shape, plan.seed)
    else:
        training, progress = start_training(network, plan.seed), Progress(plan.seed)
    if not plan.decay_tokens:
        return training, progress
    if decay.exists():
        fallen, fall = load_state(decay, plan.shape, plan.seed)
        if (fall.decay_from, fall.decay_over) == (progress.tokens, plan.decay_tokens):
            return fallen, fall
    progress.decay_from, progress.decay_over = progress.tokens, plan.decay_tokens
    return training, progress


class _Session:
    """One run of the loop."""

    def __init__(
        self,
        plan: Plan,
        network: Network,
        tokenizer: Tokenizer,
        training: Training,
        progress: Progress,
    ) -> None:
        self.training = training
        self._plan = plan
        self._network = network
        self._progress = progress
        self._packer = Packer(tokenizer, plan.seed)
        self._exam = pack_held_out(tokenizer, HELD_OUT_SEED, plan.held_out, plan.batch_tokens)
        self._step = int(training.step)
        self._stopping = False
        self._file = plan.directory / (STABLE if progress.decay_from is None else DECAY)

    def train(self) -> None:
        """Take steps until the time is over, the rate is nothing, or a signal comes."""
        progress, started = self._progress, time.monotonic()
        saved = begun = started
        measured = progress.tokens
        losses: list[jax.Array] = []
        with self._heed_signals(), self._show() as show:
            while not self._stopping and not self._is_over(time.monotonic() - started):
                losses.append(self._take_step())
                if len(losses) > 1:
                    losses[-2].block_until_ready()  # the next batch is drawn while one is computed
                now = time.monotonic()
                progress.seconds += now - begun
                begun = now
                if self._step % LOG_STEPS == 0:
                    show(self._log(losses))
                    losses = losses[-1:]
                if progress.tokens - measured >= MEASURE_TOKENS:
                    self._measure()
                    measured = progress.tokens
                if now - saved >= SAVE_SECONDS:
                    self._save()
                    saved = now
            if losses:
                if len(losses) > 1:
                    self._log(losses)
                self._measure()
                self._save()

    def _is_over(self, seconds: float) -> bool:
        if self._progress.decay_from is not None and self._progress.rate <= 0:
            return True
        return bool(self._plan.seconds) and seconds >= self._plan.seconds

    def _take_step(self) -> jax.Array:
        progress = self._progress
        stage, level = choose_stage(progress.tokens)
        length = stage.lengths[self._step % len(stage.lengths)]
        rows = max(1, self._plan.batch_tokens // length)
        shares = choose_shares(progress.right)
        batch = self._packer.draw_batch(self._step, rows, length, level, shares)
        rate = jnp.float32(progress.rate)
        self.training, loss = take_step(self._network, self.training, _give(batch), rate)
        seen = int(np.count_nonzero(batch.chats))
        self._step += 1
        progress.tokens += seen
        progress.by_length[str(length)] = progress.by_length.get(str(length), 0) + seen
        return loss

    def _measure(self) -> None:
        """Ask the held-out questions, and let the shares follow."""
        progress = self._progress
        weights = self.training.mean if progress.decay_from is None else self.training.weights
        progress.right = measure_right(self._network, weights, self._exam)
        write_log(
            self._plan.directory,
            kind="held out",
            step=self._step,
            tokens=progress.tokens,
            seconds=round(progress.seconds),
            right=progress.right,
            shares={t: round(s, 4) for t, s in choose_shares(progress.right).items()},
        )

    def _log(self, losses: list[jax.Array]) -> float:
        """Write a line and return the mean loss, nats a token.

        Raises:
            FloatingPointError: it is no number; the last saved state is still good.
        """
        loss = float(np.mean([float(one) for one in losses]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self._step}; nothing is saved")
        progress = self._progress
        write_log(
            self._plan.directory,
            kind="decay" if progress.decay_from is not None else "stable",
            step=self._step,
            tokens=progress.tokens,
            seconds=round(progress.seconds),
            loss=round(loss, 5),
            rate=round(progress.rate, 4),
        )
        return loss

    def _save(self) -> None:
        save_state(self._file, self._plan.shape, self.training, self._progress)

    @contextmanager
    def _heed_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the loop after its step."""

        def stop(*_: Any) -> None:
            self._stopping = True

        old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def _show(self) -> Iterator[Any]:
        """Show a progress bar; yields what to call with each new loss."""
        progress, plan = self._progress, self._plan
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
        first_tokens, first_seconds = progress.tokens, progress.seconds
        falling = progress.decay_from is not None
        total = progress.decay_over if falling else plan.seconds
        with Bar(*columns) as bar:
            line = bar.add_task("compiling", total=total)

            def show(loss: float) -> None:
                seconds = progress.seconds - first_seconds
                speed = (progress.tokens - first_tokens) / max(seconds, 1e-9)
                words = f"step {self._step:,}  {progress.tokens / 1e6:.2f} M tokens"
                words += f"  loss {loss:.3f}  {speed:,.0f}/s"
                if progress.right:
                    worst = min(progress.right, key=lambda task: progress.right[task])
                    words += f"  worst {worst} {progress.right[worst]:.0%}"
                done = progress.tokens - (progress.decay_from or 0) if falling else seconds
                bar.update(line, description=words, completed=done)

            yield show


def measure_right(
    network: Network, weights: Weights, batches: list[tuple[int, Batch]]
) -> dict[str, float]:
    """Return the share of questions of each task that greedy decoding answers rightly."""
    asked, right = Counter[str](), Counter[str]()
    for _, batch in batches:
        wrong = np.asarray(find_wrong(network, weights, _give(batch)))
        for row, end, task in batch.ends:
            of_chat = batch.chats[row] == batch.chats[row, end]
            asked[task] += 1
            right[task] += not wrong[row][of_chat].any()
    return {task: right[task] / count for task, count in asked.items()}


def measure_speed(directory: Path, seed: int) -> None:
    """Print tokens a second for each length of rows, in both precisions."""
    tokenizer = _load_tokenizer(_find_tokenizer(directory))
    packer, shares = Packer(tokenizer, seed), choose_shares({})
    for half in (False, True):
        network = Network(COMPACT, half)
        training = start_training(network, seed)
        for length in (128, 256, 1024):
            batch = packer.draw_batch(0, BATCH_TOKENS // length, length, 1.0, shares)
            for _ in range(2):  # the first compiles
                training, loss = take_step(network, training, _give(batch), jnp.float32(0))
            loss.block_until_ready()
            started, steps = time.monotonic(), 5
            for _ in range(steps):
                training, loss = take_step(network, training, _give(batch), jnp.float32(0))
            loss.block_until_ready()
            speed = steps * np.count_nonzero(batch.chats) / (time.monotonic() - started)
            row = {"bfloat16": half, "length": length, "tokensPerSecond": round(speed)}
            print(json.dumps(row), flush=True)


def _give(batch: Batch) -> tuple[Any, Any, Any]:
    return batch.tokens, batch.chats, batch.learned
