"""What a gateway's pod says of how it is reached."""

from collections.abc import Mapping
from typing import Any, Final

_TLS_FLAG: Final = "--tls-dir"


def find_scheme(pod: Mapping[str, Any]) -> str:
    """Return the scheme of a gateway's public port: https if it was given a certificate."""
    containers = pod.get("spec", {}).get("containers", ())
    words = (str(word) for container in containers for word in container.get("args") or ())
    return "https" if any(word.partition("=")[0] == _TLS_FLAG for word in words) else "http"
