"""The worker's process: `python -m sluice_worker --model DIR --profile NAME --nominal NAME …`."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

# One BLAS thread a worker: set before NumPy loads its library. More would fight over the cores and
# change the order of sums.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click
import structlog
import uvloop
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from sluice_worker.checkpoint import MOST, Checkpoint
from sluice_worker.decoder import Decoder
from sluice_worker.device import SOCKETS, Devices
from sluice_worker.emulation import (
    Emulation,
    choose_emulation,
    describe,
    emulation_options,
    tell_emulation,
)
from sluice_worker.engine import Engine, Limits
from sluice_worker.errors import CheckpointError, DeviceError, EmulationError, KnownAnswersError
from sluice_worker.knownanswers import POSITIONS, KnownAnswers, load_known_answers
from sluice_worker.loading import choose_kernels, load_model
from sluice_worker.metrics import Metrics
from sluice_worker.numerics import FLOAT32, NUMERICS
from sluice_worker.pacing import Pacer
from sluice_worker.server import Identity, Server
from sluice_worker.tokens import Vocabulary
from sluice_worker.watchdog import LOOK_EVERY

log = structlog.get_logger()

DRAIN_SECONDS = 50.0
"""Longest time to finish what runs after SIGTERM, inside the pod's grace period of 60 s."""

STOP_SECONDS = 2.0
"""After that, how long the last step may take: several of the slowest."""

CLOSE_SECONDS = 5.0
"""After that, how long clients that still read may take for what is written already."""


class LibraryHandler(logging.Handler):
    """Writes what libraries warn of as we would."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; not what a client sent instead of HTTP, which may be anybody's prompt."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionResetError):
            return  # the client has gone, which is no fault, and its request has its line
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            log.warning("a client sent no HTTP", error=type(error).__name__)
        else:
            log.log(record.levelno, record.getMessage(), of=record.name, exc_info=record.exc_info)


def configure_logging() -> None:
    """Write JSON lines to standard error; never any text of a prompt or an answer."""
    logging.basicConfig(level=logging.WARNING, handlers=[LibraryHandler()])
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _limit_context(checkpoint: Checkpoint, most: int | None) -> Checkpoint:
    """Return the checkpoint with a context of at most `most` tokens.

    Raises:
        UsageError: it was made for fewer.
    """
    made_for = checkpoint.config.max_position_embeddings
    if most is None:
        return checkpoint
    if most > made_for:
        raise click.UsageError(
            f"--max-model-len {most} is more than the model was made for: give it {made_for} or"
            " less"
        )
    config = replace(checkpoint.config, max_position_embeddings=most)
    return replace(checkpoint, config=config)


async def serve(
    server: Server, engine: Engine, devices: Devices, host: str, port: int, emulation: Emulation
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs; a second signal ends that, too.

    Raises:
        DeviceError: a device failed; nothing more can be served from this process.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def note_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, note_signal)
    runner = web.AppRunner(
        server.make_app(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=CLOSE_SECONDS,
    )
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=256).start()
    try:
        await _start_up(server, devices, stop, emulation)
        if not stop.is_set():
            server.attach(engine)
            engine.start()
            server.not_ready = ""
            known = server.known.unavailable or len(server.known.answers)
            numerics = server.known.numerics
            log.info("ready", host=host, port=port, numerics=numerics, known_answers=known)
            while not stop.is_set() and not engine.device_error:
                await _wait(stop, LOOK_EVERY)
            server.not_ready = engine.device_error or "draining"
            log.info("draining", requests=engine.load())
            await _drain(server, engine, hurry)
    finally:
        await runner.cleanup()
    if engine.device_error:
        raise DeviceError(engine.device_error)
    log.info("ended")


async def _start_up(
    server: Server, devices: Devices, stop: asyncio.Event, emulation: Emulation
) -> None:
    """Take the time that loading takes; like a real one, it ends with calls to the devices.

    Raises:
        DeviceError: a device failed meanwhile, or has too little memory left.
    """
    left = emulation.startup
    if left:
        server.not_ready = f"loading, emulated as {left:g} s"
        log.info("emulated start-up", **describe(emulation))
    while left > 0 and not stop.is_set():
        begun, slowdown = time.monotonic(), devices.effects.starting
        await _wait(stop, min(left * slowdown, LOOK_EVERY))
        left -= (time.monotonic() - begun) / slowdown
    devices.check()
    while devices.effects.hung and not stop.is_set():
        server.not_ready = "loading: a device does not answer"
        await _wait(stop, LOOK_EVERY)
    devices.check()
    devices.load()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def _drain(server: Server, engine: Engine, hurry: asyncio.Event) -> None:
    """Wait until the engine has nothing to do, the time is over, or somebody is in a hurry."""
    deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
    # The engine runs in a thread: there is no event of this loop to wait for.
    while engine.load() and not hurry.is_set():
        if asyncio.get_running_loop().time() >= deadline:
            break
        if fault := server.find_fault():
            log.warning("the drain waits for nothing", fault=fault)
            break
        await asyncio.sleep(0.05)
    if left := engine.load():
        log.warning("the drain ends with requests unfinished", requests=left)
    # A step that hangs is not waited for: the grace period has an end, too.
    await asyncio.to_thread(engine.stop, STOP_SECONDS)
    # Or their clients would wait, and so the cleanup for them, for tokens that nobody computes.
    server.end_requests()


def _number(
    name: str, default: int, about: str, *, most: int | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return an option that takes a whole number of at least 1."""
    bounds = click.IntRange(min=1, max=most)
    return click.option(name, default=default, show_default=True, type=bounds, help=about)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--model",
    "--model-path",
    "model_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory of the checkpoint.",
)
@click.option(
    "--served-model-name", help="What requests say in `model`.  [default: name of the directory]"
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@_number("--port", 8000, "Port to listen on.", most=65535)
@click.option(
    "--max-model-len",
    type=click.IntRange(min=2),
    help="Most tokens of prompt and output.  [default: what the model was made for]",
)
@_number("--max-num-seqs", 8, "Sequences at once.", most=256)
@_number("--max-num-batched-tokens", 16, "Prompt tokens a step.")
@_number("--max-waiting", 64, "Requests that may wait.")
@click.option(
    "--kv-cache-tokens",
    type=click.IntRange(min=1, max=MOST),
    help="Tokens that the KV cache holds, of one context at least; default: of the contexts of"
    " all sequences at once.",
)
@click.option(
    "--enable-prefix-caching/--no-enable-prefix-caching",
    default=True,
    show_default=True,
    help="Take the beginning of a prompt from the KV cache if it is there.",
)
@click.option(
    "--numerics",
    default=FLOAT32.name,
    show_default=True,
    type=click.Choice(list(NUMERICS)),
    help="Formats of weights, activations, keys and values.",
)
@click.option(
    "--api-key",
    default="",
    envvar="SLUICE_WORKER_API_KEY",
    help="Key that requests must bring; better given as SLUICE_WORKER_API_KEY.",
)
@emulation_options
def main(
    *,
    model_path: Path,
    served_model_name: str | None,
    host: str,
    port: int,
    max_model_len: int | None,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_waiting: int,
    kv_cache_tokens: int | None,
    enable_prefix_caching: bool,
    numerics: str,
    api_key: str,
    **emulated: Any,
) -> None:
    """Serve one model, at the pace of an emulated device if one is named."""
    configure_logging()
    emulation = choose_emulation(numerics=numerics, **emulated)
    try:
        checkpoint, vocabulary, known = _load(model_path, max_model_len, numerics)
        context = checkpoint.config.max_position_embeddings
        cache_tokens = _bound_cache(emulation, context, kv_cache_tokens or max_num_seqs * context)
    except (CheckpointError, KnownAnswersError) as error:
        _end(str(error))
    except EmulationError as error:
        raise click.UsageError(str(error)) from error
    name = served_model_name or model_path.resolve().name
    metrics = Metrics(name, context)
    told = tell_emulation(emulation, numerics, max_num_seqs, max_num_batched_tokens)
    identity = Identity(name, os.environ.get("POD_UID", ""), api_key, emulated["seed"], told)
    server = Server(identity, vocabulary, metrics, known)
    limits = Limits(
        max_num_seqs,
        max_num_batched_tokens,
        max_waiting,
        cache_tokens,
        enable_prefix_caching,
    )
    devices = Devices([path for path in os.environ.get(SOCKETS, "").split(",") if path])
    pacer = Pacer(emulation.device, devices=devices)
    try:
        decoder = Decoder(checkpoint, NUMERICS[numerics], kernels=choose_kernels())
        engine = Engine(decoder, limits, pacer, metrics, server.emit)
    except MemoryError as error:
        _end(
            f"{error}: a context of {context} tokens and a cache of {cache_tokens} are too much for"
            " this machine: lower --max-model-len, --kv-cache-tokens or --max-num-seqs"
        )
    try:
        devices.start()
        devices.check()
        uvloop.run(serve(server, engine, devices, host, port, emulation))
    except DeviceError as error:
        _end(f"{error}: nothing can run on it until it is repaired")
    except (OSError, UnicodeError) as error:  # a name that cannot be one is a UnicodeError
        why = error.strerror if isinstance(error, OSError) else error
        _end(f"cannot listen on {host}:{port}: {why}")


def _load(
    path: Path, most: int | None, numerics: str
) -> tuple[Checkpoint, Vocabulary, KnownAnswers]:
    """Return the model with a context of at most `most` tokens, its tokens and known answers.

    Raises:
        CheckpointError: there is no model, or none that is supported.
        KnownAnswersError: the model's files cannot be read.
        UsageError: it was made for a shorter context.
    """
    checkpoint, vocabulary = load_model(path)
    checkpoint = _limit_context(checkpoint, most)
    config = checkpoint.config
    known = load_known_answers(path, config.vocab_size, config.max_position_embeddings, numerics)
    return checkpoint, vocabulary, known


def _bound_cache(emulation: Emulation, context: int, wanted: int) -> int:
    """Return how many tokens the KV cache holds: what is wanted, if the devices have room for it.

    Raises:
        EmulationError: they have none for a single sequence.
    """
    if emulation.device is None:
        return wanted
    bounds = emulation.device.bound_cache(context, min(context, POSITIONS))
    log.info("emulated memory", cache_tokens=bounds.tokens, whole_contexts=bounds.sequences)
    return min(wanted, bounds.tokens)


def _end(why: str) -> NoReturn:
    sys.stderr.write(f"sluice-worker: {why}\n")
    sys.exit(1)
