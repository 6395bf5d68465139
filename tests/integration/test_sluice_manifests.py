"""What is installed and what is rendered, as the real API server takes it."""

import json

import pytest
from tests.contract.apicases import list_cases

from sluice.act.children import comparable
from sluice.act.diff import find_differences
from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePool
from sluice.model.keys import PoolKey
from sluice.model.plan import PoolPlan, VariantPlan
from sluice.render.pool import render_pool

GOOD_POOLS = [
    pytest.param(case.values[0], id=case.id)
    for case in list_cases()
    if case.values[0]["kind"] == "InferencePool" and case.values[1] is None
]
CLASS = AcceleratorClassSpec.model_validate(
    {
        "nodeSelector": {"no": "node"},
        "taintKey": "sluice.dev/maia",
        "resourceName": "sluice.dev/maia",
        "price": {"onDemand": "1"},
        "emulation": {"profile": "maia-200"},
    }
)


def render(document):
    """Return the children of a pool that runs one worker of every variant."""
    pool = InferencePool.model_validate(document)
    names = [variant.accelerator_class for variant in pool.spec.variants]
    variants = tuple(
        VariantPlan(name, wanted=1, share=0, serving=0, ready=0, capacity=None) for name in names
    )
    plan = PoolPlan(PoolKey("default", pool.metadata.name), "0-0-0", 1, variants)
    return render_pool(plan, pool.spec, dict.fromkeys(names, CLASS), "sluice-worker:0.1.0")


def try_apply(sluice, document, *arguments):
    """Apply without keeping; return what kubectl printed, warnings first."""
    command = ("apply", "--server-side", "--dry-run=server", *arguments, "-f", "-")
    return sluice.run(*command, stdin=json.dumps(document), check=False)


@pytest.mark.parametrize("document", GOOD_POOLS)
def test_children_are_stored_as_rendered_and_restricted(sluice, document):
    for child in render(document):
        # In this namespace the server warns of a template whose pods it would refuse.
        said = try_apply(sluice, child)
        assert "Warning" not in said
        assert "rror" not in said
        stored = json.loads(try_apply(sluice, child, "-o", "json"))
        assert list(find_differences(comparable(child), stored)) == []


def test_a_worker_pod_passes_pod_security(sluice):
    deployment = render(GOOD_POOLS[1].values[0])[0]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tried", "namespace": "default"},
        "spec": deployment["spec"]["template"]["spec"],
    }
    assert "pod/tried serverside-applied" in try_apply(sluice, pod)
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    assert 'violates PodSecurity "restricted:latest"' in try_apply(sluice, pod)


def test_what_is_installed_can_be_installed_again_without_a_warning(sluice):
    for path in ("manifests/overlays/embedded", "manifests/samples"):
        said = sluice.run("apply", "--server-side", "--dry-run=server", "-k", path)
        assert "serverside-applied" in said
        said = sluice.run("apply", "--server-side", "--dry-run=server", "-k", path, check=False)
        assert "Warning" not in said


def test_sluice_itself_runs_restricted(sluice):
    namespace = sluice.get("namespace", "sluice-system")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = sluice.get("pods", "-n", "sluice-system")["items"]
    names = {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods}
    assert {"sluice-operator", "sluice-gateway"} <= names
