"""InferencePool: what to serve, within which SLO, on which accelerator classes."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from sluice.api.base import ApiModel
from sluice.api.quantities import Duration, Percent
from sluice_accel.nominal import NOMINAL_MODELS

MAX_POOL_NAME = 40
"""Longest pool name, so that `<pool>-<class>` fits a label value of 63 characters."""

NominalName = StrEnum("NominalName", {name: name for name in NOMINAL_MODELS})  # type: ignore[misc]


class Mode(StrEnum):
    """Who moves things."""

    AUTOMATIC = "Automatic"
    PAUSED = "Paused"


class ModelSource(ApiModel):
    """Where the weights are."""

    path: Annotated[str, StringConstraints(pattern=r"^/.*$", max_length=256)] = Field(
        description="Absolute path of the checkpoint inside the worker's image, in Hugging Face"
        " layout (config.json, model.safetensors, tokenizer.json)."
    )


class ModelEmulation(ApiModel):
    """Which large model the emulated devices pretend to run."""

    nominal: NominalName = Field(
        description="Published model whose step times the emulated device reproduces; the tokens"
        " still come from the model at source."
    )
    token_scale: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Nominal tokens of prompt and context that one real token stands for; output"
        " tokens count one for one.",
    )


class Model(ApiModel):
    """The model that a pool serves."""

    name: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?$", max_length=63),
    ] = Field(
        description="What requests say in `model`. Unique in the cluster: of two pools with one"
        " name the older serves it and the other says ModelNameTaken."
    )
    source: ModelSource = Field(description="Where the weights are.")
    emulation: ModelEmulation | None = Field(
        default=None,
        description="Which large model emulated devices pretend to run; leave out with real"
        " hardware. Acts together with the class's spec.emulation.",
    )


class SLO(ApiModel):
    """The objective: the share of requests that keep both bounds."""

    ttft: Duration = Field(
        description="Longest time to first token, queueing included, as users feel it."
    )
    tpot: Duration = Field(description="Longest mean time per output token after the first.")
    objective: Percent = Field(
        default=0.99,
        validate_default=True,
        description="Share of requests that must meet both; lost and refused requests count as"
        " misses.",
    )

    @model_validator(mode="after")
    def _check(self) -> "SLO":
        if self.ttft <= 0 or self.tpot <= 0:
            raise ValueError("ttft and tpot must be longer than 0s")
        if not 0 < self.objective < 1:
            raise ValueError("objective must lie between 0% and 100%, both excluded")
        return self


class LocalObjectReference(ApiModel):
    """A name in the pool's namespace."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        description="Name of the object."
    )


class WorkerTemplate(ApiModel):
    """What a variant changes on the worker pods that Sluice renders."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        default=None, description="Image of the worker container."
    )
    command: list[Annotated[str, StringConstraints(max_length=1024)]] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Command in place of sluice-worker; it gets the same arguments.",
    )
    env: list[dict[str, Any]] | None = Field(
        default=None,
        max_length=64,
        description="Environment variables added to the worker container, as in a pod.",
    )
    resources: dict[str, Any] | None = Field(
        default=None,
        description="Requests and limits of the worker container; the devices are added to them.",
    )
    tolerations: list[dict[str, Any]] | None = Field(
        default=None,
        max_length=16,
        description="Tolerations beside the one for the class's taint, as in a pod.",
    )
    image_pull_secrets: list[LocalObjectReference] | None = Field(
        default=None, max_length=8, description="Secrets to pull the image with, as in a pod."
    )


class VariantSpec(ApiModel):
    """The pool's workers on one accelerator class."""

    accelerator_class: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=20)
    ] = Field(description="Name of the AcceleratorClass.")
    min: int = Field(default=0, ge=0, le=1000, description="Fewest workers, also without demand.")
    max: int = Field(ge=0, le=1000, description="Most workers.")
    max_share: Percent = Field(
        default=1.0,
        validate_default=True,
        description="Largest share of the pool's traffic while other variants serve.",
    )
    devices: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Devices per worker; the class says if left out.",
    )
    template: WorkerTemplate | None = Field(
        default=None, description="What to change on the worker pods."
    )

    @model_validator(mode="after")
    def _check(self) -> "VariantSpec":
        if self.min > self.max:
            raise ValueError("min must not be larger than max")
        return self


class Autoscaling(ApiModel):
    """How the worker counts follow demand."""

    mode: Mode = Field(
        default=Mode.AUTOMATIC,
        description="Automatic, or Paused: counts stay as they are, within min and max.",
    )
    headroom: Percent = Field(
        default=0.2,
        validate_default=True,
        description="Capacity kept beyond the demand, for what arrives while workers start.",
    )
    stable_window: Duration = Field(
        default=300.0,
        validate_default=True,
        description="How long less must have been enough before a worker is removed.",
    )


class Shift(ApiModel):
    """How capacity moves between variants."""

    hold_down: Duration = Field(
        default=120.0,
        validate_default=True,
        description="Shortest time between a scaling step and a step back. Fallback and scale-up"
        " for the SLO never wait.",
    )


class Fallback(ApiModel):
    """What happens when capacity is lost to health."""

    mode: Mode = Field(
        default=Mode.AUTOMATIC,
        description="Automatic: the other variants take what is missing, at once. Paused: they do"
        " not.",
    )


class InferencePoolSpec(ApiModel):
    """What to serve, within which SLO, on which accelerator classes."""

    model: Model = Field(description="The model to serve.")
    slo: SLO = Field(description="The objective that the pool is kept inside.")
    priority: int = Field(
        default=0,
        ge=-1000000,
        le=1000000,
        description="Which pool gets devices first when not all fit; higher goes first. A pool of"
        " lower priority yields what lies above its minima.",
    )
    variants: list[VariantSpec] = Field(
        min_length=1,
        max_length=8,
        description="Accelerator classes to run on, the preferred one first: it is filled before"
        " the next one.",
    )
    autoscaling: Autoscaling = Field(
        default_factory=Autoscaling, description="How the worker counts follow demand."
    )
    shift: Shift = Field(default_factory=Shift, description="How capacity moves between variants.")
    fallback: Fallback = Field(
        default_factory=Fallback, description="What happens when capacity is lost to health."
    )

    @model_validator(mode="after")
    def _check(self) -> "InferencePoolSpec":
        names = [variant.accelerator_class for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError("variants must not name an acceleratorClass twice")
        if all(variant.max == 0 for variant in self.variants):
            raise ValueError("at least one variant must have a max above 0")
        return self
