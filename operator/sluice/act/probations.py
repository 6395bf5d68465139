"""Make and delete the pods that prove quarantined nodes."""

from sluice.act.writer import Writer
from sluice.kube.client import Json
from sluice.kube.errors import ConflictError, NotFoundError
from sluice.kube.paths import PODS
from sluice.model.plan import EndProbation


async def start_probation(writer: Writer, manifest: Json) -> bool:
    """Create a probation pod; False when one of its name is there already.

    Raises:
        KubeError: the API server refused it.
    """
    try:
        await writer.create(PODS, manifest)
    except ConflictError:
        return False
    return True


async def end_probation(writer: Writer, action: EndProbation, namespace: str) -> bool:
    """Delete a probation pod after a live look; False when it is gone, or another one, already.

    Raises:
        KubeError: the API server refused it.
    """
    try:
        live = await writer.read(PODS, namespace, action.name)
        meta = live["metadata"]
        if meta["uid"] != action.uid or meta.get("deletionTimestamp"):
            return False
        await writer.delete(PODS, live)
    except (NotFoundError, ConflictError):
        return False
    return True
