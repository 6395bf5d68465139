"""Published measurements that the step-time model is compared with, as data: one row a number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from sluice_accel.nominal import NOMINAL_MODELS, NominalModel


class Measure(StrEnum):
    """What a row says."""

    MOST_TOKENS = "most tokens"
    """Output tokens/s with all requests sent at once, as `trtllm-bench throughput` does."""
    BATCH_TOKENS = "batch tokens"
    """Output tokens/s of one batch, from its prompts to its last tokens."""
    DECODE_TOKENS = "decode tokens"
    """Output tokens/s while decoding."""
    FIRST_TOKEN = "first token"  # noqa: S105 - no password
    """Seconds from a batch's prompts to its first tokens."""


@dataclass(frozen=True, slots=True)
class Row:
    """One published number.

    Attributes:
        group: under which it is reported.
        hardware, numerics: names in `HARDWARE` and `NUMERICS`.
        sequences: requests sent (MOST_TOKENS), else sequences of the batch.
        prompt, output: tokens of each request.
        value: in the measure's unit.
    """

    group: str
    measure: Measure
    hardware: str
    numerics: str
    model: str
    devices: int
    sequences: int
    prompt: int
    output: int
    value: float
    source: str

    @property
    def shape(self) -> str:
        """Lengths, with the batch where it is 1: what is left out together."""
        if self.sequences == 1:
            return "batch 1"
        return f"{self.prompt}/{self.output}"


MODELS: Final[Mapping[str, NominalModel]] = MappingProxyType(
    {
        **NOMINAL_MODELS,
        "gpt-j-6b": NominalModel(
            "gpt-j-6b", 6.05e9, 28, 4096, 16, 256, 50400, "EleutherAI, GPT-J 6B config.json"
        ),
        "llama-2-7b": NominalModel(
            "llama-2-7b", 6.74e9, 32, 4096, 32, 128, 32000, "Meta, Llama 2 7B config.json"
        ),
    }
)
"""Every model that a row is of, by name."""

EIGHT_B: Final = "8B FP8"
"""How the groups of the yardstick for 8B begin."""
SEVENTY_B: Final = "70B"
"""How the groups of the yardstick for 70B begin."""

_OVERVIEW = "NVIDIA, TensorRT-LLM v1.0, docs/source/performance/perf-overview.md"
_COMPARISON = "NVIDIA, TensorRT-LLM v0.5.0, docs/source/blogs/H100vsA100.md"
_GPT_FAST = "PyTorch, gpt-fast README"

_REQUESTS = {
    (128, 128): 30000,
    (128, 2048): 3000,
    (128, 4096): 1500,
    (500, 2000): 3000,
    (1000, 1000): 3000,
    (1000, 2000): 1500,
    (2048, 128): 3000,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20000, 2000): 1000,
}
"""Requests that NVIDIA sent, by lengths of prompt and output."""

_MOST_TOKENS: Final = (
    # group, hardware, numerics, model, devices, tokens/s in the order of _REQUESTS
    (
        f"{EIGHT_B}, H100",
        ("h100", "fp8", "llama-3.1-8b", 1),
        (28312, 22714, 14325, 17660, 15220, 13899, 3450, 9305, 3459, 1351),
    ),
    (
        f"{EIGHT_B}, H200",
        ("h200", "fp8", "llama-3.1-8b", 1),
        (27911, 26221, 18027, 20770, 17744, 16828, 3538, 12194, 3902, 1804),
    ),
    (
        f"{SEVENTY_B} FP8, 2 H100",
        ("h100", "fp8", "llama-3.3-70b", 2),
        (6378, 6651, 4199, 5222, 4205, 4146, 762, 3082, 898, 437),
    ),
    (
        f"{SEVENTY_B} FP8, H200",
        ("h200", "fp8", "llama-3.3-70b", 1),
        (3803, 4336, 2872, 3666, 2909, 2994, 442, 2003, 566, 283),
    ),
    (
        f"{SEVENTY_B} FP4, B200",
        ("b200", "fp4", "llama-3.3-70b", 1),
        (11147, 9922, 6831, 7762, 7007, 6271, 1339, 4783, 1459, 665),
    ),
)


def _list_rows() -> Iterator[Row]:
    for group, (hardware, numerics, model, devices), values in _MOST_TOKENS:
        for ((prompt, output), requests), value in zip(_REQUESTS.items(), values, strict=True):
            yield Row(
                group,
                Measure.MOST_TOKENS,
                hardware,
                numerics,
                model,
                devices,
                requests,
                prompt,
                output,
                value,
                _OVERVIEW,
            )
    for hardware, numerics, name, most, first, alone, alone_first in (
        ("h100", "fp8", "6B FP8, H100", 10907, 0.102, 185, 0.0071),
        ("a100", "bf16", "6B FP16, A100", 3679, 0.481, 111, 0.0125),
    ):
        of = (hardware, numerics, "gpt-j-6b", 1)
        yield Row(name, Measure.BATCH_TOKENS, *of, 64, 128, 128, most, _COMPARISON)
        yield Row(name, Measure.FIRST_TOKEN, *of, 64, 128, 128, first, _COMPARISON)
        yield Row(name, Measure.DECODE_TOKENS, *of, 1, 128, 128, alone, _COMPARISON)
        yield Row(name, Measure.FIRST_TOKEN, *of, 1, 128, 128, alone_first, _COMPARISON)
    for numerics, rate in (("bf16", 104.9), ("int8-weights", 155.6), ("int4-weights", 196.8)):
        of = ("a100", numerics, "llama-2-7b", 1)
        # The lengths are assumed; at batch 1, these hardly matter.
        yield Row("7B, A100", Measure.DECODE_TOKENS, *of, 1, 8, 200, rate, _GPT_FAST)


ROWS: Final = tuple(_list_rows())


@dataclass(frozen=True, slots=True)
class LoadRow:
    """Latency under a number of clients that each send their next request at once.

    Attributes:
        clients: at the same time.
        first: s to the first token.
        between: s from token to token.
        rate: output tokens/s.
    """

    clients: int
    first: float
    between: float
    rate: float


LOAD_SOURCE: Final = (
    "NVIDIA NIM 1.8.0, Llama 3.3 70B FP8 on 2 H100, prompts of 5,000, outputs of 500"
)
LOAD_LENGTHS: Final = (5000, 500)
LOAD_ROWS: Final = (
    LoadRow(1, 0.407, 0.0186, 52),
    LoadRow(5, 0.547, 0.0218, 218),
    LoadRow(25, 0.689, 0.0388, 623),
    LoadRow(50, 0.835, 0.0597, 814),
    LoadRow(100, 7.996, 0.0929, 917),
    LoadRow(250, 88.605, 0.0932, 920),
)
"""Never fitted: they show whether the knee is where it was measured."""
