"""Status of an InferencePool: decisions at once, measured numbers at two significant digits."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from sluice.api.base import ApiModel


class RampStatus(ApiModel):
    """Workers on nodes that came back from quarantine, while their traffic climbs."""

    share: str = Field(
        description="Part of the pool's traffic that the gateways send to them; a part of the"
        " variant's share."
    )
    pods: list[str] = Field(
        default_factory=list, max_length=4096, description="Their names: the gateways' list."
    )
    step: str = Field(
        description="Which step of spec.shift.ramp, as 2/5; 0/5 while a failed gate keeps all"
        " traffic away."
    )
    since: str = Field(
        description="When the step began.", json_schema_extra={"format": "date-time"}
    )
    hold: str | None = Field(
        default=None,
        description="What keeps it at its step past the dwell: AwaitingParity (too few of their"
        " answers were compared with another class's yet) or ParityFailed (too many differed), or"
        " ShadowFailed (without traffic: mirrored requests fail, or are too slow).",
    )


class VariantStatus(ApiModel):
    """One variant as it stands."""

    accelerator_class: str = Field(description="Name of the AcceleratorClass.")
    wanted: int = Field(description="Workers that the operator asks for.")
    ready: int = Field(description="Workers whose pod is ready and not terminating.")
    serving: int = Field(
        description="Workers that count: ready, not terminating, and healthy by our own probes."
    )
    share: str = Field(description="Part of the pool's traffic that the gateways send here.")
    capacity: str | None = Field(
        default=None,
        description="Requests/s that one worker is reckoned to sustain within the SLO at the"
        " observed token lengths.",
    )
    numerics: str | None = Field(
        default=None,
        description="What its workers compute in: spec.variants[].numerics, or what the class says."
        " Workers that a roll has not come to yet compute in what was said before.",
    )
    cost_per_hour: str = Field(
        description="Dollars an hour for the devices that its workers hold now."
    )
    quarantined: list[str] = Field(
        default_factory=list,
        max_length=4096,
        description="Pods that must get no traffic: their worker has failed, or their node is"
        " latched.",
    )
    ramp: RampStatus | None = Field(
        default=None,
        description="Workers on nodes that came back from quarantine, while their traffic climbs.",
    )


class PairStatus(ApiModel):
    """How far the answers of two classes agree, over the last 300 s."""

    accelerator_class: str = Field(description="The class that made the answers.")
    reference: str = Field(description="The class whose workers scored them, too.")
    verdict: str = Field(
        description="Agrees, Differs (a bound of spec.parity is broken) or Awaits (too few were"
        " compared)."
    )
    agreement: str | None = Field(
        default=None, description="Share of the judged tokens with the same likeliest one."
    )
    kl: str | None = Field(
        default=None, description="Mean KL divergence at the judged tokens, in nat."
    )
    audits: int = Field(description="Answers that were compared.")


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """A condition, in the usual Kubernetes form."""

    type: str = Field(
        max_length=316,
        description="Ready (a worker serves), Progressing (something is on its way), SLOMet (the"
        " objective holds over the window), FallbackActive (capacity was lost to health and others"
        " carry it) or Degraded (something is wrong; the message says what and what to do).",
    )
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(description="One CamelCase word for programs.", max_length=1024)
    message: str = Field(description="A sentence for people.", max_length=32768)
    last_transition_time: str = Field(
        description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that it speaks of."
    )


class DecisionRecord(ApiModel):
    """One thing that was decided."""

    time: str = Field(description="When.", json_schema_extra={"format": "date-time"})
    action: str = Field(description="What, as one word: ScaleUp, Spill, FallBack, …")
    reason: str = Field(description="Why, with the numbers that were compared.")


class InferencePoolStatus(ApiModel):
    """What became of the spec."""

    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that this status speaks of."
    )
    endpoint: str | None = Field(
        default=None, description="Base URL of the OpenAI API that serves this pool."
    )
    attainment: str | None = Field(
        default=None,
        description="Share of the window's requests that met the SLO; lost and refused ones are"
        " misses.",
    )
    cost_per_hour: str | None = Field(
        default=None, description="Dollars an hour for all devices that the pool holds now."
    )
    placement: str | None = Field(
        default=None,
        description="Where the pool runs, in short: class, serving/wanted workers and share of each"
        " variant.",
    )
    reason: str | None = Field(
        default=None, description="One word for the pool's state, or for its last decision."
    )
    message: str | None = Field(default=None, description="The sentence that belongs to reason.")
    variants: list[VariantStatus] = Field(
        default_factory=list, max_length=16, description="Each variant as it stands."
    )
    parity: list[PairStatus] = Field(
        default_factory=list,
        max_length=64,
        description="Pairs of classes whose answers were compared (spec.parity).",
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="What is true of the pool now: Ready, Progressing, SLOMet, FallbackActive,"
        " AnswersVerified, Degraded, and with spec.parity ParityMet.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    decisions: list[DecisionRecord] = Field(
        default_factory=list, max_length=10, description="The last ten decisions, oldest first."
    )
    memory: dict[str, Any] | None = Field(
        default=None,
        description="What the planner must remember across restarts; not for editing, nor for"
        " reading by other programs.",
    )
