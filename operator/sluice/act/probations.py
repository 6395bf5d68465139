"""Make and delete the pods that prove quarantined nodes."""

from collections.abc import Mapping
from typing import Any

from sluice.act.writer import Writer
from sluice.kube.client import Json
from sluice.kube.errors import ConflictError, NotFoundError
from sluice.kube.paths import PODS
from sluice.model.names import API_VERSION, CLASS_KIND, LABEL_NAME
from sluice.model.plan import EndProbation


class ForeignPodError(Exception):
    """A pod that is not Sluice's has the name of a probation pod; the message says what to do."""


class RelabelledPodError(Exception):
    """A probation pod was there that we cannot see, and has been deleted; the message says so."""


async def start_probation(writer: Writer, manifest: Json) -> bool:
    """Create a probation pod; False when one of its name is there already, or still ending.

    Raises:
        ForeignPodError: the one that is there is not ours, and stays.
        RelabelledPodError: it is ours, but without the label by which we see it.
        KubeError: the API server refused it.
    """
    try:
        await writer.create(PODS, manifest)
    except ConflictError:
        await _clear_way(writer, manifest)
        return False
    return True


async def _clear_way(writer: Writer, manifest: Json) -> None:
    """Look at the pod that has the name: one that a hand relabelled would be in the way for ever.

    Raises:
        ForeignPodError: it is not ours.
        RelabelledPodError: it was ours, and is deleted.
        KubeError: the API server refused it.
    """
    meta = manifest["metadata"]
    name, wanted = f"{meta['namespace']}/{meta['name']}", meta["labels"][LABEL_NAME]
    try:
        live = await writer.read(PODS, meta["namespace"], meta["name"])
        label = (live["metadata"].get("labels") or {}).get(LABEL_NAME)
        if label == wanted or live["metadata"].get("deletionTimestamp"):
            return  # It is on its way to us, or away.
        if not _is_ours(live["metadata"]):
            raise ForeignPodError(
                f"pod {name} is not Sluice's, and has the name of its probation pod: delete it"
            )
        await writer.delete(PODS, live)
    except (NotFoundError, ConflictError):
        return
    raise RelabelledPodError(
        f"pod {name} had the label {LABEL_NAME}={label or ''} instead of {wanted}, so it could not"
        " be seen: it is deleted, and made again"
    )


def _is_ours(meta: Mapping[str, Any]) -> bool:
    """Tell whether an AcceleratorClass controls the pod: nobody but us gives it such an owner."""
    return any(
        owner.get("controller")
        and (owner.get("apiVersion"), owner.get("kind")) == (API_VERSION, CLASS_KIND)
        for owner in meta.get("ownerReferences") or ()
    )


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
