"""One line of JSON for every request, written when it has ended. No text of any user in it."""

from typing import Any

import structlog

from sluice_gateway.attempts import Attempt, Exchange


class RequestLog:
    """Writes the request lines."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log

    def write(self, exchange: Exchange, *, duration: float) -> None:
        """Write the line of a request that has ended.

        Times ending in `_at` are wall time in seconds since the epoch, the others are seconds.
        """
        call = exchange.call
        worker = exchange.worker
        transcript = exchange.transcript
        self._log.info(
            "request",
            request_id=exchange.request_id,
            key=exchange.key or None,
            trace_id=exchange.trace.trace_id if exchange.trace else None,
            span_id=exchange.trace.span_id if exchange.trace else None,
            path=exchange.path,
            pool=exchange.pool.spec.key if exchange.pool else None,
            model=exchange.pool.spec.model if exchange.pool else None,
            request_class=exchange.goal.kind if exchange.goal else None,
            stream=call.streaming if call else None,
            status=exchange.status,
            outcome=exchange.outcome,
            pod=worker.pod.name if worker else None,
            uid=worker.uid if worker else None,
            accelerator_class=worker.variant if worker else None,
            arrived_at=round(exchange.arrived_at, 4),
            duration=round(duration, 4),
            waited=round(exchange.waited, 4),
            ttft=_round(exchange.ttft),
            tpot=_round(exchange.tpot),
            prompt_tokens=exchange.tokens[0],
            output_tokens=exchange.tokens[1],
            continuations=sum(bool(one.cause and one.begun) for one in exchange.attempts),
            approximate=transcript.approximate if transcript is not None else False,
            attempts=[_describe(attempt) for attempt in exchange.attempts],
        )


def _describe(attempt: Attempt) -> dict[str, Any]:
    return {
        "dispatched_at": round(attempt.dispatched_at, 4),
        "pod": attempt.worker.pod.name,
        "uid": attempt.worker.uid,
        "accelerator_class": attempt.worker.variant,
        "outcome": attempt.outcome,
        "begun": attempt.begun,
        "reason": attempt.reason,
        **({"goes_on_after": attempt.cause, "exact": attempt.exact} if attempt.cause else {}),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
