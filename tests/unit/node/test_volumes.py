"""Volumes of a pod that come from the API server."""

import base64
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from sluice_node.contents import VolumeError
from sluice_node.kubeapi import ApiError
from sluice_node.volumes import PodVolumes


class FakeApi:
    """Answers with the objects it has."""

    def __init__(self):
        self.objects: dict[str, Any] = {}

    async def get(self, path: str) -> Any:
        if path not in self.objects:
            raise ApiError("not found", HTTPStatus.NOT_FOUND)
        return self.objects[path]

    def put_secret(self, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.objects["/api/v1/namespaces/n/secrets/keys"] = {"data": encoded}


def make_volumes(api: FakeApi, directory: Path, **secret: Any) -> PodVolumes:
    volume = {"name": "v", "secret": {"secretName": "keys", **secret}}
    pod = {"metadata": {"namespace": "n"}, "spec": {"volumes": [volume]}}
    return PodVolumes(pod, directory, None, api)  # type: ignore[arg-type]


async def test_a_secret_is_mounted_and_follows_its_changes(tmp_path: Path):
    api = FakeApi()
    api.put_secret(one="first", two="second")
    volumes = make_volumes(api, tmp_path)
    await volumes.prepare()
    assert (volumes.locate("v") / "one").read_text() == "first"
    api.put_secret(one="other")
    await volumes.prepare()
    names = [path.name for path in volumes.locate("v").iterdir() if path.name[0] != "."]
    assert names == ["one"]
    assert (volumes.locate("v") / "one").read_text() == "other"


async def test_a_secret_that_is_not_there_is_named_unless_it_is_optional(tmp_path: Path):
    with pytest.raises(VolumeError, match='secret "keys" not found'):
        await make_volumes(FakeApi(), tmp_path).prepare()
    optional = make_volumes(FakeApi(), tmp_path, optional=True)
    await optional.prepare()
    assert not [path for path in optional.locate("v").iterdir() if path.name[0] != "."]
