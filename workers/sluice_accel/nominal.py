"""Nominal models: the published shapes whose step times an emulated device reproduces."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class NominalModel:
    """Shape of a published decoder; the tokens themselves come from the compact model.

    Attributes:
        parameters: all of them, with embedding and output head.
        layers, model_width, kv_heads, head_width, vocabulary: as in its published configuration;
            embedding and head are matrices of their own (untied).
    """

    name: str
    parameters: float
    layers: int
    model_width: int
    kv_heads: int
    head_width: int
    vocabulary: int
    source: str

    @property
    def head_parameters(self) -> float:
        """Weights of the output head; the embedding, of the same size, is looked up, not read."""
        return float(self.vocabulary * self.model_width)

    @property
    def layer_parameters(self) -> float:
        """Weights of all layers together, which every step reads and every token multiplies."""
        return self.parameters - 2 * self.head_parameters


_MODELS = (
    NominalModel(
        "llama-3.3-70b", 70.6e9, 80, 8192, 8, 128, 128256, "Meta, Llama 3.3 70B config.json"
    ),
    NominalModel(
        "llama-3.1-8b", 8.03e9, 32, 4096, 8, 128, 128256, "Meta, Llama 3.1 8B config.json"
    ),
)

NOMINAL_MODELS: Final[Mapping[str, NominalModel]] = MappingProxyType(
    {model.name: model for model in _MODELS}
)
