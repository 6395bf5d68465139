"""W3C trace context: which trace a request belongs to, and what a worker is told of it.

Pure but for the numbers that are drawn. A client's `traceparent` is continued; what is none
is ignored, as the recommendation demands (https://www.w3.org/TR/trace-context/).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_LENGTH: Final = 512
"""So much of a `tracestate` has to be passed on; what is longer may be dropped."""
_SAMPLED: Final = 1
_ID_BITS: Final = 128
_SPAN_BITS: Final = 64

Draw = Callable[[int], int]
"""Returns a random number of so many bits."""


class Headers(Protocol):
    """Headers that may come more than once."""

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]:
        """Return all values of a header."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which requests have their spans exported.

    Attributes:
        ratio: Part of the traces that begin here, 0 to 1.
        follows_parent: A client's own decision comes first.
    """

    ratio: float = 1.0
    follows_parent: bool = True

    def takes(self, trace_id: str, *, parent: bool | None) -> bool:
        """Return whether to sample; the same on every gateway that sees the trace.

        Args:
            trace_id: 32 hexadecimal digits; the last 16 decide, as in OpenTelemetry's sampler.
            parent: What the client decided; None if it said nothing.
        """
        if self.follows_parent and parent is not None:
            return parent
        return int(trace_id[16:], 16) < self.ratio * 2.0**_SPAN_BITS


@dataclass(slots=True)  # not frozen: that takes three times as long to make, per attempt
class Trace:
    """One span's place in its trace.

    Attributes:
        trace_id: 32 hexadecimal digits; `span_id` has 16.
        parent_id: Span of whoever asked; empty if nobody said.
        state: `tracestate`, passed on as it came.
    """

    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool
    state: str
    draw: Draw = field(repr=False, compare=False)

    def begin_child(self) -> "Trace":
        """Return a new span under this one."""
        own = draw_id(self.draw, _SPAN_BITS)
        return Trace(self.trace_id, own, self.span_id, self.sampled, self.state, self.draw)

    def render_headers(self) -> dict[str, str]:
        """Return what tells a worker of this span."""
        headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"}
        if self.state:
            headers["tracestate"] = self.state
        return headers


def begin_trace(headers: Headers, draw: Draw, sampler: Sampler | None) -> Trace:
    """Return the span of a request that has arrived.

    Args:
        headers: The client's.
        draw: Gives random numbers.
        sampler: None if nothing is exported: then the client's decision is only passed on.
    """
    parent = read_parent(headers.getall("traceparent", ()))
    if parent is None:
        trace_id, parent_id, wanted, state = draw_id(draw, _ID_BITS), "", None, ""
    else:
        trace_id, parent_id, wanted = parent
        state = read_state(headers.getall("tracestate", ()))
    sampled = sampler.takes(trace_id, parent=wanted) if sampler is not None else bool(wanted)
    return Trace(trace_id, draw_id(draw, _SPAN_BITS), parent_id, sampled, state, draw)


def read_parent(values: Sequence[str]) -> tuple[str, str, bool] | None:
    """Return trace, span and sampling of `traceparent`; None if it is not there or is none."""
    if len(values) != 1:
        return None
    found = _PARENT.fullmatch(values[0].strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    known = version != "ff" and (version != "00" or not more)
    if not known or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)


def read_state(values: Sequence[str]) -> str:
    """Return `tracestate`, its parts joined; empty if it is too long or not printable."""
    state = ",".join(value.strip() for value in values if value.strip())
    return state if len(state) <= _STATE_LENGTH and state.isascii() and state.isprintable() else ""


def draw_id(draw: Draw, bits: int) -> str:
    """Return a random identity in hexadecimal that is not all zeros."""
    return f"{draw(bits) or 1:0{bits // 4}x}"


def read_sampler(environ: Mapping[str, str]) -> Sampler:
    """Return the sampler of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.

    Raises:
        ValueError: If they name none; with a sentence.
    """
    name = environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    follows = name.startswith("parentbased_")
    kind = name.removeprefix("parentbased_")
    if kind in ("always_on", "always_off"):
        return Sampler(float(kind == "always_on"), follows)
    if kind != "traceidratio":
        raise ValueError(
            f"OTEL_TRACES_SAMPLER is {name[:60]!r}; use always_on, always_off or traceidratio, "
            "each also with parentbased_ before it"
        )
    text = environ.get("OTEL_TRACES_SAMPLER_ARG") or "1"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG is {text[:60]!r}; use a number from 0 to 1")
    return Sampler(ratio, follows)
