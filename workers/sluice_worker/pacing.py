"""The emulated device's clock: each step ends when the nominal model's step would.

Steps follow an absolute schedule, so that waking late does not add up. A step whose computation
takes longer than the device would is an overrun, and is counted: above 5 % a run says little.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice_accel.jitter import jitter_factor
from sluice_accel.memory import plan_memory, startup_time
from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.thermal import step_energy
from sluice_accel.timing import StepBatch, sum_batch, time_kernels, time_work
from sluice_worker.device import Devices
from sluice_worker.errors import EmulationError


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step takes.

    Attributes:
        seconds: from its begin to its end, on healthy devices.
        joules: of all devices, throttled as they are.
        kernels: seconds of it in which kernels run, on healthy devices.
    """

    seconds: float = 0.0
    joules: float = 0.0
    kernels: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheBounds:
    """What the devices' memory leaves for the KV cache, in real tokens.

    Attributes:
        tokens: that the cache holds, the slot for known answers not counted.
        sequences: that fit with the whole context; more can run while they are shorter.
    """

    tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class EmulatedDevice:
    """Which device runs which nominal model.

    Attributes:
        devices: that work as one.
        scale: nominal tokens of prompt and context that one real token stands for. What a sequence
            has put out is part of its context; a decode step makes one nominal token all the same.
        jitter: standard deviation of a step's time, as a share of it; 0 for none.
        seed: of all chance in it.
    """

    profile: AcceleratorProfile
    model: NominalModel
    devices: int
    scale: int
    jitter: float = 0.0
    seed: int = 0

    def run_step(
        self, chunks: Sequence[tuple[int, int, bool]], number: int = 0, slowdown: float = 1.0
    ) -> StepCost:
        """Return the cost of a step over (new tokens, start, is prompt) of each sequence.

        Args:
            chunks: what is computed, in real tokens.
            number: of the step; decides its jitter.
            slowdown: of the slowest device, at least 1.
        """
        prefill, decode = [], []
        for new, start, is_prompt in chunks:
            if is_prompt:
                prefill.append((new * self.scale, start * self.scale))
            else:
                decode.append((start + new) * self.scale)
        work = sum_batch(StepBatch(tuple(prefill), tuple(decode)))
        on = self.profile, self.model, self.devices, work
        factor = jitter_factor(self.seed, number, self.jitter) if self.jitter else 1.0
        return StepCost(
            time_work(*on) * factor,
            step_energy(*on, slowdown) * factor,
            time_kernels(*on) * factor,
        )

    def bound_cache(self, context: int, spare: int) -> CacheBounds:
        """Return how much the KV cache of the nominal model may hold.

        Args:
            context: positions of one sequence at the most.
            spare: positions of the slot that is kept for known answers.

        Raises:
            EmulationError: not even one sequence of the whole context fits beside the weights.
        """
        plan = plan_memory(self.profile, self.model, self.devices)
        tokens = plan.tokens // self.scale - spare
        if tokens < context:
            raise EmulationError(
                f"{self.model.name} leaves {plan.tokens} nominal tokens of KV cache on"
                f" {self.devices} {self.profile.name} ({plan.weights / 1e9:.0f} GB of weights,"
                f" {plan.usable / 1e9:.0f} GB that can be filled); one sequence of {context} tokens"
                f" and known answers of {spare}, {self.scale} nominal ones each, need"
                f" {(context + spare) * self.scale}: give it more devices, or lower --token-scale"
            )
        return CacheBounds(tokens, tokens // context)

    @property
    def startup(self) -> float:
        """Seconds from a worker's start until its weights are loaded."""
        return startup_time(self.profile, self.model)


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
        energy: joules that the devices would have taken for it.
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
        self.energy = 0.0
        self._steps = 0

    @property
    def has_time(self) -> bool:
        """Whether a device sets the pace, and the last step was computed sooner than it took."""
        return self._device is not None and not self.overran

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
        self.overran, self.late, self.energy = False, 0.0, 0.0
        begun, now = self._end, self._now()
        cost, slowdown = StepCost(), self.devices.effects.slowdown
        if self._device is not None:
            cost = self._device.run_step(chunks, self._steps, slowdown)
            self._steps += 1
        if any(is_prompt for _, _, is_prompt in chunks):
            self.devices.allocate()
        seconds, self.energy = cost.seconds, cost.joules
        due = now if begun is None else max(now, begun + seconds)
        self.call = DeviceCall(due, seconds)
        self.devices.note_kernels(cost.kernels)
        try:
            self._finish(begun, now, seconds * slowdown)
        finally:
            self.call = None

    def _finish(self, begun: float | None, now: float, seconds: float) -> None:
        if self._device is None or begun is None:
            self.devices.finish_call()
            return
        self._end = begun + seconds
        left = self._end - now
        if left > 0:
            self._sleep(left)
        self.overran = left <= 0
        hung = self.devices.finish_call()
        now = self._now()
        self.late = max(0.0, now - self._end)
        if self.overran or hung:
            self._end = now  # the device is never faster than itself: lost time stays lost
