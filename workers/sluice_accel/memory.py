"""What a nominal model and its KV cache take of the devices' memory, and how many sequences fit."""

from dataclasses import dataclass
from typing import Final

from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.quantities import assumed

LOAD_BANDWIDTH: Final = assumed(
    1.7e9, "B/s", "ServerlessLLM's ordinary loads, read second-hand: 70B in 84 s, 30B in 34 s"
)
"""At which a worker's weights are loaded, whatever the number of its devices."""
NODE_DEVICES: Final = (1, 2, 4, 8)
"""How many devices may work as one in a node."""
RUNTIME_START: Final = assumed(20, "s", "process, runtime and compiled kernels")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes over all devices of a worker; `cache` may be negative: then the weights do not fit.

    Attributes:
        usable: what weights and cache may fill together.
        weights: all of them, embedding and head included.
        cache: what is left for the KV cache.
        token: KV cache of one nominal token.
    """

    usable: float
    weights: float
    cache: float
    token: float

    @property
    def tokens(self) -> int:
        """Nominal tokens that fit the cache; 0 if the weights do not fit."""
        return max(0, int(self.cache / self.token))

    def count_sequences(self, context: int) -> int:
        """Return how many sequences of so many nominal tokens fit at once."""
        return self.tokens // context


def cache_bytes(profile: AcceleratorProfile, model: NominalModel, devices: int = 1) -> float:
    """Return the bytes of KV cache that one nominal token takes, over all devices.

    Devices share the KV heads; with more devices than heads, some keep copies.
    """
    heads = max(model.kv_heads, devices)
    return 2 * model.layers * heads * model.head_width * profile.cache_bytes.value


def plan_memory(profile: AcceleratorProfile, model: NominalModel, devices: int) -> MemoryPlan:
    """Return how the memory of `devices` devices is divided."""
    each = profile.memory.value * profile.memory_share.value - profile.memory_reserve.value
    weights = model.layer_parameters * profile.weight_bytes.value
    weights += 2 * model.head_parameters * profile.head_bytes.value
    usable = devices * each
    return MemoryPlan(usable, weights, usable - weights, cache_bytes(profile, model, devices))


def choose_devices(profile: AcceleratorProfile, model: NominalModel, context: int) -> int | None:
    """Return the fewest devices, as nodes have them, that hold a sequence beside the weights.

    None if not even the most do.
    """
    for devices in NODE_DEVICES:
        if plan_memory(profile, model, devices).count_sequences(context) >= 1:
            return devices
    return None


def startup_time(profile: AcceleratorProfile, model: NominalModel) -> float:
    """Return the seconds from a worker's start until it serves: runtime, then weights."""
    weights = plan_memory(profile, model, 1).weights
    return RUNTIME_START.value + weights / LOAD_BANDWIDTH.value
