"""How long one step of a batch takes on a device, and what memory it all takes.

A roofline with overheads. Decode reads all weights once and each sequence's KV cache; prefill is
bound by compute. One step may do both, as chunked prefill does: weights are then read once.

    bytes = P·wb + Σ ctx·2·layers·kv_heads·head_dim·kvb
    flops = Σ_decode (2P + 4·layers·d·ctx) + Σ_prefill (2P·n + 4·layers·d·n·(before + n/2))
    t     = max(bytes/(η_bw·BW), flops/(η_c·PEAK)) + layers·t_layer + t_step + B·t_seq

With several devices (tensor parallel) bandwidth and compute add up, and two all-reduces a layer are
paid. Against published rows the constants are good to about ±25 %; no absolute accuracy is claimed.
"""

from dataclasses import dataclass

from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one step computes, in nominal tokens.

    Attributes:
        prefill: (new tokens, context before them) of each prompt chunk.
        decode: context length of each sequence that gets one token.
    """

    prefill: tuple[tuple[int, int], ...] = ()
    decode: tuple[int, ...] = ()


def cache_bytes(profile: AcceleratorProfile, model: NominalModel) -> float:
    """Return the bytes of KV cache that one nominal token takes, over all devices."""
    return 2 * model.layers * model.kv_heads * model.head_width * profile.cache_bytes.value


def memory_need(profile: AcceleratorProfile, model: NominalModel, tokens: int) -> float:
    """Return the bytes of weights and of a KV cache of `tokens` nominal tokens, over all devices.

    A lower bound: activations and the runtime's own buffers are left out.
    """
    weights = model.parameters * profile.weight_bytes.value
    return weights + tokens * cache_bytes(profile, model)


def step_time(
    profile: AcceleratorProfile, model: NominalModel, devices: int, batch: StepBatch
) -> float:
    """Return the seconds one step takes on `devices` devices working as one; 0 for no work."""
    sequences = len(batch.decode) + len(batch.prefill)
    if not sequences:
        return 0.0
    context = sum(batch.decode) + sum(before + new for new, before in batch.prefill)
    read = model.parameters * profile.weight_bytes.value + context * cache_bytes(profile, model)
    decoding = max(len(batch.decode), int(profile.batch_padding.value) if batch.decode else 0)
    attention = 4 * model.layers * model.model_width
    flops = decoding * 2 * model.parameters + attention * sum(batch.decode)
    for new, before in batch.prefill:
        flops += 2 * model.parameters * new + attention * new * (before + new / 2)
    small = sequences < profile.small_batch.value
    efficiency = profile.small_batch_bandwidth_efficiency if small else profile.bandwidth_efficiency
    by_memory = read / (efficiency.value * profile.memory_bandwidth.value * devices)
    by_compute = flops / (profile.compute_efficiency.value * profile.peak_compute.value * devices)
    overhead = model.layers * profile.layer_overhead.value + profile.step_overhead.value
    overhead += sequences * profile.sequence_overhead.value
    if devices > 1:
        overhead += 2 * model.layers * profile.all_reduce.value
    return max(by_memory, by_compute) + overhead
