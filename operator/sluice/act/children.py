"""Apply a pool's children: create, mend, remove; report what somebody else had changed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sluice.act.diff import find_differences, name_manager
from sluice.act.writer import Writer
from sluice.kube.client import Json
from sluice.kube.errors import ConflictError, InternalError, NotFoundError, RejectedError
from sluice.kube.paths import PODS, Resource, find_child_resource
from sluice.model.clock import Clock
from sluice.model.names import FIELD_MANAGER
from sluice.model.plan import DeleteWorker, Results

ChildKey = tuple[str, str, str]
"""Kind, namespace and name of a child."""

OBSERVED_METADATA = ("labels", "annotations", "ownerReferences")


FIRST_HOLD = 2.0
LONGEST_HOLD = 30.0
"""Seconds before a manifest that was refused, or put back over an edit, is sent again: whatever
refuses or edits it will do so again, and a pass every fast tick would make a storm of it."""


@dataclass(frozen=True, slots=True)
class _Hold:
    """A manifest that waits `length` seconds, until a time, after a refusal or (if "") an edit."""

    manifest: Json
    length: float
    until: float
    refusal: str


class Children:
    """Applies children of pools, and remembers what it last applied to tell edits of others."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._applied: dict[ChildKey, Json] = {}
        self._observed: set[ChildKey] = set()
        self._versions: dict[ChildKey, int] = {}
        self._holds: dict[ChildKey, _Hold] = {}

    async def apply(
        self, wanted: Iterable[Json], live: Iterable[Json], kept: Iterable[str], uid: str
    ) -> Results:
        """Make the live children of one pool what they should be.

        Args:
            wanted: rendered manifests.
            live: objects as last observed, of the wanted names or owned by the pool.
            kept: names of Deployments to leave as they are (their class is gone).
            uid: the pool's.

        Returns:
            Refusals that the same request is likely to meet again, and edits that were put back.

        Raises:
            KubeError: something that is worth another try.
        """
        found = {identify(item): item for item in live}
        errors: dict[str, str] = {}
        put_back: list[str] = []
        named = set()
        for manifest in wanted:
            key = identify(manifest)
            named.add(key)
            hold = self._find_hold(key, manifest)
            if hold is not None and hold.refusal:
                errors[f"{key[0]} {key[2]}"] = hold.refusal
                continue
            try:
                put_back += await self._apply_child(key, manifest, found.get(key), uid)
            except (RejectedError, InternalError) as error:
                errors[f"{key[0]} {key[2]}"] = error.message
                self._hold(key, manifest, error.message)
        keep = set(kept)
        for key, item in found.items():
            if key not in named and key[2] not in keep and is_ours(item, uid):
                await self._remove(item)
        return Results(errors, tuple(put_back))

    async def _apply_child(
        self, key: ChildKey, manifest: Json, known: Json | None, uid: str
    ) -> list[str]:
        """Apply one child where it differs; return what somebody else's edits were put back.

        Raises:
            KubeError: the API server refused it, or it belongs to somebody else.
        """
        if known is not None:
            if not is_ours(known, uid):
                raise RejectedError(409, "Stranger", describe_stranger(known))
            if find_version(known) < self._versions.get(key, 0):
                # Older than our own last write: what differs in it is what we changed.
                return []
            self._observed.add(key)
        elif key not in self._applied:
            await self._refuse_stranger(key, find_child_resource(manifest), uid)
        differences = list(find_differences(comparable(manifest), known))
        if known is not None and not differences:
            self._applied[key] = manifest
            return []
        if self._find_hold(key, manifest) is not None:
            return []
        edited = self._applied.get(key) == manifest
        put_back = self._describe(key, differences, known) if edited else []
        if put_back:
            self._hold(key, manifest)
        written = await self._writer.apply(find_child_resource(manifest), manifest)
        self._applied[key] = manifest
        self._versions[key] = find_version(written)
        return put_back

    def _find_hold(self, key: ChildKey, manifest: Json) -> _Hold | None:
        """Return what this manifest waits for now, or None."""
        hold = self._holds.get(key)
        waits = hold is not None and hold.manifest == manifest and self._clock() < hold.until
        return hold if waits else None

    def _hold(self, key: ChildKey, manifest: Json, refusal: str = "") -> None:
        """Let the same manifest wait, twice as long each time it comes to this in a row."""
        now, before = self._clock(), self._holds.get(key)
        in_a_row = (
            before is not None and before.manifest == manifest and now < before.until + LONGEST_HOLD
        )
        length = min(LONGEST_HOLD, 2 * before.length) if before and in_a_row else FIRST_HOLD
        self._holds[key] = _Hold(manifest, length, now + length, refusal)

    async def _refuse_stranger(self, key: ChildKey, resource: Resource, uid: str) -> None:
        """Look live before a child is first made: what we watch are only objects with our label.

        Raises:
            RejectedError: somebody else's object has the name; an apply would take it over.
        """
        try:
            live = await self._writer.read(resource, key[1], key[2])
        except NotFoundError:
            return
        if not is_ours(live, uid):
            raise RejectedError(409, "Stranger", describe_stranger(live))

    async def delete_worker(self, delete: DeleteWorker) -> bool:
        """Delete a Failed worker after a live look; False when it is gone already."""
        try:
            live = await self._writer.read(PODS, delete.pool.namespace, delete.name)
            meta = live["metadata"]
            if meta["uid"] != delete.uid or meta.get("deletionTimestamp"):
                return False
            await self._writer.delete(PODS, live)
        except (NotFoundError, ConflictError):
            return False
        return True

    def forget(self, live: set[str]) -> None:
        """Forget the children of pools that are gone, given the uids of those that are not."""
        sent = {key: hold.manifest for key, hold in self._holds.items()} | self._applied
        for key, manifest in sent.items():
            if not any(is_ours(manifest, uid) for uid in live):
                self._forget_child(key)

    def _forget_child(self, key: ChildKey) -> None:
        self._applied.pop(key, None)
        self._versions.pop(key, None)
        self._holds.pop(key, None)
        self._observed.discard(key)

    async def _remove(self, item: Json) -> None:
        resource = find_child_resource(item)
        meta = item["metadata"]
        self._forget_child(identify(item))
        try:
            live = await self._writer.read(resource, meta["namespace"], meta["name"])
            if live["metadata"]["uid"] == meta["uid"]:
                await self._writer.delete(resource, live)
        except NotFoundError:
            return

    def _describe(self, key: ChildKey, differences: list[Any], live: Json | None) -> list[str]:
        """Say what somebody else did to a child that we had applied just so."""
        if live is None:
            # Just applied and not observed yet is no deletion.
            gone = key in self._observed
            self._observed.discard(key)
            return [f"{key[0]} {key[2]}: deleted by somebody, made again"] if gone else []
        who = name_manager(live, FIELD_MANAGER) or "somebody"
        return [
            f"{key[0]} {key[2]}: {d.path} {d.found!r} (set by {who}) put back to {d.wanted!r}"
            for d in differences[:3]
        ]


def find_version(item: Json) -> int:
    """Return an object's resourceVersion as a number, 0 where it is none."""
    text = str(item.get("metadata", {}).get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def identify(item: Json) -> ChildKey:
    """Return (kind, namespace, name)."""
    return item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]


def comparable(manifest: Json) -> Json:
    """Return a manifest without what an observed object does not carry in the same form."""
    meta = {
        key: manifest["metadata"][key] for key in OBSERVED_METADATA if key in manifest["metadata"]
    }
    return {"metadata": meta, "spec": manifest["spec"]}


def is_ours(item: Json, uid: str) -> bool:
    """Tell whether the pool with this uid controls the object."""
    owners = item["metadata"].get("ownerReferences", ())
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def describe_stranger(item: Json) -> str:
    """Say whose the object of that name is, and what to do."""
    owners = [o for o in item["metadata"].get("ownerReferences", ()) if o.get("controller")]
    whose = f"{owners[0].get('kind')} {owners[0].get('name')}" if owners else "nobody"
    return (
        f"an object of this name exists and belongs to {whose}; Sluice does not take it over:"
        " delete it, or rename the pool"
    )
