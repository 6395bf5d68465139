"""Writes docs/accelerators.md: the model, every constant with its tag, limits, and how far off."""

from collections.abc import Iterator
from typing import Final

from sluice_accel.hardware import HARDWARE
from sluice_accel.memory import (
    LOAD_BANDWIDTH,
    RUNTIME_START,
    choose_devices,
    plan_memory,
    startup_time,
)
from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.numerics import NUMERICS
from sluice_accel.profiles import PROFILES, AcceleratorProfile, make_profile
from sluice_accel.quantities import Quantity
from sluice_accel.report import format_table, render_validation
from sluice_accel.thermal import (
    COOLANT,
    FULL_RISE,
    HOT_COOLANT,
    SHUTDOWN_ABOVE,
    THROTTLE_ABOVE,
    THROTTLE_UNTIL,
    THROTTLED_SLOWDOWN,
    TIME_CONSTANT,
    step_energy,
)
from sluice_accel.timing import StepWork, time_work
from sluice_accel.validation import Validation

_CONTEXT: Final = 4096
_BATCH: Final = 32

_INTRODUCTION: Final = """\
<!-- Made by `make generate` from workers/sluice_accel; do not edit. -->
# Emulated accelerators

How long a step of a nominal model takes on an emulated device, what fits its memory, and how far
that is from what is published. **Emulated devices, Maia constants assumed**: nothing here was
measured on hardware. Nobody has published token rates or latencies of Maia; of devices that are no
GPUs, only bandwidth, compute, memory, links and design power are published, as far as they are
tagged so.

## The model

Kernels of a step run one after the other; each waits for memory or for compute, whichever takes
longer. One step may prefill and decode, and then reads the weights once for both.

| Part of a step | Seconds |
|---|---|
| layers | max(weights' bytes / bw, 2 · weights · tokens / peak) |
| output head | the same with its own weights (bf16) and one row a sequence |
| attention of decode | max(cache read / bw, 4 · layers · width · contexts / peak of attention) |
| attention of prefill | the same, with the pairs of tokens of each chunk |
| overhead | layers · t_layer + t_step + sequences · t_seq |
| all-reduces, with more than one device | 2 · layers · (t_all_reduce + bytes / link), ring |

bw = η_bw · bandwidth · devices, peak = η_c · peak · devices. The form follows from what a step
does. Four constants (η_bw, η_c, t_layer, t_seq) are fitted, the same for all GPUs, formats and
models; all others are published or assumed. η_bw is bounded by 0.92, the highest share of memory
bandwidth that is published for sustained work (Microsoft on NVL72): a first fit without that
bound ran into 1.0, which no device reaches.

`maia-100` and `maia-200` carry knobs for "better at large batches" that are assumed (padding up to
16 sequences, 2 ms a step, 70 % of the bandwidth below 16 sequences); `maia-200-neutral` is without
them. Two more that one could assume are left out: waiting for a batch to form, and shapes that were
compiled. On the bare model Maia 200 is faster than an H100 at batch 1, too.

A worker's KV cache holds as many tokens as the weights of the nominal model leave room for
(`--token-scale` nominal ones each), and no more run at once; it refuses to start where not even one
whole context fits. Its start takes as long as loading the weights would (`--startup-seconds` says
otherwise, `--time-compression` divides it, and the log says so; steps are never compressed). It
counts the energy of its steps (`sluice_worker_device_energy_joules_total`; over
`vllm:generation_tokens_total` it is joules a token) and those that were computed too late
(`sluice_worker_steps_overrun_total`), and varies their times if told to (`--jitter`, `--seed`).
With `--numerics` it takes the time and memory of those, or is refused where the device has no such
products; with the reference numerics, those of the device's own format.

What a worker does with its devices (share of time in kernels, memory) it tells the node, which
makes of it what telemetry would show: power, temperature, use and memory, in the names of NVIDIA's
dcgm-exporter for every kind of device. Maia's names are not public: that they are these is assumed.
A device that is too hot throttles by itself, which with its cooling whole it never is.

Left out: on-chip memory, networks between nodes, prefix caches, speculative decoding, pipeline
parallelism, and kernels that get better or worse with shape. Vendors' GB are taken as 10^9 bytes.
"""

_SOURCES: Final = """\
Profiles that share a constant share a line; per device. NVIDIA's sheets were read as ml-engineering
(S. Bekman) copies them, Microsoft's texts as others copied them.
"""

_LIMITS: Final = f"""\
The fewest devices (1, 2, 4 or 8) that hold weights and a cache; sequences of {_CONTEXT:,} nominal
tokens; step, energy a token and rate while {_BATCH} of them decode, or as many as fit; start-up of
a worker. All computed, from constants that are partly assumed.
"""

_VALIDATION: Final = """\
`python -m sluice_accel validate` prints what follows. The form above was fixed first; then its
constants were fitted again and again with some rows left out, and compared with those. Throughput
rows are predicted by playing the published benchmark (requests, reserved cache, tokens a step) on
the model. Where it is known to be off:

- FP4 on B200 is predicted too fast: its products reach a smaller share of their peak than FP8's,
  and the model has one share for all formats.
- Long outputs on H100 are predicted too slow, and so are most rows at batch 1: the fit gives every
  step the cost a layer that large batches ask for.
- One yardstick is missed, 8B FP8 with its GPU left out, and H100 is why: without its rows, H200's
  alone say what FP8 takes of an 8B model, the fit gives every sequence 3.8 µs instead of 0.3, and
  H100's large batches come out 10 % too slow. H200 without its rows keeps the yardstick.
- TTFT below saturation depends on how clients' prompts happen to meet, which is not published;
  beyond it, the queue decides.
- Assumed constants were not fitted. One of them, the time of an all-reduce, was chosen in sight of
  a 70B row at batch 1, which no fit uses. Two things were changed after a look
  at all errors, left-out rows included: η_bw was bounded (without it, mean errors were 0.6 points
  smaller for 8B FP8 and the same for 70B, both with the fit without 70B), and clients under load
  begin at once, as benchmarks have them, instead of one after the other.
- Rows without lengths of prompts and outputs (MLPerf) have no place in it.
"""


def render_document(found: Validation) -> str:
    """Return the whole document."""
    lines = [_INTRODUCTION, "## Constants", ""]
    lines += [_SOURCES]
    lines += _render_constants()
    lines += ["Number formats, of which a profile takes its device's own:", ""]
    lines += _render_numerics()
    lines += ["Power, temperature and start-up:", "", *_render_other()]
    lines += ["## What fits", "", _LIMITS, *_render_limits()]
    lines += ["## How far off", "", _VALIDATION, render_validation(found)]
    return "\n".join(lines)


def _format(quantity: Quantity) -> str:
    return f"{quantity.value:.4g} {quantity.unit}".strip()


def _render_constants() -> Iterator[str]:
    shared: dict[tuple[str, Quantity], list[str]] = {}
    for name in next(iter(PROFILES.values())).list_quantities():
        for profile in PROFILES.values():
            quantity = profile.list_quantities()[name]
            shared.setdefault((name, quantity), []).append(profile.name)
    rows = [
        (
            f"`{name}`",
            "all" if len(of) == len(PROFILES) else ", ".join(of),
            _format(quantity),
            quantity.tag.value,
            quantity.source,
        )
        for (name, quantity), of in shared.items()
    ]
    yield from format_table(("Constant", "Profiles", "Value", "Tag", "Source"), rows)


def _render_numerics() -> Iterator[str]:
    rows = [
        (
            f"`{each.name}`",
            f"{each.weight_bytes.value:g} B ({each.weight_bytes.tag})",
            f"{each.cache_bytes.value:g} B ({each.cache_bytes.tag})",
            ", ".join(
                kind
                for kind, hardware in HARDWARE.items()
                if {each.products, each.attention} <= set(hardware.peaks)
            ),
        )
        for each in NUMERICS.values()
    ]
    yield from format_table(("Numerics", "Weight", "Cache element", "Devices that can"), rows)


def _render_other() -> Iterator[str]:
    constants = {
        "coolant": COOLANT,
        "coolant without cooling": HOT_COOLANT,
        "rise at design power": FULL_RISE,
        "time constant": TIME_CONSTANT,
        "throttles above": THROTTLE_ABOVE,
        "until below": THROTTLE_UNTIL,
        "shuts down above": SHUTDOWN_ABOVE,
        "slowdown while throttled": THROTTLED_SLOWDOWN,
        "loading of weights": LOAD_BANDWIDTH,
        "start of the runtime": RUNTIME_START,
    }
    rows = [
        (name, _format(quantity), quantity.tag.value, quantity.source)
        for name, quantity in constants.items()
    ]
    yield from format_table(("Constant", "Value", "Tag", "Source"), rows)


def _render_limits() -> Iterator[str]:
    rows = []
    for model in NOMINAL_MODELS.values():
        for name, profile in PROFILES.items():
            rows.append((model.name, name, *_describe_fit(profile, model.name)))
        rows.append(
            (model.name, "b200, fp4", *_describe_fit(make_profile("b200", "fp4"), model.name))
        )
    head = ("Model", "Profile", "Devices", "Cache, tokens", "Sequences", "Step", "J/token", "tok/s")
    yield from format_table((*head, "Start"), rows)


def _describe_fit(profile: AcceleratorProfile, nominal: str) -> tuple[str, ...]:
    model = NOMINAL_MODELS[nominal]
    devices = choose_devices(profile, model, _CONTEXT)
    if devices is None:
        return ("–",) * 7
    plan = plan_memory(profile, model, devices)
    fit = plan.count_sequences(_CONTEXT)
    batch = min(_BATCH, fit)
    work = StepWork(batch, batch * _CONTEXT)
    seconds = time_work(profile, model, devices, work)
    return (
        str(devices),
        f"{plan.tokens / 1e3:,.0f} k",
        str(fit),
        f"{seconds * 1e3:.1f} ms",
        f"{step_energy(profile, model, devices, work) / batch:.2f}",
        f"{batch / seconds:,.0f}",
        f"{startup_time(profile, model):.0f} s",
    )
