"""Probes as state machines: results in, verdicts out. Pure; the requests are made by `prober`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


class ProbeError(Exception):
    """A probe that cannot be run; the message says why."""


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """What one probe asks: an HTTP GET, or with an empty path whether a TCP port answers."""

    host: str
    port: int
    scheme: str = "http"
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeTiming:
    """Seconds and counts of a probe, with the API's defaults filled in."""

    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def from_spec(cls, probe: Mapping[str, Any]) -> Self:
        """Read a Probe."""
        return cls(
            initial_delay=float(probe.get("initialDelaySeconds", 0)),
            period=float(probe.get("periodSeconds", 10)),
            timeout=float(probe.get("timeoutSeconds", 1)),
            successes=int(probe.get("successThreshold", 1)),
            failures=int(probe.get("failureThreshold", 3)),
        )


class ProbeState:
    """Counts results in a row until they make a verdict.

    `passing` is None until there was one. After a verdict the counting begins anew.
    """

    def __init__(self, timing: ProbeTiming, *, passing: bool | None) -> None:
        self._timing = timing
        self.passing = passing
        self._streak_of = True
        self._streak = 0

    def observe(self, *, success: bool) -> bool:
        """Take in one result; return whether it completed a verdict (that may be the old one)."""
        if success != self._streak_of:
            self._streak_of, self._streak = success, 0
        self._streak += 1
        needed = self._timing.successes if success else self._timing.failures
        if self._streak < needed:
            return False
        self.passing = success
        return True


def resolve_target(
    probe: Mapping[str, Any], container: Mapping[str, Any], pod_ip: str
) -> ProbeTarget:
    """Return what a probe of a container asks.

    Raises:
        ProbeError: A named port does not exist, or the probe is of a kind that cannot be run here.
    """
    http = probe.get("httpGet")
    action = http or probe.get("tcpSocket")
    if action is None:
        raise ProbeError(
            f"a probe of container '{container['name']}' is neither httpGet nor tcpSocket; "
            "emulated nodes run no others"
        )
    host = action.get("host") or pod_ip
    port = _resolve_port(action.get("port"), container)
    if http is None:
        return ProbeTarget(host, port)
    headers = tuple((h["name"], h.get("value", "")) for h in http.get("httpHeaders") or ())
    scheme = str(http.get("scheme", "HTTP")).lower()
    path = http.get("path") or "/"
    return ProbeTarget(host, port, scheme, path if path.startswith("/") else "/" + path, headers)


def _resolve_port(port: Any, container: Mapping[str, Any]) -> int:
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    if isinstance(port, str) and port.isdigit():
        return int(port)
    raise ProbeError(
        f"a probe of container '{container['name']}' names the port '{port}', which is none of its "
        "ports"
    )
