"""How long one step of a batch takes on a device.

A roofline a kernel, with overheads. Kernels of one step run one after the other, and each waits
for memory or for compute, whichever takes longer; one step may prefill and decode, as chunked
prefill does, and then reads the weights once for both:

    layers    max(P_layers·wb / bw,  2·P_layers·tokens / peak)
    head      max(P_head·hb / bw,    2·P_head·sequences / peak_head)
    decode    max(Σctx·kv / bw,      4·layers·d·Σctx / peak_attention)
    prefill   max(Σ(before+n)·kv / bw,  4·layers·d·Σ n·(before + n/2) / peak_attention)
    overhead  layers·t_layer + t_step + sequences·t_seq
    devices   2·layers·(t_all_reduce + 2·(D-1)/D · tokens·d·2 B / link)   with D > 1 of them

with bw = η_bw·BW·D, peak = η_c·PEAK·D, and kv the bytes of KV cache of one token. An all-reduce
sends its bf16 activations 2·(D-1)/D times (ring).

The form follows from what a step does and was fixed before it was compared with published rows;
four constants (η_bw, η_c, t_layer, t_seq) are fitted. How far off it is: docs/accelerators.md.
"""

from dataclasses import dataclass
from typing import Final

from sluice_accel.memory import cache_bytes
from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile

ACTIVATION_BYTES: Final = 2
"""Bytes of an activation between devices (bf16)."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one step computes, in nominal tokens.

    Attributes:
        prefill: (new tokens, context before them) of each prompt chunk.
        decode: context length of each sequence that gets one token.
    """

    prefill: tuple[tuple[int, int], ...] = ()
    decode: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepWork:
    """The sums over a batch that its step time depends on, in nominal tokens.

    Attributes:
        decoding: sequences that get one token.
        decode_context: their contexts.
        chunks: prompt chunks.
        prefill: new tokens of all chunks.
        prefill_context: context that chunks end with.
        prefill_pairs: pairs of tokens that attention in chunks multiplies.
    """

    decoding: float = 0.0
    decode_context: float = 0.0
    chunks: float = 0.0
    prefill: float = 0.0
    prefill_context: float = 0.0
    prefill_pairs: float = 0.0


def sum_batch(batch: StepBatch) -> StepWork:
    """Return what a batch comes to."""
    return StepWork(
        decoding=len(batch.decode),
        decode_context=sum(batch.decode),
        chunks=len(batch.prefill),
        prefill=sum(new for new, _ in batch.prefill),
        prefill_context=sum(before + new for new, before in batch.prefill),
        prefill_pairs=sum(new * (before + new / 2) for new, before in batch.prefill),
    )


def step_time(
    profile: AcceleratorProfile, model: NominalModel, devices: int, batch: StepBatch
) -> float:
    """Return the seconds one step takes on `devices` devices working as one; 0 for no work."""
    return time_work(profile, model, devices, sum_batch(batch))


def time_work(
    profile: AcceleratorProfile, model: NominalModel, devices: int, work: StepWork
) -> float:
    """Return the seconds a step with this much work takes; 0 for none."""
    sequences = work.decoding + work.chunks
    if not sequences:
        return 0.0
    overhead = model.layers * profile.layer_overhead.value + profile.step_overhead.value
    overhead += sequences * profile.sequence_overhead.value
    busy = time_kernels(profile, model, devices, work)
    return busy + overhead + _time_all_reduces(profile, model, devices, work)


def _count_tokens(profile: AcceleratorProfile, work: StepWork) -> float:
    decoding = max(work.decoding, profile.batch_padding.value) if work.decoding else 0.0
    return decoding + work.prefill


def time_kernels(
    profile: AcceleratorProfile, model: NominalModel, devices: int, work: StepWork
) -> float:
    """Return the seconds of a step with some work in which the devices read or multiply."""
    tokens = _count_tokens(profile, work)
    sequences = work.decoding + work.chunks
    small = sequences < profile.small_batch.value
    reached = profile.small_batch_bandwidth_efficiency if small else profile.bandwidth_efficiency
    read = 1 / (reached.value * profile.memory_bandwidth.value * devices)
    compute = 1 / (profile.compute_efficiency.value * devices)
    multiply = compute / profile.peak_compute.value
    attend = compute / profile.attention_compute.value
    pair = 4 * model.layers * model.model_width * attend
    cached = cache_bytes(profile, model, devices) * read
    layers, head = model.layer_parameters, model.head_parameters
    return (
        max(layers * profile.weight_bytes.value * read, 2 * layers * tokens * multiply)
        + max(
            head * profile.head_bytes.value * read,
            2 * head * sequences * compute / profile.head_compute.value,
        )
        + work.decode_context * max(cached, pair)
        + max(work.prefill_context * cached, work.prefill_pairs * pair)
    )


def _time_all_reduces(
    profile: AcceleratorProfile, model: NominalModel, devices: int, work: StepWork
) -> float:
    if devices == 1:
        return 0.0
    tokens = _count_tokens(profile, work)
    sent = 2 * (devices - 1) / devices * tokens * model.model_width * ACTIVATION_BYTES
    link = profile.link_bandwidth.value * profile.link_efficiency.value
    return 2 * model.layers * (profile.all_reduce.value + sent / link)
