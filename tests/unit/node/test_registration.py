from pathlib import Path

import pytest

from sluice_node.config import Taint
from sluice_node.kubeapi import ApiError
from sluice_node.registration import Registration

from .nodeworld import FakeApi, make_config

NODE = "/api/v1/nodes/maia-0"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/maia-0"


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def make_registration(tmp_path: Path, api: FakeApi) -> Registration:
    taint = Taint(key="sluice.dev/maia", value="present", effect="NoSchedule")
    config = make_config(tmp_path, labels={"sluice.dev/emulated": "true"}, taints=(taint,))
    return Registration(config, api)


async def test_a_node_registers_with_everything(tmp_path: Path, api: FakeApi):
    registration = make_registration(tmp_path, api)
    await registration.beat()
    node = api.objects[NODE]
    assert node["metadata"]["labels"]["sluice.dev/emulated"] == "true"
    assert node["spec"]["taints"][0]["key"] == "sluice.dev/maia"
    status = node["status"]
    assert status["allocatable"]["sluice.dev/maia"] == "2"
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 1
    assert api.objects[LEASE]["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert registration.registered.is_set()


async def test_a_quiet_beat_renews_the_lease_alone(tmp_path: Path, api: FakeApi):
    registration = make_registration(tmp_path, api)
    await registration.beat()
    before = len(api.requests)
    await registration.beat()
    assert [(method, path) for method, path, _ in api.requests[before:]] == [
        ("GET", NODE),
        ("PATCH", LEASE),
    ]


async def test_a_deleted_node_is_registered_again(tmp_path: Path, api: FakeApi):
    registration = make_registration(tmp_path, api)
    await registration.beat()
    del api.objects[NODE], api.objects[LEASE]
    await registration.beat()
    assert "status" in api.objects[NODE]
    assert LEASE in api.objects


async def test_a_node_marked_unready_says_that_it_is_back(tmp_path: Path, api: FakeApi):
    registration = make_registration(tmp_path, api)
    await registration.beat()
    api.objects[NODE]["status"]["conditions"][-1]["status"] = "Unknown"
    await registration.beat()
    assert api.objects[NODE]["status"]["conditions"][-1]["status"] == "True"


async def test_labels_are_put_back_and_taints_left_alone(tmp_path: Path, api: FakeApi):
    registration = make_registration(tmp_path, api)
    await registration.beat()
    api.objects[NODE]["metadata"]["labels"] = {"other": "stays"}
    before = len(api.requests)
    await registration.beat()
    [body] = [b for m, path, b in api.requests[before:] if m == "PATCH" and path == NODE]
    assert set(body) == {"metadata"}
    assert body["metadata"]["labels"]["sluice.dev/emulated"] == "true"


async def test_an_api_server_that_is_away_is_an_error_of_the_beat(tmp_path: Path, api: FakeApi):
    api.away = True
    registration = make_registration(tmp_path, api)
    with pytest.raises(ApiError):
        await registration.beat()
    assert not registration.registered.is_set()
