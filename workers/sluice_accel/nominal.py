"""Nominal models: the published shapes whose step times an emulated device reproduces."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class NominalModel:
    """Shape of a published decoder; the tokens themselves come from the compact model.

    Attributes:
        parameters: weights read in every decode step.
        layers, model_width, kv_heads, head_width: as in its published configuration.
    """

    name: str
    parameters: float
    layers: int
    model_width: int
    kv_heads: int
    head_width: int
    source: str


_MODELS = (
    NominalModel("llama-3.3-70b", 70.6e9, 80, 8192, 8, 128, "Meta, Llama 3.3 70B config.json"),
    NominalModel("llama-3.1-8b", 8.03e9, 32, 4096, 8, 128, "Meta, Llama 3.1 8B config.json"),
)

NOMINAL_MODELS: Final[Mapping[str, NominalModel]] = MappingProxyType(
    {model.name: model for model in _MODELS}
)
