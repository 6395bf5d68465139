"""What a worker's pod says of its engine, and how long a step of it is believed to take.

The operator starts workers with arguments that name profile, nominal model, devices, token scale
and batch. The gateway watches these pods anyway, so it reads what it needs there: it is what runs,
numerics and scale included, and takes no right to read anything else. A pod that says nothing of
the kind is a foreign backend; of that only observation tells (`LearntSteps`).
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from sluice_accel.belief import believe
from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.timing import StepWork, time_work

_MOST: Final = 4096
"""Beyond this no number in an argument is believed."""
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
                said[flag] = value
    with suppress(KeyError, ValueError):
        engine = Engine(
            profile=said["--profile"],
            numerics=said.get("--numerics"),
            nominal=said["--nominal"],
            devices=_read_count(said.get("--devices", "1")),
            token_scale=_read_count(said.get("--token-scale", "1")),
            slots=_read_count(said["--max-num-seqs"]),
            chunk=_read_count(said["--max-num-batched-tokens"]),
        )
        find_steps(engine)
        return engine
    return None


def _read_count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _MOST:
        raise ValueError(text)
    return value


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
