"""What all API types share: camelCase in YAML, frozen, nothing unknown, nothing coerced."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict
from pydantic.alias_generators import to_camel

from sluice.api.rules import Form

GROUP = "sluice.dev"
ApiVersion = Literal["sluice.dev/v1alpha1"]

Count = Annotated[int, Strict()]
"""A whole number; the API server takes neither "3" nor true for one."""

Flag = Annotated[bool, Strict()]
"""True or false; the API server takes neither "yes" nor 1 for one."""

LABEL_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
DNS_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
LABEL_KEY = Form(
    f"^({DNS_NAME}/)?{LABEL_NAME}$",
    "must be a label key such as nvidia.com/gpu; the prefix may be left out",
    longest=316,
)


class ApiModel(BaseModel):
    """Base of every type in the API."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
    )


class Metadata(ApiModel):
    """What Sluice's own rules say about the standard metadata; the rest is Kubernetes' affair."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(description="Name of the object.")
