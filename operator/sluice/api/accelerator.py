"""AcceleratorClass: how a kind of device is found, paid for, checked and, if emulated, timed."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from sluice.api.base import ApiModel
from sluice.api.quantities import DecimalString, Duration, Percent
from sluice_accel.profiles import PROFILES

MAX_CLASS_NAME = 20
"""Longest class name, so that `<pool>-<class>` fits a label value of 63 characters."""

ProfileName = StrEnum("ProfileName", {name: name for name in PROFILES})  # type: ignore[misc]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=316)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
QualifiedName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        max_length=316,
    ),
]


class Price(ApiModel):
    """What a device costs."""

    on_demand: DecimalString = Field(description="Dollars per device-hour.")


class Liveness(ApiModel):
    """How a worker's pulse is taken."""

    period: Duration = Field(
        default=1.0, validate_default=True, description="Time between two probes."
    )
    timeout: Duration = Field(
        default=0.5, validate_default=True, description="Longest time to an answer."
    )
    failures: int = Field(
        default=3, ge=1, le=100, description="Misses in a row that make a worker Failed."
    )

    @model_validator(mode="after")
    def _check(self) -> "Liveness":
        if self.period <= 0 or self.timeout <= 0:
            raise ValueError("period and timeout must be longer than 0s")
        if self.timeout > self.period:
            raise ValueError("timeout must not be longer than period")
        return self


class Health(ApiModel):
    """How nodes of the class are judged."""

    liveness: Liveness = Field(
        default_factory=Liveness, description="How a worker's pulse is taken."
    )
    return_after: Duration = Field(
        default=60.0,
        validate_default=True,
        description="How long a quarantined node must have been good before it gets workers again.",
    )
    max_unhealthy: Percent = Field(
        default=0.5,
        validate_default=True,
        description="Share of the class's nodes whose workers may be deleted at once, at least one"
        " node. Traffic and scale-up elsewhere are never held back by it.",
    )


class ClassEmulation(ApiModel):
    """How emulated devices of the class behave."""

    profile: ProfileName = Field(
        description="Timing profile of the emulated device; its constants are published, derived"
        " or assumed, each tagged in workers/sluice_accel."
    )
    startup: Duration = Field(
        default=60.0,
        validate_default=True,
        description="Time a worker takes to load before it serves.",
    )
    time_compression: int = Field(
        default=1, ge=1, le=1000, description="The start-up is this many times shorter; logged."
    )


class AcceleratorClassSpec(ApiModel):
    """How a kind of device is found, paid for, checked and, where it is emulated, timed."""

    node_selector: dict[LabelKey, LabelValue] = Field(
        min_length=1, max_length=16, description="Labels of the nodes that carry the device."
    )
    taint_key: Annotated[str, StringConstraints(min_length=1, max_length=316)] | None = Field(
        default=None, description="Key of the taint on those nodes, which workers tolerate."
    )
    resource_name: QualifiedName = Field(
        description="Extended resource that the node's device plugin offers, as nvidia.com/gpu."
    )
    devices_per_worker: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Devices one worker takes, unless a pool says else.",
    )
    price: Price = Field(description="What a device costs.")
    health: Health = Field(
        default_factory=Health, description="How workers and nodes of the class are judged."
    )
    emulation: ClassEmulation | None = Field(
        default=None,
        description="How emulated devices behave; leave out with real hardware. Acts together with"
        " the pool's spec.model.emulation.",
    )
