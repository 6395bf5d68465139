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


def test_a_gateway_with_a_certificate_is_reached_by_https():
    sensors = make_sensors()
    pod = gateway("sluice-system", "10.0.0.1")
    pod["spec"]["containers"][0]["args"] = ["--port=8080", "--tls-dir", "/etc/sluice/tls"]
    sensors.store.put(Kind.GATEWAYS, pod)
    snapshot, _ = sensors.take_snapshot()
    assert snapshot.endpoint == "https://10.0.0.1:8000/v1"


class FakeAsker:
    """Notes whom the known answers are asked of."""

    def __init__(self):
        self.keys = set()

    def results(self):
        return {}

    def set_targets(self, targets):
        self.keys = {target.key for target in targets}

    def stop(self):
        self.keys = set()


def ready_pod(name, namespace, labels, ports):
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{name}", "labels": labels},
        "spec": {
            "nodeName": "maia-0",
            "containers": [
                {"name": port, "ports": [{"name": port, "containerPort": number}]}
                for port, number in ports.items()
            ],
        },
        "status": {
            "podIP": "10.0.0.1",
            "conditions": [{"type": "ContainersReady", "status": "True"}],
        },
    }


def test_who_leads_asks_workers_and_every_slot_and_a_standby_asks_nobody():
    sensors = make_sensors()
    sensors.answers = asker = FakeAsker()
    spec = {
        "nodeSelector": {"a": "b"},
        "resourceName": "sluice.dev/maia",
        "price": {"onDemand": "1"},
    }
    sensors.store.put(Kind.CLASSES, {"metadata": {"name": "maia", "uid": "c"}, "spec": spec})
    pool = {
        "model": {"name": "m", "source": {"path": "/m"}},
        "slo": {"ttft": "2s", "tpot": "200ms"},
        "variants": [{"acceleratorClass": "maia", "min": 0, "max": 1}],
    }
    meta = {"namespace": "default", "name": "chat", "uid": "p"}
    sensors.store.put(Kind.POOLS, {"metadata": meta, "spec": pool})
    labels = {"sluice.dev/accelerator-class": "maia", "sluice.dev/pool": "chat"}
    worker = ready_pod("w", "default", labels, {"http": 8000})
    sensors.store.put(Kind.WORKERS, ready_pod("no-pool", "a-tenant", labels, {"http": 8000}))
    probe = ready_pod("sluice-probe-maia-0", "sluice-system", labels, {"slot-0": 1, "slot-1": 2})
    sensors.store.put(Kind.WORKERS, worker)
    sensors.store.put(Kind.PROBATIONS, probe)
    sensors.store.put(
        Kind.PROBATIONS, ready_pod("sluice-probe-x", "a-tenant", labels, {"slot-0": 1})
    )
    sensors.take_snapshot()
    slots = {f"uid-sluice-probe-maia-0/slot-{number}" for number in (0, 1)}
    assert asker.keys == {"uid-w", *slots}
    sensors.take_snapshot(leading=False)
    assert asker.keys == set()
