"""Where spans go, from the variables that OpenTelemetry gives every program."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from sluice_gateway.tracing import Sampler, read_sampler

_PATH: Final = "/v1/traces"


class ExportError(ValueError):
    """Spans cannot be exported as the environment says; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Export:
    """Where spans go.

    Attributes:
        url: Takes the POSTs.
        headers: Sent with each; they may be secret.
        seconds: One POST.
        resource: Attributes of this process.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    seconds: float
    resource: Mapping[str, str]
    sampler: Sampler


def read_export(environ: Mapping[str, str], *, uid: str) -> Export | None:
    """Return what OpenTelemetry's variables say; None if no endpoint is named.

    Raises:
        ExportError: If they cannot be followed.
    """
    url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or ""
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ""
    if (not url and not base) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    url = url or f"{base.rstrip('/')}{_PATH}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ExportError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is {(base or url)[:100]!r}; "
            "name a collector that takes OTLP over HTTP, such as http://HOST:4318"
        )
    text = environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") or "10000"
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise ExportError(
            f"OTEL_EXPORTER_OTLP_TIMEOUT is {text[:40]!r}; use a number of milliseconds"
        )
    try:
        sampler = read_sampler(environ)
    except ValueError as error:
        raise ExportError(str(error)) from error
    resource = {
        "service.instance.id": uid,
        **_read_pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES") or ""),
    }
    resource.setdefault("service.name", "sluice-gateway")
    if environ.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = environ["OTEL_SERVICE_NAME"]
    headers = _read_pairs(environ.get("OTEL_EXPORTER_OTLP_HEADERS") or "")
    return Export(url, headers, int(text[:9]) / 1000, resource, sampler)


def _read_pairs(text: str) -> dict[str, str]:
    """Return `key=value,key=value`, its parts URL-decoded."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {unquote(key.strip()): unquote(value.strip()) for key, _, value in pairs}
