"""What vendors publish of accelerators: the numbers behind the profiles, per device.

Numbers that are recalled from a vendor's pages but were not read again count as assumed. NVIDIA's
sheets were read as ml-engineering (S. Bekman) copies them, Microsoft's texts as others copied them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sluice_accel.quantities import Quantity, assumed, derived, published


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of device.

    Attributes:
        memory: bytes of device memory; a vendor's GB are taken as 10^9.
        memory_bandwidth: bytes/s of device memory.
        peaks: FLOP/s of dense products, by number format.
        link_bandwidth: bytes/s to other devices of the node, one direction.
        power: watts, by design.
        numerics: name of the format it serves in unless told otherwise.
    """

    name: str
    memory: Quantity
    memory_bandwidth: Quantity
    peaks: Mapping[str, Quantity]
    link_bandwidth: Quantity
    power: Quantity
    numerics: str


_MAIA_100 = "Microsoft, Maia 100, Hot Chips 2024"
_MAIA_200 = "Microsoft, Maia 200, 26 January 2026"
_AWS = "AWS Neuron documentation, Trainium2"
_GOOGLE = "Google Cloud documentation, TPU v6e"


def _nvidia(
    name: str,
    label: str,
    memory: float,
    bandwidth: float,
    peaks: Mapping[str, float],
    link: float,
    power: float,
    numerics: str,
) -> Hardware:
    sheet = f"NVIDIA {label} data sheet"
    return Hardware(
        name,
        published(memory, "B", sheet),
        published(bandwidth, "B/s", sheet),
        {kind: published(peak, "FLOP/s", f"{sheet}, dense") for kind, peak in peaks.items()},
        assumed(link / 2, "B/s", f"half of NVLink's {link / 1e9:g} GB/s in both directions"),
        published(power, "W", sheet),
        numerics,
    )


_KINDS = (
    Hardware(
        "maia-100",
        published(64e9, "B", _MAIA_100),
        published(1.8e12, "B/s", _MAIA_100),
        {
            "bf16": published(800e12, "FLOP/s", _MAIA_100),
            "mx9": published(1500e12, "FLOP/s", f"{_MAIA_100}: 9-bit; that this is MX9 is assumed"),
            "mx6": published(3000e12, "FLOP/s", f"{_MAIA_100}: 6-bit; that this is MX6 is assumed"),
        },
        published(600e9, "B/s", f"{_MAIA_100}: 12 x 400 Gbit/s"),
        published(700, "W", f"{_MAIA_100}: design power; 500 W provisioned"),
        "mx9",
    ),
    Hardware(
        "maia-200",
        published(216e9, "B", _MAIA_200),
        published(7e12, "B/s", _MAIA_200),
        {
            "bf16": assumed(1270e12, "FLOP/s", "recalled from press on Maia 200"),
            "fp8": published(5e15, "FLOP/s", f"{_MAIA_200}: more than 5 PFLOPS"),
            "fp4": published(10e15, "FLOP/s", f"{_MAIA_200}: more than 10 PFLOPS"),
        },
        derived(1.4e12, "B/s", f"half of 2.8 TB/s in both directions ({_MAIA_200})"),
        published(750, "W", _MAIA_200),
        "fp8-block",
    ),
    _nvidia("a100", "A100 SXM", 80e9, 2.0e12, {"bf16": 312e12}, 600e9, 400, "bf16"),
    _nvidia(
        "h100",
        "H100 SXM",
        80e9,
        3.35e12,
        {"bf16": 989e12, "fp8": 1.979e15},
        900e9,
        700,
        "fp8",
    ),
    _nvidia(
        "h200", "H200 SXM", 141e9, 4.8e12, {"bf16": 989e12, "fp8": 1.979e15}, 900e9, 700, "fp8"
    ),
    _nvidia(
        "b200",
        "B200 SXM",
        180e9,
        8.0e12,
        {"bf16": 2.25e15, "fp8": 4.5e15, "fp4": 9e15},
        1.8e12,
        1000,
        "fp8",
    ),
    Hardware(
        "trainium2",
        published(96 * 2**30, "B", f"{_AWS}: 96 GiB"),
        published(2.9e12, "B/s", _AWS),
        {
            "bf16": published(667e12, "FLOP/s", _AWS),
            "fp8": published(1.299e15, "FLOP/s", _AWS),
        },
        assumed(640e9, "B/s", "half of the published 1.28 TB/s, taken as both directions"),
        assumed(500, "W", "not published"),
        "fp8",
    ),
    Hardware(
        "tpu-v6e",
        published(32e9, "B", _GOOGLE),
        published(1.64e12, "B/s", _GOOGLE),
        {"bf16": published(918e12, "FLOP/s", _GOOGLE)},
        assumed(400e9, "B/s", "half of the published 800 GB/s, taken as both directions"),
        assumed(300, "W", "not published"),
        "bf16",
    ),
)

HARDWARE: Final[Mapping[str, Hardware]] = MappingProxyType({kind.name: kind for kind in _KINDS})
