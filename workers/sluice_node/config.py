"""What an agent is told about its node: read once at the start, from the file given by `--config`.

Written by whoever starts the agent. Everything wrong with it is said in one sentence a field.
"""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from sluice_accel.profiles import PROFILES
from sluice_node.quantities import QuantityError, parse_quantity

_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"


class ConfigError(Exception):
    """The configuration cannot be used; the message says why, a sentence a field."""


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class Taint(_Section):
    """A taint the node registers with."""

    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class Image(_Section):
    """What stands in for a container image: where commands lie, and directories it brings."""

    path: tuple[Path, ...]
    rootfs: dict[str, Path] = Field(default_factory=dict)


class KubeletEndpoint(_Section):
    """Where the agent answers the API server, and with which certificates."""

    port: int = Field(ge=1, le=65535)
    cert_file: Path
    key_file: Path
    client_ca_file: Path = Field(alias="clientCAFile")


class ApiServer(_Section):
    """How pods reach the API server."""

    host: str
    port: int = Field(ge=1, le=65535)
    ca_file: Path


class NodeConfig(_Section):
    """One emulated node.

    Attributes:
        state_dir: What the node keeps; `faults.json` in it says what is wrong with its devices.
        device_dir: Where the sockets of its devices lie, instead of `state_dir`: the whole path of
            a Unix socket may not exceed 107 bytes.
        device_profile: Which accelerator its devices are, for power, heat and memory; None: those
            are not shown.
        metrics_port: Where its devices' metrics are served on `address`; None: nowhere.
    """

    name: str = Field(pattern=_NAME)
    kubeconfig: Path
    state_dir: Path
    device_dir: Path | None = None
    device_profile: str | None = None
    address: IPv4Address
    pod_range: IPv4Network
    stable_range: IPv4Network
    kubelet: KubeletEndpoint
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    api_server: ApiServer
    labels: dict[str, str] = Field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    capacity: dict[str, str]
    images: dict[str, Image] = Field(default_factory=dict)

    @field_validator("device_profile")
    @classmethod
    def _check_profile(cls, value: str | None) -> str | None:
        if value is not None and value not in PROFILES:
            raise ValueError(f"there is no profile '{value}'; use {', '.join(sorted(PROFILES))}")
        return value

    @model_validator(mode="after")
    def _check_capacity(self) -> Self:
        for needed in ("cpu", "memory", "pods"):
            if needed not in self.capacity:
                raise ValueError(f"capacity lacks '{needed}'; every node has cpu, memory and pods")
        for resource, amount in self.capacity.items():
            try:
                parse_quantity(amount)
            except QuantityError as error:
                raise ValueError(f"capacity of '{resource}': {error}") from error
        return self


def load_config(path: Path) -> NodeConfig:
    """Read a node's configuration.

    Raises:
        ConfigError: The file cannot be read, or something in it is wrong.
    """
    try:
        value = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} is not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"The configuration {path} is not a mapping of fields.")
    try:
        return NodeConfig.model_validate(value)
    except ValidationError as error:
        faults = "\n".join(f"  {_describe_fault(fault)}" for fault in error.errors())
        raise ConfigError(f"The configuration {path} cannot be used:\n{faults}") from error


def _describe_fault(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    what = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "extra_forbidden":
        return f"{where} is not a field of a node's configuration."
    return f"{where}: {what} (found: {fault['input']!r})." if where else f"{what}."
