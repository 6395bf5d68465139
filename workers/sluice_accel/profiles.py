"""Accelerator profiles: the constants of the step-time model, each tagged.

Maia constants beyond bandwidth and peak compute are assumed: nobody has published latency, token
rates or batch curves of Maia. What is computed from them is emulation, never measurement.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final

from sluice_accel.quantities import Quantity, assumed, derived, published


@dataclass(frozen=True, slots=True)
class AcceleratorProfile:
    """Constants of one kind of device, per device.

    Attributes:
        memory_bandwidth: bytes/s of device memory.
        peak_compute: FLOP/s, dense, in the format the weights are served in.
        memory: bytes of device memory.
        weight_bytes: bytes per parameter in that format.
        cache_bytes: bytes per element of the KV cache.
        bandwidth_efficiency: share of the bandwidth that decode reaches.
        small_batch_bandwidth_efficiency: the same below `small_batch` sequences.
        compute_efficiency: share of peak compute that dense products reach.
        layer_overhead: s per layer and step (launches).
        step_overhead: s per step (scheduling, sampling).
        sequence_overhead: s per sequence and step.
        all_reduce: s per all-reduce between devices; two a layer.
        batch_padding: a decode batch is computed as if it held at least this many sequences.
    """

    name: str
    memory_bandwidth: Quantity
    peak_compute: Quantity
    memory: Quantity
    weight_bytes: Quantity
    cache_bytes: Quantity
    bandwidth_efficiency: Quantity
    small_batch_bandwidth_efficiency: Quantity
    small_batch: Quantity
    compute_efficiency: Quantity
    layer_overhead: Quantity
    step_overhead: Quantity
    sequence_overhead: Quantity
    all_reduce: Quantity
    batch_padding: Quantity

    def list_quantities(self) -> Mapping[str, Quantity]:
        """Return the constants by name, for tables that must show their tags."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "name"
        }


_GPU_FIT = "fit of TensorRT-LLM v1.0 throughput rows for H100 and H200 at FP8"
_GPU_CARRIED = "carried over from the GPU fit; nothing is published for Maia"

H100: Final = AcceleratorProfile(
    name="h100",
    memory_bandwidth=published(3.35e12, "B/s", "NVIDIA H100 SXM data sheet"),
    peak_compute=published(1.979e15, "FLOP/s", "NVIDIA H100 SXM data sheet, FP8 dense"),
    memory=published(80e9, "B", "NVIDIA H100 SXM data sheet"),
    weight_bytes=derived(1, "B", "FP8"),
    cache_bytes=derived(1, "B", "FP8"),
    bandwidth_efficiency=derived(0.80, "", _GPU_FIT),
    small_batch_bandwidth_efficiency=derived(0.80, "", _GPU_FIT),
    small_batch=derived(0, "sequences", "no such effect in the published rows"),
    compute_efficiency=derived(0.60, "", _GPU_FIT + "; dense FP8 GEMM"),
    layer_overhead=derived(30e-6, "s", "published batch-1 rows"),
    step_overhead=derived(0.3e-3, "s", "published batch-1 rows, tuned engine"),
    sequence_overhead=derived(10e-6, "s", "published large-batch rows"),
    all_reduce=assumed(15e-6, "s", "reproduces NIM 1.8.0, 70B FP8 on 2 H100: 18.4 for 18.6 ms"),
    batch_padding=derived(1, "sequences", "none"),
)

MAIA_200_NEUTRAL: Final = AcceleratorProfile(
    name="maia-200-neutral",
    memory_bandwidth=published(7e12, "B/s", "Microsoft, Maia 200, 26 January 2026"),
    peak_compute=published(5e15, "FLOP/s", "Microsoft, Maia 200: more than 5 PFLOPS FP8"),
    memory=published(216e9, "B", "Microsoft, Maia 200, 26 January 2026"),
    weight_bytes=derived(1, "B", "FP8 with block scales"),
    cache_bytes=derived(1, "B", "FP8"),
    bandwidth_efficiency=assumed(0.80, "", _GPU_CARRIED),
    small_batch_bandwidth_efficiency=assumed(0.80, "", _GPU_CARRIED),
    small_batch=assumed(0, "sequences", _GPU_CARRIED),
    compute_efficiency=assumed(0.60, "", _GPU_CARRIED),
    layer_overhead=assumed(30e-6, "s", _GPU_CARRIED),
    step_overhead=assumed(0.3e-3, "s", _GPU_CARRIED),
    sequence_overhead=assumed(10e-6, "s", _GPU_CARRIED),
    all_reduce=assumed(15e-6, "s", _GPU_CARRIED),
    batch_padding=assumed(1, "sequences", _GPU_CARRIED),
)

_THROUGHPUT = "knob for 'better at large batches'; no source measures it for Maia"

MAIA_200: Final = replace(
    MAIA_200_NEUTRAL,
    name="maia-200",
    small_batch_bandwidth_efficiency=assumed(0.70, "", _THROUGHPUT),
    small_batch=assumed(16, "sequences", _THROUGHPUT),
    step_overhead=assumed(2e-3, "s", _THROUGHPUT),
    batch_padding=assumed(16, "sequences", _THROUGHPUT),
)

PROFILES: Final[Mapping[str, AcceleratorProfile]] = MappingProxyType(
    {profile.name: profile for profile in (H100, MAIA_200, MAIA_200_NEUTRAL)}
)


def perturb(profile: AcceleratorProfile, seed: int, spread: float = 0.2) -> AcceleratorProfile:
    """Return a copy whose every measured constant is off by up to ±`spread`, drawn from `seed`.

    The planner reckons with such a copy, so that its predictions never equal the emulated truth by
    construction. The draw depends on the profile's name, the constant's name and the seed alone.
    """
    exact = {"name", "memory", "weight_bytes", "cache_bytes", "small_batch", "batch_padding"}
    changed = {}
    for name, quantity in profile.list_quantities().items():
        if name in exact:
            continue
        digest = hashlib.sha256(f"{seed}:{profile.name}:{name}".encode()).digest()
        drawn = int.from_bytes(digest[:8]) / 2**64
        factor = 1 + spread * (2 * drawn - 1)
        changed[name] = assumed(
            quantity.value * factor, quantity.unit, f"{quantity.source}; seeded error {factor:.3f}"
        )
    return replace(profile, **changed)  # type: ignore[arg-type]  # only Quantity fields are in it
