"""The volumes of one pod as directories of this machine: config maps, Secrets, projections, empty.

Prepared before the pod's containers start and refreshed while they run: config maps and Secrets are
looked at again, service-account tokens are renewed before they end.
"""

import base64
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from sluice_node.contents import Content, VolumeError, choose_items, write_content
from sluice_node.environment import ContainerConfigError, PodFacts, resolve_field
from sluice_node.kubeapi import ApiError, KubeApi
from sluice_node.timestamps import parse_time

_DEFAULT_TOKEN_SECONDS = 3600
_RENEW_SHARE = 0.8  # of its life, as the kubelet renews


@dataclass(slots=True)
class _Token:
    value: str
    renew_at: float


class PodVolumes:
    """The volumes of one pod, below its directory."""

    def __init__(
        self, pod: Mapping[str, Any], directory: Path, facts: PodFacts, api: KubeApi
    ) -> None:
        self._pod = pod
        self._directory = directory / "volumes"
        self._facts = facts
        self._api = api
        self._namespace = pod["metadata"]["namespace"]
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._volumes: dict[str, Mapping[str, Any]] = {
            volume["name"]: volume for volume in pod["spec"].get("volumes") or ()
        }

    def locate(self, volume: str) -> Path:
        """Return a volume's directory."""
        return self._directory / volume

    def map_mounts(self, container: Mapping[str, Any]) -> dict[str, Path]:
        """Return a container's mount paths and the directories behind them."""
        mounts = container.get("volumeMounts") or ()
        return {mount["mountPath"]: self.locate(mount["name"]) for mount in mounts}

    def find_token(self, container: Mapping[str, Any]) -> Path | None:
        """Return the token file for the API server that a container mounts, if any."""
        for mount in container.get("volumeMounts") or ():
            projected = self._volumes[mount["name"]].get("projected") or {}
            for source in projected.get("sources") or ():
                token = source.get("serviceAccountToken")
                if token and not token.get("audience"):
                    return self.locate(mount["name"]) / str(token["path"])
        return None

    async def prepare(self) -> None:
        """Bring all volumes up to date; nothing is written where nothing changed.

        Raises:
            VolumeError: Something a volume is made of does not exist.
            ApiError: The API server cannot be asked.
        """
        for name, volume in self._volumes.items():
            directory = self.locate(name)
            directory.mkdir(parents=True, exist_ok=True)
            if "configMap" in volume:
                write_content(directory, await self._read_config_map(volume["configMap"]))
            elif "secret" in volume:
                write_content(directory, await self._read_secret(volume["secret"]))
            elif "projected" in volume:
                content: Content = {}
                for source in volume["projected"].get("sources") or ():
                    content.update(await self._project(name, source))
                write_content(directory, content)

    async def _project(self, volume: str, source: Mapping[str, Any]) -> Content:
        if "configMap" in source:
            return await self._read_config_map(source["configMap"])
        if "downwardAPI" in source:
            return self._read_fields(source["downwardAPI"])
        request = source["serviceAccountToken"]
        token = await self._ensure_token(volume, request)
        return {request["path"]: token.encode()}

    async def _read_config_map(self, source: Mapping[str, Any]) -> Content:
        config_map = await fetch_config_map(self._api, self._namespace, source["name"])
        if config_map is None:
            if source.get("optional"):
                return {}
            raise VolumeError(f'configmap "{source["name"]}" not found')
        files = {key: value.encode() for key, value in (config_map.get("data") or {}).items()}
        for key, value in (config_map.get("binaryData") or {}).items():
            files[key] = base64.b64decode(value)
        return choose_items(files, source)

    async def _read_secret(self, source: Mapping[str, Any]) -> Content:
        name = source["secretName"]
        secret = await _fetch(self._api, self._namespace, "secrets", name)
        if secret is None:
            if source.get("optional"):
                return {}
            raise VolumeError(f'secret "{name}" not found')
        data = (secret.get("data") or {}).items()
        return choose_items({key: base64.b64decode(value) for key, value in data}, source)

    def _read_fields(self, source: Mapping[str, Any]) -> Content:
        content: Content = {}
        for item in source.get("items") or ():
            path = (item.get("fieldRef") or {}).get("fieldPath", "")
            try:
                content[item["path"]] = resolve_field(self._pod, path, self._facts).encode()
            except ContainerConfigError as error:
                raise VolumeError(str(error)) from error
        return content

    async def _ensure_token(self, volume: str, request: Mapping[str, Any]) -> str:
        key = (volume, request["path"])
        token = self._tokens.get(key)
        if token is None or time.time() >= token.renew_at:
            token = self._tokens[key] = await self._request_token(request)
        return token.value

    async def _request_token(self, request: Mapping[str, Any]) -> _Token:
        metadata = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        spec: dict[str, Any] = {
            "expirationSeconds": request.get("expirationSeconds", _DEFAULT_TOKEN_SECONDS),
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }
        if request.get("audience"):
            spec["audiences"] = [request["audience"]]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        status = (await self._api.create(path, body))["status"]
        now = time.time()
        life = parse_time(status["expirationTimestamp"]) - now
        return _Token(status["token"], now + _RENEW_SHARE * life)


async def fetch_config_map(api: KubeApi, namespace: str, name: str) -> dict[str, Any] | None:
    """Return a config map, or None if there is none.

    Raises:
        ApiError: The API server cannot be asked.
    """
    return await _fetch(api, namespace, "configmaps", name)


async def _fetch(api: KubeApi, namespace: str, plural: str, name: str) -> dict[str, Any] | None:
    try:
        return await api.get(f"/api/v1/namespaces/{namespace}/{plural}/{name}")
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def remove_directory(directory: Path) -> None:
    """Remove all that a pod left on disk."""
    shutil.rmtree(directory, ignore_errors=True)
