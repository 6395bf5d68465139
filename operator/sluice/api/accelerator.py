"""AcceleratorClass: how a kind of device is found, paid for, checked and, if emulated, timed."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from sluice.api.base import (
    DNS_NAME,
    LABEL_KEY,
    LABEL_NAME,
    ApiModel,
    ApiVersion,
    Count,
    Metadata,
)
from sluice.api.numerics import ABOUT, NumericsName, check_fit, write_rules
from sluice.api.quantities import (
    DURATION,
    DecimalString,
    Duration,
    Percent,
    PositiveDuration,
)
from sluice.api.rules import RULES, Form, matches, rule
from sluice_accel.profiles import PROFILES

CLASS_NAME = Form(
    "^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$",
    "must be at most 20 lower-case letters, digits and dashes, since workers are named"
    " <pool>-<class>",
    longest=20,
)
LABEL_VALUE = Form(
    f"^({LABEL_NAME})?$",
    "must be a label value: at most 63 letters, digits, dashes, underscores and full stops",
    longest=63,
)
RESOURCE_NAME = Form(
    f"^{DNS_NAME}/{LABEL_NAME}$",
    "must be an extended resource with the domain of its device plugin, such as nvidia.com/gpu",
    longest=316,
)
CONDITION = Form(
    "^[A-Za-z0-9]([-A-Za-z0-9_./]{0,61}[A-Za-z0-9])?$",
    "must be the type of a node condition, such as AcceleratorHealthy",
    longest=63,
)
_NATIVE = "must not lie in kubernetes.io: name the extended resource of the device plugin"
_BAD_KEY = f"every key {LABEL_KEY.sentence}"
_TIMEOUT = "must not be longer than period, or probes of one worker would overlap"

ProfileName = StrEnum("ProfileName", {name: name for name in PROFILES})  # type: ignore[misc]


def _require_plugin(name: str) -> str:
    domain = name.partition("/")[0]
    if domain == "kubernetes.io" or domain.endswith(".kubernetes.io"):
        raise ValueError(f"{name!r} {_NATIVE}")
    return name


LabelKey = Annotated[str, AfterValidator(LABEL_KEY.check)]
LabelValue = Annotated[
    str, AfterValidator(LABEL_VALUE.check), WithJsonSchema(LABEL_VALUE.describe())
]
ConditionType = Annotated[
    str, AfterValidator(CONDITION.check), WithJsonSchema(CONDITION.describe())
]
TaintKey = Annotated[str, AfterValidator(LABEL_KEY.check), WithJsonSchema(LABEL_KEY.describe())]
ResourceName = Annotated[
    str,
    AfterValidator(RESOURCE_NAME.check),
    AfterValidator(_require_plugin),
    WithJsonSchema(
        RESOURCE_NAME.describe(rule("!self.matches('^([^/]*[.])?kubernetes[.]io/')", _NATIVE))
    ),
]


class Price(ApiModel):
    """What a device costs."""

    on_demand: DecimalString = Field(
        description='Dollars for one device for one hour, as a string such as "12.29". It decides'
        " what a pool costs (status.costPerHour)."
    )


class Liveness(ApiModel):
    """How a worker's pulse is taken."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                # A text that is no duration has its own sentence; here it would end in an error.
                rule(
                    f"!{matches('self.period', DURATION.pattern)}"
                    f" || !{matches('self.timeout', DURATION.pattern)}"
                    " || duration(self.timeout) <= duration(self.period)",
                    _TIMEOUT,
                    ".timeout",
                )
            ]
        }
    )

    period: PositiveDuration = Field(
        default=1.0, description="Time between two probes of one worker."
    )
    timeout: PositiveDuration = Field(
        default=0.5, description="A probe without an answer after this long is a miss."
    )
    failures: Count = Field(
        default=3,
        ge=1,
        le=100,
        description="Misses in a row that make a worker Failed: it gets no traffic, its pod is"
        " deleted and its node quarantined. The first miss already keeps new requests away. An"
        " answer of the worker itself that it is stuck counts for one and a half.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Liveness":
        if self.timeout > self.period:
            raise ValueError(f"timeout {_TIMEOUT}")
        return self


class KnownAnswerProbes(ApiModel):
    """How often workers are asked for answers that are known."""

    period: PositiveDuration = Field(
        default=10.0,
        description="Shortest time between two rounds of known answers on one worker.",
    )


class Health(ApiModel):
    """How workers and nodes of the class are judged."""

    node_conditions: list[ConditionType] = Field(
        default=["AcceleratorHealthy"],
        max_length=8,
        description="Node conditions, set by the node's health agent, that speak against a node"
        " while they are False; its workers count as failed. They count only while the node's Lease"
        " is renewed. A condition that a node does not have says nothing.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    liveness: Liveness = Field(
        default_factory=Liveness,
        description="How a worker's pulse is taken: GET /healthz on its pod.",
    )
    known_answers: KnownAnswerProbes = Field(
        default_factory=KnownAnswerProbes,
        description="How often each worker is asked what is known (probes.json beside the weights)."
        " One wrong answer takes the node out until somebody releases it.",
    )
    return_after: Duration = Field(
        default=60.0,
        description="How long a quarantined node must have looked good before Sluice lets its"
        " devices prove themselves with known answers; doubled each time it fails again within an"
        " hour. Then its taint goes, and its share climbs by spec.shift.ramp of each pool.",
    )
    latch_after_flaps: Count = Field(
        default=3,
        ge=1,
        le=10,
        description="How often within an hour a node may fail again: after it came back, in its"
        " proof, or after it had looked good for 5 s. Each time doubles returnAfter; at this count"
        " the node stays out until somebody annotates it with sluice.dev/release.",
    )
    max_unhealthy: Percent = Field(
        default=0.5,
        description="Breaker: share of the class's nodes whose workers may be deleted at the same"
        " time, but at least one node; empty ones that were latched over an hour ago, up to this"
        " share, are not counted. Traffic leaves a failed worker whatever this says, and other"
        " classes scale up.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Health":
        if len(set(self.node_conditions)) < len(self.node_conditions):
            raise ValueError("nodeConditions must not name a condition twice")
        return self


class ClassEmulation(ApiModel):
    """How emulated devices of the class behave."""

    profile: ProfileName = Field(
        description="Timing profile: how long the emulated device takes for a step. Each constant"
        " in it is tagged published, derived or assumed; Maia's are mostly assumed."
        " maia-200-neutral leaves out what is assumed to favour large batches."
    )
    startup: Duration = Field(
        default=60.0,
        description="Time from the start of a worker until it serves, as it would be on the real"
        " device (runtime and weights).",
    )
    time_compression: Count = Field(
        default=1,
        ge=1,
        le=1000,
        description="Divides startup, so that a demonstration need not wait; steps are never"
        " compressed. An emulated start takes startup / timeCompression, and the worker's log says"
        " so.",
    )


class AcceleratorClassSpec(ApiModel):
    """How a kind of device is found, paid for, checked and, where it is emulated, timed."""

    model_config = ConfigDict(json_schema_extra={RULES: [*write_rules()]})

    node_selector: dict[LabelKey, LabelValue] = Field(
        min_length=1,
        max_length=16,
        description="Labels that a node must have, all of them, to count as one of this class. A"
        " node that several classes select is judged by the strictest of their"
        " health.nodeConditions, returnAfter and latchAfterFlaps. May be edited: workers then roll"
        " to the nodes it selects.",
        json_schema_extra={
            RULES: [rule(f"self.all(key, {matches('key', LABEL_KEY.pattern)})", _BAD_KEY)]
        },
    )
    taint_key: TaintKey | None = Field(
        default=None,
        description="Key of the taint that keeps other pods off these nodes; workers of the class"
        " tolerate it, whatever its value. Leave out if they have none. May be edited; workers"
        " roll.",
    )
    resource_name: ResourceName = Field(
        description="Extended resource that the nodes' device plugin offers, such as"
        " nvidia.com/gpu; a worker requests devicesPerWorker of it. May be edited; workers roll.",
    )
    devices_per_worker: Count = Field(
        default=1,
        ge=1,
        le=64,
        description="Devices that one worker takes, unless a pool's variant says otherwise. The"
        " model is split over them.",
    )
    numerics: NumericsName | None = Field(
        default=None,
        description="What workers of the class compute in, unless a pool's variant says otherwise;"
        f" answers depend on it. One of {ABOUT}. Default: what emulation.profile stands for"
        " (docs/numerics.md), without one the worker's own. `sluice parity` tells what moving"
        " traffic between two classes does to answers. May be edited; workers roll.",
    )
    price: Price = Field(description="What a device costs.")
    health: Health = Field(
        default_factory=Health, description="How workers and nodes of the class are judged."
    )
    emulation: ClassEmulation | None = Field(
        default=None,
        description="How emulated devices behave; leave out with real hardware. A worker is paced"
        " only if its pool has spec.model.emulation too.",
    )

    @model_validator(mode="after")
    def _check(self) -> "AcceleratorClassSpec":
        if self.emulation is not None:
            check_fit(self.numerics, self.emulation.profile)
        return self


class AcceleratorClass(ApiModel):
    """An AcceleratorClass describes one kind of device to Sluice.

    How its nodes are found in the cluster, what it costs, how its workers are checked and, where
    it is emulated, how long its steps take. Pools name classes in spec.variants.
    """

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    matches("self.metadata.name", CLASS_NAME.pattern),
                    f"metadata.name {CLASS_NAME.sentence}",
                )
            ]
        }
    )

    api_version: ApiVersion = Field(description="sluice.dev/v1alpha1")
    kind: Literal["AcceleratorClass"] = Field(description="AcceleratorClass")
    metadata: Metadata = Field(description="Standard metadata.")
    spec: AcceleratorClassSpec = Field(
        description="How a kind of device is found, paid for, checked and, where it is emulated,"
        " timed."
    )

    @model_validator(mode="after")
    def _check(self) -> "AcceleratorClass":
        CLASS_NAME.check(self.metadata.name)
        return self
