"""Events on pools, so that `kubectl describe ipool` tells the story."""

from datetime import UTC, datetime

from sluice.act.writer import Writer
from sluice.kube.paths import EVENTS
from sluice.model.keys import PoolKey
from sluice.model.names import API_VERSION, OPERATOR, POOL_KIND
from sluice.model.plan import Decision

MAX_MESSAGE = 1000
"""The API server takes 1,024 bytes."""


async def emit_event(
    writer: Writer, key: PoolKey, uid: str, decision: Decision, instance: str
) -> None:
    """Create an Event for a decision.

    Raises:
        KubeError: the API server refused it; an Event is never worth a second try.
    """
    stamp = datetime.fromtimestamp(decision.at, UTC)
    seconds = stamp.strftime("%Y-%m-%dT%H:%M:%SZ")
    message = decision.reason
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    await writer.create(
        EVENTS,
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{key.name}.", "namespace": key.namespace},
            "type": "Warning" if decision.warning else "Normal",
            "reason": decision.action,
            "message": message,
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": POOL_KIND,
                "namespace": key.namespace,
                "name": key.name,
                "uid": uid,
            },
            "source": {"component": OPERATOR},
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "count": 1,
            "reportingComponent": OPERATOR,
            "reportingInstance": instance,
        },
    )
