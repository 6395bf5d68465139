"""What a variant may change on the worker pods that Sluice renders: a small part of a pod."""

from enum import StrEnum
from typing import Annotated

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict

from sluice.api.base import LABEL_KEY, ApiModel, Count, Flag
from sluice.api.quantities import Quantity
from sluice.api.rules import RULES, Form, matches, rule

RESERVED_ENV = ("POD_UID", "POD_NAME", "POD_IP", "NODE_NAME")
"""Variables that Sluice itself sets on every worker."""
QUARANTINE_TAINT = "sluice.dev/quarantine"

ENV_NAME = Form(
    "^[-._a-zA-Z][-._a-zA-Z0-9]*$",
    "must be the name of an environment variable, such as HF_HOME",
    longest=253,
)
RESOURCE_NAME = Form(
    "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    "must be the name of a resource, such as cpu",
    longest=316,
)
_TAKEN = f"must not be one of {', '.join(RESERVED_ENV)}, which Sluice sets itself"
_TWO_VALUES = "must have value or valueFrom, not both"
_ONE_SOURCE = "must have exactly one of fieldRef, configMapKeyRef and secretKeyRef"
_BAD_RESOURCE = f"every key {RESOURCE_NAME.sentence}"
_QUARANTINE = "must not be sluice.dev/quarantine: workers would return to nodes that failed"
_EXISTS_VALUE = "must be left out with operator Exists, which takes every value"
_SECONDS_EFFECT = "must be left out unless effect is NoExecute, the only one that evicts"

ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253)]


def _require_free(name: str) -> str:
    if name in RESERVED_ENV:
        raise ValueError(f"{name!r} {_TAKEN}")
    return name


def _require_own(key: str) -> str:
    if key == QUARANTINE_TAINT:
        raise ValueError(_QUARANTINE)
    return key


EnvName = Annotated[
    str,
    AfterValidator(ENV_NAME.check),
    AfterValidator(_require_free),
    WithJsonSchema(ENV_NAME.describe(rule(f"!(self in {list(RESERVED_ENV)})", _TAKEN))),
]
ResourceKey = Annotated[str, AfterValidator(RESOURCE_NAME.check)]
TolerationKey = Annotated[
    str,
    AfterValidator(LABEL_KEY.check),
    AfterValidator(_require_own),
    WithJsonSchema(LABEL_KEY.describe(rule(f"self != '{QUARANTINE_TAINT}'", _QUARANTINE))),
]


class FieldReference(ApiModel):
    """A field of the worker pod."""

    field_path: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(
        description="Path of the field, such as metadata.labels['sluice.dev/pool']."
    )


class KeyReference(ApiModel):
    """A key of an object in the pool's namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap or Secret.")
    key: ObjectName = Field(description="Key in it.")
    optional: Flag | None = Field(
        default=None, description="Whether a worker may start without it. Default: false."
    )


class EnvSource(ApiModel):
    """Where the value of an environment variable comes from."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule(
                    "[has(self.fieldRef), has(self.configMapKeyRef), has(self.secretKeyRef)]"
                    ".exists_one(found, found)",
                    _ONE_SOURCE,
                )
            ]
        }
    )

    field_ref: FieldReference | None = Field(
        default=None, description="Take it from a field of the worker pod."
    )
    config_map_key_ref: KeyReference | None = Field(
        default=None, description="Take it from a ConfigMap in the pool's namespace."
    )
    secret_key_ref: KeyReference | None = Field(
        default=None, description="Take it from a Secret in the pool's namespace."
    )

    @model_validator(mode="after")
    def _check(self) -> "EnvSource":
        sources = (self.field_ref, self.config_map_key_ref, self.secret_key_ref)
        if sum(source is not None for source in sources) != 1:
            raise ValueError(f"valueFrom {_ONE_SOURCE}")
        return self


class EnvVar(ApiModel):
    """An environment variable, as in a pod."""

    model_config = ConfigDict(
        json_schema_extra={RULES: [rule("!has(self.value) || !has(self.valueFrom)", _TWO_VALUES)]}
    )

    name: EnvName = Field(
        description="Name of the variable. One that Sluice presets, such as OPENBLAS_NUM_THREADS,"
        " may be overridden."
    )
    value: Annotated[str, StringConstraints(max_length=32768)] | None = Field(
        default=None, description="Its value; $(NAME) refers to a variable defined before."
    )
    value_from: EnvSource | None = Field(
        default=None, description="Where its value comes from, in place of value."
    )

    @model_validator(mode="after")
    def _check(self) -> "EnvVar":
        if self.value is not None and self.value_from is not None:
            raise ValueError(f"{self.name} {_TWO_VALUES}")
        return self


_RESOURCE_KEYS: JsonDict = {
    RULES: [rule(f"self.all(key, {matches('key', RESOURCE_NAME.pattern)})", _BAD_RESOURCE)]
}


class Resources(ApiModel):
    """What a worker container asks for, as in a pod."""

    requests: dict[ResourceKey, Quantity] | None = Field(
        default=None,
        max_length=16,
        description="What the scheduler reserves, such as cpu: 500m. The device itself need not be"
        " named.",
        json_schema_extra=_RESOURCE_KEYS,
    )
    limits: dict[ResourceKey, Quantity] | None = Field(
        default=None,
        max_length=16,
        description="What the worker may use at the most, such as memory: 4Gi. The device itself"
        " need not be named.",
        json_schema_extra=_RESOURCE_KEYS,
    )


class TolerationOperator(StrEnum):
    """How a toleration compares."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A taint that workers tolerate, as in a pod; the key must be named."""

    model_config = ConfigDict(
        json_schema_extra={
            RULES: [
                rule("self.operator != 'Exists' || !has(self.value)", _EXISTS_VALUE, ".value"),
                rule(
                    "!has(self.tolerationSeconds)"
                    " || (has(self.effect) && self.effect == 'NoExecute')",
                    _SECONDS_EFFECT,
                    ".tolerationSeconds",
                ),
            ]
        }
    )

    key: TolerationKey = Field(description="Key of the taint.")
    operator: TolerationOperator = Field(
        default=TolerationOperator.EQUAL,
        description="Exists takes every value of the taint; Equal only the one named.",
    )
    value: Annotated[str, StringConstraints(max_length=63)] | None = Field(
        default=None, description="Value of the taint, with operator Equal."
    )
    effect: TaintEffect | None = Field(
        default=None, description="Effect to tolerate; every one if left out."
    )
    toleration_seconds: Count | None = Field(
        default=None, description="How long NoExecute is tolerated; for ever if left out."
    )

    @model_validator(mode="after")
    def _check(self) -> "Toleration":
        if self.operator is TolerationOperator.EXISTS and self.value is not None:
            raise ValueError(f"value {_EXISTS_VALUE}")
        if self.toleration_seconds is not None and self.effect is not TaintEffect.NO_EXECUTE:
            raise ValueError(f"tolerationSeconds {_SECONDS_EFFECT}")
        return self


class LocalObjectReference(ApiModel):
    """A name in the pool's namespace."""

    name: ObjectName = Field(description="Name of the object.")


_BY_NAME: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class WorkerTemplate(ApiModel):
    """What a variant changes on the worker pods that Sluice renders."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        default=None,
        description="Image of the worker container. Default: workerImage in the operator's"
        " settings.",
    )
    command: list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Command in place of sluice-worker; it gets the same arguments, and must answer"
        " /healthz, /readyz and the OpenAI API on port 8000.",
    )
    env: list[EnvVar] | None = Field(
        default=None,
        max_length=64,
        description="Environment variables for the worker container, added to Sluice's own.",
        json_schema_extra=_BY_NAME,
    )
    resources: Resources | None = Field(
        default=None,
        description="CPU, memory and the like for the worker container, in place of Sluice's modest"
        " default. The devices are always added.",
    )
    tolerations: list[Toleration] | None = Field(
        default=None,
        max_length=16,
        description="Taints that workers tolerate besides the class's own.",
    )
    image_pull_secrets: list[LocalObjectReference] | None = Field(
        default=None,
        max_length=8,
        description="Secrets in the pool's namespace to pull the image with.",
        json_schema_extra=_BY_NAME,
    )

    @model_validator(mode="after")
    def _check(self) -> "WorkerTemplate":
        for what, named in (("env", self.env), ("imagePullSecrets", self.image_pull_secrets)):
            names = [item.name for item in named or ()]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} names {twice!r} twice")
        return self
