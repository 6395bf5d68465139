"""What the operator believes of the pods it finds."""

import pytest

from sluice.control.sensors import Sensors, find_url
from sluice.control.settings import Settings
from sluice.observe.store import Kind


def gateway(namespace, address):
    return {
        "metadata": {"namespace": namespace, "name": "gateway", "uid": f"uid-{namespace}"},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {
            "podIP": address,
            "conditions": [{"type": "ContainersReady", "status": "True"}],
        },
    }


@pytest.mark.parametrize(
    ("address", "url"),
    [("10.0.0.1", "http://10.0.0.1:8000"), ("fd00::1", "http://[fd00::1]:8000"), ("", "")],
)
def test_a_pod_is_reached_at_its_address_of_either_family(address, url):
    assert find_url(gateway("sluice-system", address), "http") == url


def make_sensors():
    return Sensors(None, Settings(), lambda: 1.0, lambda: None, "sluice-system")


def test_a_pod_elsewhere_cannot_pose_as_the_gateway():
    sensors = make_sensors()
    sensors.store.put(Kind.GATEWAYS, gateway("a-tenant", "10.0.0.66"))
    snapshot, _ = sensors.take_snapshot()
    assert (snapshot.endpoint, snapshot.gateways) == ("", 0)
    sensors.store.put(Kind.GATEWAYS, gateway("sluice-system", "10.0.0.1"))
    snapshot, _ = sensors.take_snapshot()
    assert (snapshot.endpoint, snapshot.gateways) == ("http://10.0.0.1:8000/v1", 1)
