from pathlib import Path
from typing import Any

import pytest

from sluice_accel.faults import DeviceState, Fault, FaultKind
from sluice_node.config import Taint
from sluice_node.devicehealth import judge_devices
from sluice_node.kubeapi import ApiError
from sluice_node.registration import Registration

from .nodeworld import FakeApi, make_config

NODE = "/api/v1/nodes/maia-0"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/maia-0"


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


DEVICES = (("sluice.dev/maia", 0), ("sluice.dev/maia", 1))


def make_registration(tmp_path: Path, api: FakeApi, *faults: Fault) -> Registration:
    """Return a node of two devices, whose second one has these faults."""
    states = (DeviceState(*DEVICES[0]), DeviceState(*DEVICES[1], faults))
    report = judge_devices(states, 1000.0)
    taint = Taint(key="sluice.dev/maia", value="present", effect="NoSchedule")
    config = make_config(tmp_path, labels={"sluice.dev/emulated": "true"}, taints=(taint,))
    return Registration(config, api, lambda: report)


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


def read_conditions(api: FakeApi) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in api.objects[NODE]["status"]["conditions"]}


async def test_a_broken_device_is_reported_and_cannot_be_had(tmp_path: Path, api: FakeApi):
    await make_registration(tmp_path, api).beat()
    assert read_conditions(api)["AcceleratorHealthy"]["status"] == "True"
    await make_registration(tmp_path, api, Fault(FaultKind.OFF_BUS, 1000.0)).beat()
    told = read_conditions(api)["AcceleratorHealthy"]
    assert (told["status"], told["reason"]) == ("False", "AcceleratorMissing")
    assert "device 1 (sluice.dev/maia)" in told["message"]
    status = api.objects[NODE]["status"]
    assert status["capacity"]["sluice.dev/maia"] == "2"
    assert status["allocatable"]["sluice.dev/maia"] == "1"
    assert read_conditions(api)["Ready"]["status"] == "True"
    await make_registration(tmp_path, api).beat()
    assert api.objects[NODE]["status"]["allocatable"]["sluice.dev/maia"] == "2"


async def test_another_reason_is_reported_although_the_verdict_stays(tmp_path: Path, api: FakeApi):
    throttle, ecc = Fault(FaultKind.THROTTLE, 900.0), Fault(FaultKind.ECC, 1000.0)
    await make_registration(tmp_path, api, throttle).beat()
    assert read_conditions(api)["AcceleratorHealthy"]["reason"] == "ClockThrottling"
    assert api.objects[NODE]["status"]["allocatable"]["sluice.dev/maia"] == "2"
    registration = make_registration(tmp_path, api, throttle, ecc)
    await registration.beat()
    assert read_conditions(api)["AcceleratorHealthy"]["reason"] == "UncorrectableECCError"
    # Nothing but the message differs.
    read_conditions(api)["AcceleratorHealthy"]["message"] = "something else"
    await registration.beat()
    assert "XID 48" in read_conditions(api)["AcceleratorHealthy"]["message"]


async def test_a_node_without_devices_says_nothing_of_accelerators(tmp_path: Path, api: FakeApi):
    capacity = {"cpu": "4", "memory": "8Gi", "pods": "9"}
    report = judge_devices((), 1000.0)
    await Registration(make_config(tmp_path, capacity=capacity), api, lambda: report).beat()
    assert "AcceleratorHealthy" not in read_conditions(api)


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
    [ready] = [c for c in api.objects[NODE]["status"]["conditions"] if c["type"] == "Ready"]
    ready["status"] = "Unknown"
    await registration.beat()
    assert read_conditions(api)["Ready"]["status"] == "True"


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
