"""The worker's process: `python -m sluice_worker --model DIR --profile NAME --nominal NAME …`."""

import asyncio
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# One BLAS thread a worker: set before NumPy loads its library. More would fight over the cores and
# change the order of sums.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click
import structlog
import uvloop
from aiohttp import web

from sluice_accel.jitter import MOST_JITTER, USUAL_JITTER
from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_worker.checkpoint import Checkpoint, load_checkpoint
from sluice_worker.decoder import Decoder
from sluice_worker.device import SOCKETS, Devices
from sluice_worker.engine import Engine, Limits
from sluice_worker.errors import CheckpointError, DeviceError, EmulationError, KnownAnswersError
from sluice_worker.kernelload import Kernels, KernelsError, load_kernels
from sluice_worker.knownanswers import POSITIONS, load_known_answers
from sluice_worker.metrics import Metrics
from sluice_worker.numerics import FLOAT32, NUMERICS
from sluice_worker.pacing import EmulatedDevice, Pacer
from sluice_worker.server import Identity, Server
from sluice_worker.tokens import Vocabulary
from sluice_worker.watchdog import LOOK_EVERY

log = structlog.get_logger()

NO_DEVICE = "none"
"""The profile of no device."""

DRAIN_SECONDS = 50.0
"""Longest time to finish what runs after SIGTERM, inside the pod's grace period of 60 s."""

STOP_SECONDS = 2.0
"""After that, how long the last step may take: several of the slowest."""

CLOSE_SECONDS = 5.0
"""After that, how long clients that still read may take for what is written already."""


def configure_logging() -> None:
    """Write JSON lines to standard error; never any text of a prompt or an answer."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


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


def choose_kernels() -> Kernels | None:
    """Return the compiled kernels; None, with a warning, where NumPy has to do."""
    try:
        return load_kernels()
    except KernelsError as error:
        log.warning("steps take several times as long: no compiled kernels", why=str(error))
        return None


async def serve(
    server: Server, engine: Engine, devices: Devices, host: str, port: int, startup_seconds: float
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
        await _start_up(server, devices, stop, startup_seconds)
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
    server: Server, devices: Devices, stop: asyncio.Event, startup_seconds: float
) -> None:
    """Take the time that loading takes; like a real one, it ends with calls to the devices.

    Raises:
        DeviceError: a device failed meanwhile.
    """
    if startup_seconds:
        server.not_ready = f"loading, emulated as {startup_seconds:g} s"
        log.info("emulated start-up", seconds=startup_seconds)
        await _wait(stop, startup_seconds)
    devices.check()
    while devices.effects.hung and not stop.is_set():
        server.not_ready = "loading: a device does not answer"
        await _wait(stop, LOOK_EVERY)
    devices.check()


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


def _refuse_nan(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return the option's value; a range lets pass what compares with nothing."""
    if math.isnan(value):
        raise click.BadParameter("it should be a number", context, parameter)
    return value


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
    type=click.IntRange(min=1),
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
    "--profile",
    "--emulate-profile",
    "emulate_profile",
    type=click.Choice([NO_DEVICE, *sorted(PROFILES)]),
    default=NO_DEVICE,
    show_default=True,
    help=f"Emulated device; {NO_DEVICE} serves as fast as this machine can.",
)
@click.option(
    "--nominal",
    "--emulate-model",
    "emulate_model",
    type=click.Choice(sorted(NOMINAL_MODELS)),
    help="Model that the emulated device runs in its emulated time; of no effect without one.",
)
@_number("--emulate-devices", 1, "Devices working as one.")
@_number("--token-scale", 1, "Nominal tokens that a real one stands for.")
@click.option(
    "--emulate-jitter",
    default=0.0,
    type=click.FloatRange(min=0, max=MOST_JITTER),
    callback=_refuse_nan,
    help="Standard deviation of a step's time, as a share; other emulators use"
    f" {USUAL_JITTER[0]:g} to {USUAL_JITTER[1]:g}.",
)
@click.option("--emulate-seed", default=0, type=int, help="Seed of the jitter.")
@click.option(
    "--startup-seconds",
    default=0.0,
    type=click.FloatRange(min=0, max=86400),
    callback=_refuse_nan,
    help="Emulated time to load.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Makes the seeds of requests that bring none the same in every run.",
)
@click.option(
    "--api-key",
    default="",
    envvar="SLUICE_WORKER_API_KEY",
    help="Key that requests must bring; better given as SLUICE_WORKER_API_KEY.",
)
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
    emulate_profile: str,
    emulate_model: str | None,
    emulate_devices: int,
    token_scale: int,
    emulate_jitter: float,
    emulate_seed: int,
    startup_seconds: float,
    seed: int | None,
    api_key: str,
) -> None:
    """Serve one model, at the pace of an emulated device if one is named."""
    device = None
    if emulate_profile != NO_DEVICE:
        if emulate_model is None:
            raise click.UsageError(f"--profile {emulate_profile} needs --nominal: what it runs")
        device = EmulatedDevice(
            PROFILES[emulate_profile],
            NOMINAL_MODELS[emulate_model],
            emulate_devices,
            token_scale,
            emulate_jitter,
            emulate_seed,
        )
    try:
        checkpoint, vocabulary = load_model(model_path)
        checkpoint = _limit_context(checkpoint, max_model_len)
        if device is not None:
            context = checkpoint.config.max_position_embeddings
            device.check_memory(max_num_seqs, context, min(context, POSITIONS))
        known = load_known_answers(
            model_path,
            checkpoint.config.vocab_size,
            checkpoint.config.max_position_embeddings,
            numerics,
        )
    except (CheckpointError, KnownAnswersError) as error:
        sys.stderr.write(f"sluice-worker: {error}\n")
        sys.exit(1)
    except EmulationError as error:
        raise click.UsageError(str(error)) from error
    configure_logging()
    name = served_model_name or model_path.resolve().name
    metrics = Metrics(name, checkpoint.config.max_position_embeddings)
    identity = Identity(name, os.environ.get("POD_UID", ""), api_key, seed)
    server = Server(identity, vocabulary, metrics, known)
    limits = Limits(
        max_num_seqs,
        max_num_batched_tokens,
        max_waiting,
        kv_cache_tokens,
        enable_prefix_caching,
    )
    devices = Devices([path for path in os.environ.get(SOCKETS, "").split(",") if path])
    pacer = Pacer(device, devices=devices)
    decoder = Decoder(checkpoint, NUMERICS[numerics], kernels=choose_kernels())
    engine = Engine(decoder, limits, pacer, metrics, server.emit)
    try:
        devices.start()
        devices.check()
        uvloop.run(serve(server, engine, devices, host, port, startup_seconds))
    except DeviceError as error:
        sys.stderr.write(f"sluice-worker: {error}: nothing can run on it until it is repaired\n")
        sys.exit(1)
    except (OSError, UnicodeError) as error:  # a name that cannot be one is a UnicodeError
        why = error.strerror if isinstance(error, OSError) else error
        sys.stderr.write(f"sluice-worker: cannot listen on {host}:{port}: {why}\n")
        sys.exit(1)
