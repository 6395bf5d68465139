"""Settings of the operator, in one typed place; a YAML file, usually from a ConfigMap."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from sluice.api.quantities import Duration, PositiveDuration
from sluice.decide.limits import LEASE_STALE

LONGEST_LEASES = 10.0
"""Seconds between two looks at Leases: with the nodes' own 10 s less than `LEASE_STALE`."""


class SettingsError(Exception):
    """The settings file cannot be used; the message names the key, the value and what to do."""


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid"
    )


class LeaseSettings(_Section):
    """How one replica of several leads."""

    duration: Duration = Field(
        default=15.0, description="A Lease not renewed for this long may be taken over."
    )
    renew_deadline: Duration = Field(
        default=10.0, description="A leader that could not renew for this long stops writing."
    )
    retry: Duration = Field(default=2.0, description="Time between two attempts.")

    @model_validator(mode="after")
    def _check(self) -> "LeaseSettings":
        # A write may take up to the renew deadline; the rest of the duration is for clocks.
        if not 0 < self.retry < self.renew_deadline < self.duration or self.duration < 1:
            raise ValueError(
                "retry must be above 0s, renewDeadline longer than retry, and duration longer than"
                f" renewDeadline and at least 1s, or two replicas could write at once (found retry"
                f" {self.retry:g}s, renewDeadline {self.renew_deadline:g}s, duration"
                f" {self.duration:g}s)"
            )
        return self


class GatewaySettings(_Section):
    """Where users reach the gateway."""

    endpoint: str | None = Field(
        default=None,
        description="What pools show as status.endpoint; left out, the address of a Ready gateway.",
    )


class RecordingSettings(_Section):
    """Passes on disk, for `sluice recording FILE --since`, `sluice replay` and `sluice explain`."""

    directory: str | None = Field(
        default=None,
        description="Where passes are recorded, an absolute path; left out, only the last 200 are"
        " kept, in memory. `sluice-operator --recordings` goes before it.",
    )
    keep: PositiveDuration = Field(
        default=86400.0, description="A recorded file older than this is deleted."
    )
    max_bytes: int = Field(
        default=256 << 20,
        ge=1 << 20,
        le=1 << 40,
        description="Size of all recorded files together; the oldest are deleted first. The volume"
        " in the manifests must be larger, or the pod is evicted.",
    )

    @field_validator("directory")
    @classmethod
    def _check(cls, directory: str | None) -> str | None:
        if directory is not None and not Path(directory).is_absolute():
            raise ValueError(f"must be an absolute path (found {directory!r})")
        return directory


class Settings(_Section):
    """All settings; durations are Go-style strings such as 2s or 1m30s."""

    worker_image: str = Field(
        default="sluice-worker:0.1.0", description="Image of workers; a pool's template may differ."
    )
    fast_tick: PositiveDuration = Field(
        default=2.0, description="Time between two passes while nothing calls for one."
    )
    least_gap: PositiveDuration = Field(default=0.2, description="Least time between two passes.")
    relist: PositiveDuration = Field(
        default=30.0, description="Time between two authoritative lists."
    )
    leases: PositiveDuration = Field(
        default=5.0, description="Time between two looks at node Leases, at most 10s."
    )
    signal_window: PositiveDuration = Field(
        default=30.0, description="Window over which the gateways are asked for signals."
    )
    known_answers_per_second: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="Rounds of known answers a second, over all workers of the cluster.",
    )
    storm_cool_down: Duration = Field(
        default=60.0,
        description="How long no further worker is deleted after more nodes of a class were out"
        " than its maxUnhealthy allows.",
    )
    lease: LeaseSettings = Field(
        default_factory=LeaseSettings, description="How one replica of several leads."
    )
    gateway: GatewaySettings = Field(
        default_factory=GatewaySettings, description="Where users reach the gateway."
    )
    recording: RecordingSettings = Field(
        default_factory=RecordingSettings, description="Passes on disk."
    )
    admin_port: int = Field(
        default=8081, ge=1, le=65535, description="Port of /healthz, /readyz, /metrics."
    )

    @field_validator("leases")
    @classmethod
    def _check_leases(cls, leases: float) -> float:
        if leases > LONGEST_LEASES:
            raise ValueError(
                f"must be at most {LONGEST_LEASES:g}s (found {leases:g}s): nodes renew their Leases"
                f" every 10s, and one that is not seen renewed for {LEASE_STALE:g}s counts as stale"
            )
        return leases


def load_settings(path: Path | None) -> Settings:
    """Read settings; without a file everything has its default.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or holds a bad key or value.
    """
    if path is None:
        return Settings()
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"the settings file {path} is not YAML: {error}") from error
    try:
        return Settings.model_validate(raw or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        if first["type"] == "extra_forbidden":
            known = ", ".join(to_camel(name) for name in Settings.model_fields)
            text = f"{where} is no setting; known ones are {known}"
        elif first["type"] == "value_error":
            text = f"{where}: {first['ctx']['error']}"
        else:
            text = f"{where}: {first['msg']} (found {first.get('input')!r})"
        raise SettingsError(f"settings file {path}: {text}") from error
