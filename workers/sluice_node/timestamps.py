"""Times as Kubernetes writes them."""

from datetime import UTC, datetime


def format_time(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 in whole seconds (metav1.Time)."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 with microseconds (metav1.MicroTime)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """Return RFC 3339 as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()
