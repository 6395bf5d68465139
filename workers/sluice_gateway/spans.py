"""OpenTelemetry spans of a request that has ended: one of its own, and one under it per attempt.

Attributes follow the semantic conventions for HTTP and for generative AI (semconv 1.37, both are
still in development there); what they have no name for begins with `sluice.`. No text of any user.
"""

from typing import Any, Final

from sluice_gateway.attempts import Attempt, Exchange
from sluice_gateway.tracing import Trace

_SERVER: Final = 2
_CLIENT: Final = 3
_ERROR: Final = 2
_SERVER_ERROR: Final = 500
_NANOSECONDS: Final = 10**9
_OPERATIONS: Final = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
_FINE: Final = frozenset({"ok", "refused"})
Attributes = dict[str, str | int | float | bool | None]


def render_spans(exchange: Exchange, trace: Trace, ended_at: float) -> list[dict[str, Any]]:
    """Return the spans of a request in OTLP's JSON form; `ended_at` in seconds since the epoch."""
    shared = _describe_request(exchange)
    name = f"{shared['gen_ai.operation.name']} {exchange.call.model if exchange.call else ''}"
    failed = exchange.status >= _SERVER_ERROR or exchange.outcome == "broken"
    own: Attributes = {
        **shared,
        "http.request.method": "POST",
        "http.route": exchange.path,
        "http.response.status_code": exchange.status,
        "gen_ai.usage.input_tokens": exchange.tokens[0] or None,
        "gen_ai.usage.output_tokens": exchange.tokens[1] or None,
        "error.type": None if exchange.outcome == "ok" else exchange.outcome,
        "sluice.request_id": exchange.request_id,
        "sluice.key": exchange.key or None,
        "sluice.pool": exchange.pool.spec.key if exchange.pool else None,
        "sluice.waited_seconds": round(exchange.waited, 4),
        "sluice.ttft_seconds": exchange.ttft,
        "sluice.tpot_seconds": exchange.tpot,
    }
    name = name.strip()
    return [
        _render(trace, name, _SERVER, exchange.arrived_at, ended_at, own, failed=failed),
        *(
            _render_attempt(attempt, attempt.trace, name, shared, ended_at)
            for attempt in exchange.attempts
            if attempt.trace is not None
        ),
    ]


def _render_attempt(
    attempt: Attempt, trace: Trace, name: str, shared: Attributes, ended_at: float
) -> dict[str, Any]:
    pod = attempt.worker.pod
    prompt, output = attempt.count_tokens()
    fine = attempt.outcome in _FINE
    own: Attributes = {
        **shared,
        "server.address": pod.url,
        "gen_ai.usage.input_tokens": prompt or None,
        "gen_ai.usage.output_tokens": output or None,
        "error.type": None if fine else attempt.outcome,
        "sluice.worker": pod.name,
        "sluice.worker_uid": pod.uid,
        "sluice.accelerator_class": pod.variant,
        "sluice.reason": attempt.reason,
    }
    end = attempt.ended_at or ended_at
    return _render(trace, name, _CLIENT, attempt.dispatched_at, end, own, failed=not fine)


def _describe_request(exchange: Exchange) -> Attributes:
    call = exchange.call
    described: Attributes = {
        "gen_ai.operation.name": _OPERATIONS.get(exchange.path, exchange.path),
        "gen_ai.provider.name": "sluice",
    }
    if call is not None:
        described["gen_ai.request.model"] = call.model
        described["gen_ai.request.max_tokens"] = call.tokens_most
        described["gen_ai.request.choice.count"] = call.choices if call.choices > 1 else None
        described["sluice.stream"] = call.streaming
    return described


def _render(
    trace: Trace,
    name: str,
    kind: int,
    began_at: float,
    ended_at: float,
    attributes: Attributes,
    *,
    failed: bool,
) -> dict[str, Any]:
    span: dict[str, Any] = {
        "traceId": trace.trace_id,
        "spanId": trace.span_id,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(int(began_at * _NANOSECONDS)),
        "endTimeUnixNano": str(int(max(began_at, ended_at) * _NANOSECONDS)),
        "attributes": render_attributes(attributes),
        "status": {"code": _ERROR} if failed else {},
    }
    if trace.parent_id:
        span["parentSpanId"] = trace.parent_id
    if trace.state:
        span["traceState"] = trace.state
    return span


def render_attributes(attributes: Attributes) -> list[dict[str, Any]]:
    """Return attributes in OTLP's JSON form, without those that are None."""
    return [
        {"key": key, "value": _render_value(value)}
        for key, value in attributes.items()
        if value is not None
    ]


def _render_value(value: str | float | bool) -> dict[str, Any]:  # noqa: FBT001 - it is a value
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64 bits have no number in JSON
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
