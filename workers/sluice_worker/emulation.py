"""The command's options that say which device a worker emulates, and what follows from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

from sluice_accel.jitter import MOST_JITTER, USUAL_JITTER
from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES, AcceleratorProfile, NumericsError
from sluice_accel.rounding import find_profile
from sluice_worker.pacing import EmulatedDevice

NONE: Final = "none"
"""Profile of a worker that is as fast as it can be."""
MOST_STARTUP: Final = 86400
MOST_COMPRESSION: Final = 1000

Command = Callable[..., None]


def refuse_nan(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return the option's value; a range lets pass what compares with nothing."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("it should be a number", context, parameter)
    return value


_OPTIONS = (
    click.option(
        "--profile",
        "--emulate-profile",
        default=NONE,
        show_default=True,
        type=click.Choice([NONE, *sorted(PROFILES)]),
        help="Emulated device; none is as fast as it can be.",
    ),
    click.option(
        "--nominal",
        "--emulate-model",
        type=click.Choice(sorted(NOMINAL_MODELS)),
        help="Model whose steps, memory and weights the device is emulated with; of no effect"
        " without one.",
    ),
    click.option(
        "--devices",
        "--emulate-devices",
        default=1,
        show_default=True,
        type=click.IntRange(min=1, max=64),
        help="Devices working as one.",
    ),
    click.option(
        "--token-scale",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="Nominal tokens of prompt and context that a real one stands for.",
    ),
    click.option(
        "--jitter",
        "--emulate-jitter",
        default=0.0,
        show_default=True,
        type=click.FloatRange(min=0, max=MOST_JITTER),
        callback=refuse_nan,
        help="Standard deviation of a step's time, as a share; other emulators use"
        f" {USUAL_JITTER[0]:g} to {USUAL_JITTER[1]:g}.",
    ),
    click.option(
        "--seed",
        "--emulate-seed",
        type=click.IntRange(min=0),
        help="Of the jitter, and of seeds for requests that bring none.  [default: 0, and chance]",
    ),
    click.option(
        "--startup-seconds",
        type=click.FloatRange(min=0, max=MOST_STARTUP),
        callback=refuse_nan,
        help="Time to load on a real device.  [default: that of the nominal model's weights]",
    ),
    click.option(
        "--time-compression",
        default=1.0,
        show_default=True,
        type=click.FloatRange(min=1, max=MOST_COMPRESSION),
        callback=refuse_nan,
        help="Divides the time to load, and nothing else; the log says so.",
    ),
)


def emulation_options(command: Command) -> Command:
    """Give a command the options that `choose_emulation` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Emulation:
    """What a worker emulates.

    Attributes:
        device: None without one.
        loading: seconds that loading takes on the real device.
        compression: what they are divided by here.
    """

    device: EmulatedDevice | None
    loading: float
    compression: float

    @property
    def startup(self) -> float:
        """Seconds that loading takes here."""
        return self.loading / self.compression


def choose_emulation(
    *,
    numerics: str,
    profile: str,
    nominal: str | None,
    devices: int,
    token_scale: int,
    jitter: float,
    seed: int | None,
    startup_seconds: float | None,
    time_compression: float,
) -> Emulation:
    """Return what the options of `emulation_options` ask for, of a worker in some numerics.

    Raises:
        click.UsageError: a profile without a nominal model, or whose device has no such numerics.
    """
    device = None
    if profile != NONE:
        if nominal is None:
            raise click.UsageError(
                f"--profile {profile} needs --nominal: whose steps it takes the time of, one of"
                f" {', '.join(sorted(NOMINAL_MODELS))}"
            )
        model = NOMINAL_MODELS[nominal]
        chosen = _choose_profile(profile, numerics)
        device = EmulatedDevice(chosen, model, devices, token_scale, jitter, seed or 0)
    loading = startup_seconds
    if loading is None:
        loading = device.startup if device is not None else 0.0
    return Emulation(device, loading, time_compression)


def _choose_profile(name: str, numerics: str) -> AcceleratorProfile:
    try:
        return find_profile(name, numerics)
    except NumericsError as error:
        raise click.UsageError(f"--profile {name} with --numerics {numerics}: {error}") from error


def describe(emulation: Emulation) -> dict[str, Any]:
    """Return what the log says of an emulated start."""
    return {
        "seconds": round(emulation.startup, 3),
        "uncompressed_seconds": round(emulation.loading, 3),
        "time_compression": emulation.compression,
    }


def tell_emulation(
    emulation: Emulation, numerics: str, sequences: int, chunk: int
) -> dict[str, Any] | None:
    """Return what a worker tells of its emulated device beside its model; None without one.

    Names of kinds and the options' numbers only: who predicts from them reckons with what is
    believed of such devices, and never sees the constants that pace the worker.

    Args:
        emulation: what it emulates.
        numerics: what it computes in.
        sequences: that run at once.
        chunk: prompt tokens that a step computes.
    """
    device = emulation.device
    if device is None:
        return None
    return {
        "profile": device.profile.name,
        "numerics": numerics,
        "nominal": device.model.name,
        "devices": device.devices,
        "token_scale": device.scale,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": chunk,
    }
