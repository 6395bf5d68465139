"""What is said of a worker's engine, and how long a step of it is believed to take.

The operator starts workers with arguments that name profile, nominal model, devices, token scale
and batch. The gateway watches these pods anyway, so it reads what it needs there: it is what runs,
numerics and scale included, and takes no right to read anything else. Without a cluster the worker
itself says the same beside its model (`emulation`). What says nothing of the kind is a foreign
backend; of that only observation tells (`LearntSteps`).
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from sluice_accel.belief import believe
from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.timing import StepWork, time_work

_MOST: Final = 4096
"""Beyond this no number is believed."""
_SLOTS_MOST: Final = 256
"""Likewise of sequences at once: workers run no more, and each has its place in a table."""
_BEFORE: Final = 4
"""Chunks of a prompt that stand before the one that a mixed step computes: a middling one."""
_FAR: Final = 1e6
"""Tokens of context by which the time of each is told; it grows by the same for each of them."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How a worker was started.

    Attributes:
        profile: Its accelerator, in the names of `sluice_accel.profiles`.
        numerics: What it computes in; None for the device's own.
        nominal: The model whose times it keeps.
        devices: Devices that work as one.
        token_scale: Nominal tokens that one of prompt or context stands for.
        slots: Sequences that it runs at once.
        chunk: Prompt tokens that a step computes.
    """

    profile: str
    numerics: str | None
    nominal: str
    devices: int
    token_scale: int
    slots: int
    chunk: int


class Steps(Protocol):
    """How long steps take; `slots` and `chunk` as in `Engine`."""

    @property
    def slots(self) -> int:
        """Sequences that run at once."""

    @property
    def chunk(self) -> float:
        """Prompt tokens that a step computes."""

    def find_time(self, sequences: int, context: float, *, mixed: bool) -> float:
        """Return the seconds of a step of so many sequences with so many tokens of context.

        `mixed` says that one of them is a prompt, of which it computes a chunk.
        """


def parse_engine(arguments: Iterable[object]) -> Engine | None:
    """Read a worker's arguments (`--flag=value`); None if they do not say what it emulates."""
    said: dict[str, str] = {}
    for argument in arguments:
        if isinstance(argument, str):
            flag, given, value = argument.partition("=")
            if given:
                said[flag.removeprefix("--").replace("-", "_")] = value
    return parse_emulation(said)


def parse_emulation(told: object) -> Engine | None:
    """Read what a worker says that it emulates; None if that is nothing to reckon with.

    Args:
        told: Anything: it comes from a server that may be another's. Our workers' names of the
            fields are those of their arguments, and their numbers may be written as text.
    """
    if not isinstance(told, Mapping):
        return None
    with suppress(KeyError, TypeError, ValueError):
        engine = Engine(
            profile=_read_name(told["profile"]),
            numerics=_read_name(told["numerics"]) if told.get("numerics") is not None else None,
            nominal=_read_name(told["nominal"]),
            devices=_read_count(told.get("devices", 1)),
            token_scale=_read_count(told.get("token_scale", 1)),
            slots=_read_count(told["max_num_seqs"], _SLOTS_MOST),
            chunk=_read_count(told["max_num_batched_tokens"]),
        )
        find_steps(engine)
        return engine
    return None


def _read_name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def _read_count(value: object, most: int = _MOST) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(type(value).__name__)
    count = int(value)
    if not 1 <= count <= most:
        raise ValueError(value)
    return count


class BelievedSteps:
    """Step times of an engine by the believed profile of its accelerator, in a table.

    Raises:
        KeyError: Profile or nominal model are not known.
        NumericsError: The device has no such products.
    """

    def __init__(self, engine: Engine) -> None:
        self.slots = engine.slots
        self.chunk = engine.chunk
        profile = believe(engine.profile, engine.numerics)
        model = NOMINAL_MODELS[engine.nominal]
        scale = engine.token_scale
        new = engine.chunk * scale
        before = _BEFORE * new

        def measure(decoding: int, chunks: int, context: float = 0.0) -> float:
            work = StepWork(
                decoding=decoding,
                decode_context=context,
                chunks=chunks,
                prefill=chunks * new,
                prefill_context=chunks * (before + new),
                prefill_pairs=chunks * new * (before + new / 2),
            )
            return time_work(profile, model, engine.devices, work)

        counts = range(engine.slots + 1)
        self._plain = [measure(count, 0) for count in counts]
        self._mixed = [measure(max(0, count - 1), 1) for count in counts]
        self._token = scale * (measure(1, 0, _FAR) - measure(1, 0)) / _FAR

    def find_time(self, sequences: int, context: float, *, mixed: bool) -> float:
        """Return seconds, as `Steps` has it."""
        table = self._mixed if mixed else self._plain
        return table[min(sequences, self.slots)] + context * self._token


@dataclass(frozen=True, slots=True)
class LearntSteps:
    """Step times of a worker of which only what it showed is known.

    Attributes:
        token: Seconds between two tokens of a stream.
        prompt: Seconds for each token of a prompt.
    """

    slots: int
    chunk: float
    token: float
    prompt: float

    def find_time(self, sequences: int, context: float, *, mixed: bool) -> float:  # noqa: ARG002 - as Steps has it
        """Return seconds, as `Steps` has it."""
        if mixed:
            return max(self.token if sequences > 1 else 0.0, self.chunk * self.prompt)
        return self.token if sequences else 0.0


@lru_cache(maxsize=256)
def find_steps(engine: Engine) -> BelievedSteps:
    """Return the believed step times of an engine; its errors are those of `BelievedSteps`."""
    return BelievedSteps(engine)
