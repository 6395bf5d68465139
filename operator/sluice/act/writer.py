"""The one hand that writes: every write asks first whether this process still leads."""

from collections import Counter
from typing import Any

from sluice.kube.client import Json, KubeClient
from sluice.kube.paths import Resource
from sluice.model.gate import WriteGate
from sluice.model.names import FIELD_MANAGER

WRITE_TIMEOUT = 5.0
"""Longest write, seconds; never longer than what is left of the leadership."""

MARGIN = 0.5
"""Seconds of leadership that must remain after a write's timeout."""


class NotLeaderError(Exception):
    """This process does not lead, or not for long enough to finish a write."""


class Writer:
    """Writes through a gate, and counts what it wrote by (verb, kind)."""

    def __init__(self, client: KubeClient, gate: WriteGate) -> None:
        self._client = client
        self._gate = gate
        self.written: Counter[tuple[str, str]] = Counter()

    async def read(self, resource: Resource, namespace: str, name: str) -> Json:
        """Read an object live, before it is changed or destroyed."""
        return await self._client.get(resource, namespace, name)

    async def apply(self, resource: Resource, manifest: Json, subresource: str = "") -> Json:
        """Apply on the server's side, as the one field manager."""
        meta = manifest["metadata"]
        return await self._write(
            "apply",
            resource,
            "PATCH",
            resource.path(meta.get("namespace", ""), meta["name"], subresource),
            params={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def patch(
        self, resource: Resource, namespace: str, name: str, operations: list[Json]
    ) -> Json:
        """Apply a JSON patch with its own tests in it."""
        return await self._write(
            "patch",
            resource,
            "PATCH",
            resource.path(namespace, name),
            params={"fieldManager": FIELD_MANAGER},
            body=operations,
            content_type="application/json-patch+json",
        )

    async def create(self, resource: Resource, manifest: Json) -> Json:
        """Create an object."""
        path = resource.path(manifest["metadata"].get("namespace", ""))
        return await self._write("create", resource, "POST", path, body=manifest)

    async def delete(self, resource: Resource, live: Json) -> None:
        """Delete an object just read, if it is still the same one in the same version."""
        meta = live["metadata"]
        preconditions = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        await self._write(
            "delete",
            resource,
            "DELETE",
            resource.path(meta.get("namespace", ""), meta["name"]),
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": preconditions,
                "propagationPolicy": "Background",
            },
        )

    async def _write(
        self, verb: str, resource: Resource, method: str, path: str, **request: Any
    ) -> Json:
        """Send a write.

        Raises:
            NotLeaderError: this process must not write now; nothing was sent.
            KubeError: the API server refused it, or did not answer in time.
        """
        within = min(WRITE_TIMEOUT, self._gate.remaining() - MARGIN)
        if within <= 0:
            raise NotLeaderError(f"not leading: {verb} {path} was not sent")
        answer = await self._client.request(method, path, within=within, **request)
        self.written[verb, resource.kind] += 1
        return answer
