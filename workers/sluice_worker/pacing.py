"""The emulated device's clock: each step ends when the nominal model's step would.

Steps follow an absolute schedule, so that waking late does not add up. A step whose computation
takes longer than the device would is an overrun, and is counted: above 5 % a run says little.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.timing import StepBatch, memory_need, step_time
from sluice_worker.device import Devices
from sluice_worker.errors import EmulationError


@dataclass(frozen=True, slots=True)
class EmulatedDevice:
    """Which device runs which nominal model.

    Attributes:
        devices: that work as one.
        scale: nominal tokens of prompt and context that one real token stands for. What a sequence
            has put out is part of its context; a decode step makes one nominal token all the same.
    """

    profile: AcceleratorProfile
    model: NominalModel
    devices: int
    scale: int

    def time_step(self, chunks: Sequence[tuple[int, int, bool]]) -> float:
        """Return seconds for a step over (new tokens, start, is prompt) of each sequence."""
        prefill, decode = [], []
        for new, start, is_prompt in chunks:
            if is_prompt:
                prefill.append((new * self.scale, start * self.scale))
            else:
                decode.append((start + new) * self.scale)
        batch = StepBatch(tuple(prefill), tuple(decode))
        return step_time(self.profile, self.model, self.devices, batch)

    def check_memory(self, sequences: int, context: int, spare: int) -> None:
        """Refuse what the devices could not hold.

        Args:
            sequences: at once, each with a cache of the whole context.
            context: positions of the compact model.
            spare: positions of the slot that is kept for known answers.

        Raises:
            EmulationError: weights and cache need more memory than the devices have.
        """
        tokens = (sequences * context + spare) * self.scale
        need = memory_need(self.profile, self.model, tokens)
        has = self.devices * self.profile.memory.value
        if need > has:
            raise EmulationError(
                f"{self.model.name} and the cache of {sequences} sequences of {context} tokens and"
                f" of known answers of {spare}, {self.scale} nominal ones each, need"
                f" {need / 1e9:.0f} GB; the memory of {self.devices} {self.profile.name} is"
                f" {has / 1e9:.0f} GB: give it more devices, or lower --max-num-seqs or"
                " --token-scale"
            )


@dataclass(frozen=True, slots=True)
class DeviceCall:
    """A call that the engine waits for.

    Attributes:
        due: monotonic time when a healthy device would have ended it.
        expected: seconds that the whole step takes on one; 0 without an emulated device.
    """

    due: float
    expected: float


class Pacer:
    """Holds steps to the device's schedule; without a device it holds nothing.

    A throttled device takes its factor longer. Without an emulated device there is no clock that
    could be lowered, and throttling changes nothing.

    Attributes:
        devices: what is wrong with the devices.
        call: what the engine waits for, a step or a touch; None while it computes or rests.
            Computing is ours and as slow as this machine; it is never held against a device.
        overran: whether the last step was computed too late for the device's schedule.
        late: seconds that it ended behind the schedule.
    """

    def __init__(
        self,
        device: EmulatedDevice | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        devices: Devices | None = None,
    ) -> None:
        self._device = device
        self._now = now
        self._sleep = sleep
        self._end: float | None = None
        self.devices = devices or Devices()
        self.call: DeviceCall | None = None
        self.overran = False
        self.late = 0.0

    def rest(self) -> None:
        """Note that there is nothing to do: the schedule begins anew with the next step."""
        self._end = None

    def touch(self) -> None:
        """Ask the devices for nothing, so that a fault is seen before a request meets it.

        Raises:
            DeviceError: a device failed.
        """
        self.call = DeviceCall(self._now(), 0.0)
        try:
            self.devices.finish_call()
        finally:
            self.call = None

    def begin(self) -> None:
        """Note that a step begins: when the one before should have ended, or now after a rest."""
        if self._end is None:
            self._end = self._now()

    def finish(self, chunks: Sequence[tuple[int, int, bool]]) -> None:
        """Wait until the device would have finished the step that `begin` opened.

        Raises:
            DeviceError: the device failed.
        """
        self.overran, self.late = False, 0.0
        begun, now = self._end, self._now()
        seconds = 0.0 if self._device is None else self._device.time_step(chunks)
        due = now if begun is None else max(now, begun + seconds)
        self.call = DeviceCall(due, seconds)
        try:
            self._finish(begun, now, seconds)
        finally:
            self.call = None

    def _finish(self, begun: float | None, now: float, seconds: float) -> None:
        if self._device is None or begun is None:
            self.devices.finish_call()
            return
        self._end = begun + seconds * self.devices.effects.slowdown
        left = self._end - now
        if left > 0:
            self._sleep(left)
        self.overran = left <= 0
        hung = self.devices.finish_call()
        now = self._now()
        self.late = max(0.0, now - self._end)
        if self.overran or hung:
            self._end = now  # the device is never faster than itself: lost time stays lost
