"""InferencePool: what to serve, within which SLO, on which accelerator classes."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from sluice.api.accelerator import CLASS_NAME
from sluice.api.base import ApiModel, ApiVersion, Count, Metadata
from sluice.api.numerics import ABOUT, NumericsName
from sluice.api.quantities import (
    PERCENT,
    DecimalString,
    Duration,
    InnerPercent,
    Percent,
    PositiveDuration,
)
from sluice.api.rules import RULES, Form, matches, rule
from sluice.api.status import InferencePoolStatus
from sluice.api.template import WorkerTemplate
from sluice_accel.nominal import NOMINAL_MODELS

POOL_NAME = Form(
    "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$",
    "must be at most 40 lower-case letters, digits and dashes, a letter first, since a Service"
    " <pool>-workers and Deployments <pool>-<class> are named after it",
    longest=40,
)
MODEL_NAME = Form(
    "^[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?$",
    "must be at most 63 letters, digits, dashes, underscores, full stops and slashes, with a letter"
    " or digit at both ends",
    longest=63,
)
PATH = Form(
    "^/[!-~]*$", "must be an absolute path such as /models/compact, without spaces", longest=256
)
_RENAMED = (
    "must stay as it is, since requests ask for it: make a second pool with the new name, move the"
    " clients, then delete this one"
)
_MIN_MAX = "must not be larger than max"
_FALLING = "must not fall from one step to the next"
_TWICE = "must not name an acceleratorClass twice: merge the two variants"
_NONE = "must have one with a max above 0, or the pool could never run a worker"

NominalName = StrEnum("NominalName", {name: name for name in NOMINAL_MODELS})  # type: ignore[misc]
ModelName = Annotated[
    str,
    AfterValidator(MODEL_NAME.check),
    WithJsonSchema(MODEL_NAME.describe(rule("self == oldSelf", _RENAMED))),
]
ModelPath = Annotated[str, AfterValidator(PATH.check), WithJsonSchema(PATH.describe())]
ClassName = Annotated[str, AfterValidator(CLASS_NAME.check), WithJsonSchema(CLASS_NAME.describe())]


class Mode(StrEnum):
    """Who moves things."""

    AUTOMATIC = "Automatic"
    PAUSED = "Paused"


class ModelSource(ApiModel):
    """Where the weights are."""

    path: ModelPath = Field(
        description="Absolute path of the checkpoint inside the worker's image, in Hugging Face"
        " layout (config.json, model.safetensors, tokenizer.json)."
    )


class ModelEmulation(ApiModel):
    """Which large model the emulated devices pretend to run."""

    nominal: NominalName = Field(
        description="Published model whose step times the emulated device reproduces. The tokens"
        " still come from the (much smaller) model at source."
    )
    token_scale: Count = Field(
        default=1,
        ge=1,
        le=1024,
        description="Nominal tokens of prompt and context that one real token stands for, so that"
        " real prompts fit a small model; output tokens always count one for one.",
    )


class Model(ApiModel):
    """The model that a pool serves."""

    name: ModelName = Field(
        description="What requests say in `model`. Unique in the cluster: of two pools with one"
        " name the older serves it, and the other gets no workers and says ModelNameTaken. Cannot"
        " be changed."
    )
    source: ModelSource = Field(
        description="Where the weights are. May be edited: workers roll without dropping requests."
    )
    emulation: ModelEmulation | None = Field(
        default=None,
        description="Which large model emulated devices pretend to run; leave out with real"
        " hardware. Workers are paced only on classes that have spec.emulation too.",
    )


class SLO(ApiModel):
    """The objective: the share of requests that keep both bounds."""

    ttft: PositiveDuration = Field(
        description="Longest time to first token, from the request's arrival at the gateway until"
        " its first token leaves it: queueing included, as users feel it. For example 2s."
    )
    tpot: PositiveDuration = Field(
        description="Longest mean time per output token after the first. For example 200ms."
    )
    objective: InnerPercent = Field(
        default=0.99,
        description="Share of requests that must keep both bounds. Requests that were lost or"
        " refused count as misses.",
    )


class VariantSpec(ApiModel):
    """The pool's workers on one accelerator class."""

    model_config = ConfigDict(
        json_schema_extra={RULES: [rule("self.min <= self.max", _MIN_MAX, ".min")]}
    )

    accelerator_class: ClassName = Field(
        description="Name of the AcceleratorClass (`kubectl get accel` lists them). While there is"
        " none of that name, the condition Degraded says ClassMissing."
    )
    min: Count = Field(
        default=0, ge=0, le=1000, description="Fewest workers, kept also without any demand."
    )
    max: Count = Field(
        ge=0,
        le=1000,
        description="Most workers. With 0 the variant is switched off and its workers leave.",
    )
    max_share: Percent = Field(
        default=1.0,
        description="Largest share of the pool's traffic that may go here while other variants"
        " serve.",
    )
    devices: Count | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Devices per worker. Default: devicesPerWorker of the class.",
    )
    numerics: NumericsName | None = Field(
        default=None,
        description=f"What the workers compute in; answers depend on it. One of {ABOUT}. Default:"
        " numerics of the class. One that the class's emulated device does not multiply starts no"
        " worker and rolls none: the condition Degraded says NumericsUnsupported. Any other change"
        " rolls the workers.",
    )
    template: WorkerTemplate | None = Field(
        default=None, description="What to change on the worker pods. A change rolls them."
    )

    @model_validator(mode="after")
    def _check(self) -> "VariantSpec":
        if self.min > self.max:
            raise ValueError(f"min {_MIN_MAX}")
        return self


class Autoscaling(ApiModel):
    """How the worker counts follow demand."""

    mode: Mode = Field(
        default=Mode.AUTOMATIC,
        description="Automatic: counts follow demand between min and max. Paused: they stay as they"
        " are, within min and max; health and traffic go on.",
    )
    headroom: Percent = Field(
        default=0.2,
        description="Capacity kept beyond the demand, for what arrives while workers start.",
    )
    stable_window: Duration = Field(
        default=300.0,
        description="How long fewer workers must have been enough before one is removed.",
    )


class Ramp(ApiModel):
    """How workers on a node that came back from quarantine get their traffic."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    f"!self.steps.all(step, {matches('step', PERCENT.pattern)})"
                    " || self.steps.map(step, double(step.replace('%', ''))).isSorted()",
                    _FALLING,
                    ".steps",
                )
            ]
        }
    )

    steps: list[Percent] = Field(
        default=[0.05, 0.1, 0.3, 0.6, 1.0],
        min_length=1,
        max_length=10,
        description="Largest shares of the pool's traffic for workers on nodes that have just come"
        " back, one step after the other. After the last one they count like any other.",
    )
    dwell: PositiveDuration = Field(
        default=60.0,
        description="How long a step lasts at least. At its end errors, TTFT and time per token of"
        " these workers are held against the SLO and the other workers: if they fail it goes back"
        " a step, or to no traffic at all. With spec.parity it also lasts until enough of their"
        " answers were compared with another class's, and what breaks the bounds takes all traffic"
        " away at once.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Ramp":
        if sorted(self.steps) != self.steps:
            raise ValueError(f"steps {_FALLING}")
        return self


class Shift(ApiModel):
    """How capacity moves between variants."""

    hold_down: Duration = Field(
        default=120.0,
        description="Shortest time between a scaling step and a step back. Fallback, and scale-up"
        " that the SLO needs, never wait.",
    )
    ramp: Ramp = Field(
        default_factory=Ramp,
        description="How traffic returns to a node that was in quarantine: in steps, each gated.",
    )


class Fallback(ApiModel):
    """What happens when capacity is lost to health."""

    mode: Mode = Field(
        default=Mode.AUTOMATIC,
        description="Automatic: when workers of one variant fail, the others take over at once what"
        " they carried. Paused: lost capacity counts as if it were there.",
    )


class Parity(ApiModel):
    """How answers are compared between the accelerator classes of the pool, and within what.

    Workers that come back from quarantine climb only while they keep the bounds.
    """

    sample: Percent = Field(
        default=0.01,
        description="Fraction of finished answers that a worker of another class scores as well."
        " While workers have their traffic still to earn (they come back from quarantine, or get no"
        " share), as many as the budget allows.",
    )
    budget: Percent = Field(
        default=0.02,
        description="Largest fraction of each worker's time that a gateway may take for it.",
    )
    shadow: Percent = Field(
        default=0.0,
        description="Fraction of requests that are mirrored to workers of classes without traffic"
        " (maxShare 0%), and to those whose ramp is back at no traffic. Their answers are thrown"
        " away: they are timed, and compared with another class's.",
    )
    min_top1_agreement: Percent = Field(
        default=0.97,
        description="Share of the judged tokens at which two classes must have the same likeliest"
        " one. The default is for formats of 8 and 9 bits; fp4 and mx6 keep 90%.",
    )
    max_kl: DecimalString = Field(
        alias="maxKL",
        default=Decimal("0.02"),
        description="Largest mean KL divergence between two classes at the judged tokens, in nat."
        " The default is for two classes of 8 or 9 bits, the bounds of both added up as in `sluice"
        ' parity`; with fp4 or mx6 it should be "0.1".',
    )


class InferencePoolSpec(ApiModel):
    """What to serve, within which SLO, on which accelerator classes."""

    model: Model = Field(description="The model to serve.")
    slo: SLO = Field(
        description="Service level objective: how fast answers must be, and for what share of the"
        " requests. Sluice keeps as few workers as this allows."
    )
    priority: Count = Field(
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
        " the next one gets workers, and each takes over for the others when they fail.",
        json_schema_extra={
            # Each variant can have an owner of its own in server-side apply, which refuses one
            # named twice and keeps the order of whoever applies the list.
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["acceleratorClass"],
            RULES: [
                rule("self.exists(v, v.max > 0)", _NONE),
            ],
        },
    )
    autoscaling: Autoscaling = Field(
        default_factory=Autoscaling, description="How the worker counts follow demand."
    )
    shift: Shift = Field(default_factory=Shift, description="How capacity moves between variants.")
    fallback: Fallback = Field(
        default_factory=Fallback,
        description="What happens when capacity is lost because workers or nodes fail.",
    )
    parity: Parity | None = Field(
        default=None,
        description="Comparing answers between the pool's classes while they serve; a gate for"
        " workers that come back. Left out, nothing is compared. Needs workers that score a"
        " prompt (`prompt_logprobs`), as Sluice's and vLLM do.",
    )

    @model_validator(mode="after")
    def _check(self) -> "InferencePoolSpec":
        names = [variant.accelerator_class for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"variants {_TWICE}")
        if all(variant.max == 0 for variant in self.variants):
            raise ValueError(f"variants {_NONE}")
        return self


class InferencePool(ApiModel):
    """An InferencePool serves one language model within a service level objective.

    It says which model, how fast answers must be, and on which kinds of accelerator; Sluice runs
    the workers, scales them on what users feel, and falls back when nodes fail.
    """

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    matches("self.metadata.name", POOL_NAME.pattern),
                    f"metadata.name {POOL_NAME.sentence}",
                )
            ]
        }
    )

    api_version: ApiVersion = Field(description="sluice.dev/v1alpha1")
    kind: Literal["InferencePool"] = Field(description="InferencePool")
    metadata: Metadata = Field(description="Standard metadata.")
    spec: InferencePoolSpec = Field(
        description="What to serve, within which SLO, on which accelerator classes."
    )
    status: InferencePoolStatus | None = Field(
        default=None, description="What became of the spec; written by Sluice alone."
    )

    @model_validator(mode="after")
    def _check(self) -> "InferencePool":
        POOL_NAME.check(self.metadata.name)
        return self
