"""The pod that proves a node: on that node alone, on all that is free, and as tight as a worker."""

import pytest

from sluice.api.template import WorkerTemplate
from sluice.model.keys import PoolKey
from sluice.model.plan import StartProbation
from sluice.render.probation import Proving, render_probation

from .golden import IMAGE, read_classes, read_pool

POOL, CLASSES = read_pool(), read_classes()


def render(class_name="maia-200", slots=2, spec=POOL):
    action = StartProbation("node-7", class_name, PoolKey("default", "chat"), slots)
    proving = Proving(spec, CLASSES[class_name], "uid-of-class", "sluice-system", IMAGE)
    return render_probation(action, proving)


def test_it_is_bound_to_its_node_and_tolerates_the_quarantine_there():
    spec = render()["spec"]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]
    keys = {toleration.get("key") for toleration in spec["tolerations"]}
    assert keys == {"sluice.dev/maia", "sluice.dev/quarantine"}
    assert "topologySpreadConstraints" not in spec


def test_each_slot_has_a_worker_s_devices_and_a_port_of_its_own():
    containers = render("h100", slots=2)["spec"]["containers"]
    assert [c["name"] for c in containers] == ["slot-0", "slot-1"]
    for number, container in enumerate(containers):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
        (port,) = container["ports"]
        assert port == {
            "name": f"slot-{number}",
            "containerPort": 8000 + number,
            "protocol": "TCP",
        }
        assert f"--port={8000 + number}" in container["args"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == f"slot-{number}"


def test_a_node_proves_itself_in_the_numerics_that_its_workers_compute_in():
    variants = [v.model_copy(update={"numerics": "fp4"}) for v in POOL.variants]
    spec = POOL.model_copy(update={"variants": variants})
    for given, numerics in ((POOL, "fp8-block"), (spec, "fp4")):
        for container in render(spec=given)["spec"]["containers"]:
            assert f"--numerics={numerics}" in container["args"]


def test_a_pool_cannot_read_secrets_of_the_namespace_that_its_model_is_asked_in():
    env = [
        {"name": "PLAIN", "value": "1"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "gateway", "key": "token"}}},
        {"name": "SETTING", "valueFrom": {"configMapKeyRef": {"name": "operator", "key": "a"}}},
    ]
    template = WorkerTemplate.model_validate({"env": env})
    variants = [v.model_copy(update={"template": template}) for v in POOL.variants]
    spec = POOL.model_copy(update={"variants": variants})
    (container, _) = render(spec=spec)["spec"]["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert {"PLAIN", "NODE", "POD_UID"} <= names
    assert not names & {"TOKEN", "SETTING"}


def test_it_belongs_to_its_class_and_to_no_pool():
    meta = render()["metadata"]
    assert (meta["name"], meta["namespace"]) == ("sluice-probe-node-7", "sluice-system")
    (owner,) = meta["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == (
        "AcceleratorClass",
        "maia-200",
        "uid-of-class",
    )
    # The gateway and the pool's Service look for workers of a pool.
    assert "sluice.dev/pool" not in meta["labels"]
    assert meta["labels"]["app.kubernetes.io/name"] == "sluice-probe"


@pytest.mark.parametrize("class_name", ["maia-200", "h100"])
def test_it_is_as_tight_as_pod_security_asks(class_name):
    spec = render(class_name)["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
