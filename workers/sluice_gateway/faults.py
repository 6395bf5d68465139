"""Says what went wrong with an attempt: a worker's status, or how it was lost, as a `Fault`."""

from typing import Final

from sluice_gateway.answers import Answer, answer_bad_gateway
from sluice_gateway.retries import Fault, FaultKind
from sluice_gateway.soundness import shape_error
from sluice_gateway.workerconnection import WorkerResponse

_RETRY_AFTER_MOST: Final = 3600.0


def tell_lost(code: str, message: str) -> Fault:
    """Return the fault of a worker that is dead, cut off, or not the pod that was meant."""
    answer = answer_bad_gateway(f"the worker was lost: {message}", code="worker_lost")
    return Fault(FaultKind.LOST, code, message, answer=answer)


def answer_breaker(times: int) -> Answer:
    """Return what a request is answered under which a worker broke off so many times."""
    message = (
        f"{times} times a worker was lost while it had this request, with no token of it between; "
        "it is not tried again, as it may be what ends them"
    )
    return answer_bad_gateway(message, code="workers_lost")


def tell_nonsense(message: str, *, body: bytes = b"") -> Fault:
    """Return the fault of a worker whose answer is none; `body` is its own word of an error."""
    answer = answer_bad_gateway(f"the worker's answer is no use: {message}", code="worker_error")
    if body:
        answer = Answer(answer.status, body)
    return Fault(FaultKind.ERROR, "nonsense", message, answer=answer)


def tell_refused(message: str) -> Fault:
    """Return the fault of a worker that cannot go on with a stream: nothing against it."""
    answer = answer_bad_gateway(f"no worker goes on with it: {message}", code="worker_lost")
    return Fault(FaultKind.REFUSED, "refused", message, answer=answer)


def tell_left(why: str) -> Fault:
    """Return how an attempt ends whose stream goes on elsewhere: nothing is wrong."""
    answer = answer_bad_gateway("the stream was to go on elsewhere", code="worker_lost")
    return Fault(FaultKind.MOVED, why, f"left its worker: {why}", answer=answer)


def explain_status(response: WorkerResponse, body: bytes, *, hold_most: float) -> Fault:
    """Turn an error status of a worker into a fault.

    `hold_most` is the longest time, in seconds, for which its Retry-After is believed.
    """
    status = response.status
    message = f"the worker answered {status}"
    if status in (429, 503):
        after = _read_retry_after(response)
        answer = Answer(status, shape_error(body, status), retry_after=max(1, round(after)))
        hold = min(after, hold_most)
        return Fault(FaultKind.REFUSED, f"refused_{status}", message, answer=answer, hold=hold)
    told = status if 500 <= status < 600 else 502  # noqa: PLR2004
    answer = Answer(told, shape_error(body, told))
    return Fault(FaultKind.ERROR, "status", message, answer=answer)


def _read_retry_after(response: WorkerResponse) -> float:
    """Return the worker's Retry-After in seconds; 1 if it gave none that can be read.

    Never more than an hour: no number is too large for a header.
    """
    text = response.find_header("Retry-After")
    return min(float(text), _RETRY_AFTER_MOST) if text.isascii() and text.isdigit() else 1.0
