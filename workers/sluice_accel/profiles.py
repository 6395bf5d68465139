"""Accelerator profiles: the constants of the step-time model, each tagged.

Constants of other devices than GPUs beyond bandwidth and peak compute are assumed: nobody has
published latency, token rates or batch curves of Maia. What is computed from them is emulation,
never measurement.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final

from sluice_accel.chance import draw
from sluice_accel.hardware import HARDWARE
from sluice_accel.numerics import HEAD_BYTES, NUMERICS
from sluice_accel.quantities import Quantity, assumed, derived


class NumericsError(ValueError):
    """A device that cannot multiply in the number format asked for."""


@dataclass(frozen=True, slots=True)
class AcceleratorProfile:
    """Constants of one kind of device serving in one number format, per device.

    Attributes:
        memory_bandwidth: bytes/s of device memory.
        peak_compute: FLOP/s, dense, in the format the weights are served in.
        attention_compute: the same in the format of attention.
        head_compute: the same for the output head.
        memory: bytes of device memory.
        memory_share: of memory that weights and cache may fill.
        memory_reserve: bytes of it that runtime and activations take.
        weight_bytes: bytes per weight of the layers in that format.
        head_bytes: bytes per weight of output head and embedding.
        cache_bytes: bytes per element of the KV cache.
        bandwidth_efficiency: share of the bandwidth that reading reaches.
        small_batch_bandwidth_efficiency: the same below `small_batch` sequences.
        compute_efficiency: share of peak compute that dense products reach.
        layer_overhead: s per layer and step (launches).
        step_overhead: s per step (scheduling, sampling).
        sequence_overhead: s per sequence and step.
        all_reduce: s per all-reduce between devices beyond its bytes; two a layer.
        link_bandwidth: bytes/s to the other devices, one direction.
        link_efficiency: share of it that an all-reduce reaches.
        batch_padding: a decode batch is computed as if it held at least this many sequences.
        power: watts of a device whose kernels run all the time.
        idle_power: watts of one that does nothing.
    """

    name: str
    memory_bandwidth: Quantity
    peak_compute: Quantity
    attention_compute: Quantity
    head_compute: Quantity
    memory: Quantity
    memory_share: Quantity
    memory_reserve: Quantity
    weight_bytes: Quantity
    head_bytes: Quantity
    cache_bytes: Quantity
    bandwidth_efficiency: Quantity
    small_batch_bandwidth_efficiency: Quantity
    small_batch: Quantity
    compute_efficiency: Quantity
    layer_overhead: Quantity
    step_overhead: Quantity
    sequence_overhead: Quantity
    all_reduce: Quantity
    link_bandwidth: Quantity
    link_efficiency: Quantity
    batch_padding: Quantity
    power: Quantity
    idle_power: Quantity

    def list_quantities(self) -> Mapping[str, Quantity]:
        """Return the constants by name, for tables that must show their tags."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "name"
        }


_FIT = "fit of all published rows (docs/accelerators.md)"

FITTED: Final[Mapping[str, Quantity]] = MappingProxyType(
    {
        "bandwidth_efficiency": derived(
            0.92, "", f"{_FIT}; at its bound, the best published streaming rate"
        ),
        "compute_efficiency": derived(0.512, "", _FIT),
        "layer_overhead": derived(105e-6, "s", _FIT),
        "sequence_overhead": derived(0.35e-6, "s", _FIT),
    }
)
"""What `python -m sluice_accel validate` fits to all published rows, rounded."""

MEMORY_SHARE: Final = assumed(0.92, "", "usual setting of serving engines")
"""Of a device's memory that a worker takes for weights and cache."""

IDLE_SHARE: Final = 0.15
"""Of the design power that a device takes while idle (assumed)."""

_CARRIED = "carried over from the GPUs' fit; nothing is published for this device"
_GPUS: Final = frozenset({"a100", "h100", "h200", "b200"})


def make_profile(kind: str, numerics: str | None = None) -> AcceleratorProfile:
    """Return the profile of a kind of device that serves in a number format, its own by default.

    Raises:
        NumericsError: the device has no such products.
    """
    hardware = HARDWARE[kind]
    served = NUMERICS[numerics or hardware.numerics]
    for needed in (served.products, served.attention):
        if needed not in hardware.peaks:
            raise NumericsError(
                f"{kind} cannot serve {served.name}: it multiplies {', '.join(hardware.peaks)},"
                f" not {needed}"
            )
    fitted = dict(FITTED)
    if kind not in _GPUS:
        fitted = {name: assumed(each.value, each.unit, _CARRIED) for name, each in FITTED.items()}
    return AcceleratorProfile(
        name=kind,
        memory_bandwidth=hardware.memory_bandwidth,
        peak_compute=hardware.peaks[served.products],
        attention_compute=hardware.peaks[served.attention],
        head_compute=hardware.peaks["bf16"],
        memory=hardware.memory,
        memory_share=MEMORY_SHARE,
        memory_reserve=assumed(2e9, "B", "runtime, communication and activation buffers"),
        weight_bytes=served.weight_bytes,
        head_bytes=HEAD_BYTES,
        cache_bytes=served.cache_bytes,
        bandwidth_efficiency=fitted["bandwidth_efficiency"],
        small_batch_bandwidth_efficiency=fitted["bandwidth_efficiency"],
        small_batch=assumed(0, "sequences", "no such effect in the published rows"),
        compute_efficiency=fitted["compute_efficiency"],
        layer_overhead=fitted["layer_overhead"],
        step_overhead=assumed(0.3e-3, "s", "a tuned engine; published rows hardly tell it"),
        sequence_overhead=fitted["sequence_overhead"],
        all_reduce=assumed(15e-6, "s", "chosen beside NIM 1.8.0, 70B FP8 on 2 H100 at batch 1"),
        link_bandwidth=hardware.link_bandwidth,
        link_efficiency=assumed(0.8, "", "a round number below what device memory reaches"),
        batch_padding=assumed(1, "sequences", "no such effect in the published rows"),
        power=hardware.power,
        idle_power=assumed(
            IDLE_SHARE * hardware.power.value, "W", f"{IDLE_SHARE:.0%} of the design power"
        ),
    )


_THROUGHPUT = "knob for 'better at large batches'; no source measures it for Maia"


def bias_to_throughput(profile: AcceleratorProfile) -> AcceleratorProfile:
    """Return a copy with the assumed knobs of a device that is better at large batches."""
    return replace(
        profile,
        small_batch_bandwidth_efficiency=assumed(0.70, "", _THROUGHPUT),
        small_batch=assumed(16, "sequences", _THROUGHPUT),
        step_overhead=assumed(2e-3, "s", _THROUGHPUT),
        batch_padding=assumed(16, "sequences", _THROUGHPUT),
    )


H100: Final = make_profile("h100")

_PROFILES = (
    H100,
    bias_to_throughput(make_profile("maia-200")),
    replace(make_profile("maia-200"), name="maia-200-neutral"),
    bias_to_throughput(make_profile("maia-100")),
    make_profile("a100"),
    make_profile("h200"),
    make_profile("b200"),
    make_profile("trainium2"),
    make_profile("tpu-v6e"),
)

PROFILES: Final[Mapping[str, AcceleratorProfile]] = MappingProxyType(
    {profile.name: profile for profile in _PROFILES}
)


def serve_in(name: str, numerics: str) -> AcceleratorProfile:
    """Return a profile whose device serves in this number format instead of its own.

    Raises:
        NumericsError: the device has no such products.
    """
    made = make_profile(name.removesuffix("-neutral"), numerics)
    return replace(
        PROFILES[name],
        peak_compute=made.peak_compute,
        attention_compute=made.attention_compute,
        weight_bytes=made.weight_bytes,
        cache_bytes=made.cache_bytes,
    )


EXACT: Final = frozenset(
    {
        "name",
        "memory",
        "memory_share",
        "memory_reserve",
        "weight_bytes",
        "head_bytes",
        "cache_bytes",
        "small_batch",
        "batch_padding",
    }
)
"""Constants that are a matter of definition or of setting, and that nobody has to measure."""


def perturb(profile: AcceleratorProfile, seed: int, spread: float = 0.2) -> AcceleratorProfile:
    """Return a copy whose every measured constant is off by up to ±`spread`, drawn from `seed`.

    The planner reckons with such a copy, so that its predictions never equal the emulated truth by
    construction. The draw depends on the profile's name, the constant's name and the seed alone.
    """
    changed = {}
    for name, quantity in profile.list_quantities().items():
        if name in EXACT:
            continue
        factor = 1 + spread * (2 * draw(seed, profile.name, name) - 1)
        changed[name] = assumed(
            quantity.value * factor, quantity.unit, f"{quantity.source}; seeded error {factor:.3f}"
        )
    return replace(profile, **changed)  # type: ignore[arg-type]  # only Quantity fields are in it
