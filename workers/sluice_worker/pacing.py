"""The emulated device's clock: each step ends when the nominal model's step would.

Steps follow an absolute schedule, so that waking late does not add up. A step whose computation
takes longer than the device would is an overrun, and is counted: above 5 % a run says little.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.timing import StepBatch, step_time


@dataclass(frozen=True, slots=True)
class EmulatedDevice:
    """Which device runs which nominal model; one real prompt token stands for `scale` of its."""

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


class Pacer:
    """Holds steps to the device's schedule; without a device it holds nothing."""

    def __init__(
        self,
        device: EmulatedDevice | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._device = device
        self._now = now
        self._sleep = sleep
        self._end = 0.0
        self.steps = 0
        self.overrun = 0

    def begin(self) -> None:
        """Note that a step begins: at the end of the one before, or now after a pause."""
        now = self._now()
        # Half a millisecond of waking late is the schedule's; a real pause starts it anew.
        if self._device is None or now - self._end > 0.005:  # noqa: PLR2004
            self._end = now

    def finish(self, chunks: Sequence[tuple[int, int, bool]]) -> None:
        """Wait until the device would have finished the step."""
        self.steps += 1
        if self._device is None:
            return
        self._end += self._device.time_step(chunks)
        left = self._end - self._now()
        if left > 0:
            self._sleep(left)
        else:
            self.overrun += 1
            self._end = self._now()
