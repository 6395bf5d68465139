"""The API as the real API server has it: what it refuses, completes, explains and prints."""

import json
import subprocess

import pytest
import yaml
from tests.contract.apicases import TYPES, list_cases, merge

from .story import ROOT, wait_until

NAMESPACE = "api-cases"
POOL = {
    "apiVersion": "sluice.dev/v1alpha1",
    "kind": "InferencePool",
    "metadata": {"name": "edited", "namespace": NAMESPACE},
    "spec": {
        "model": {"name": "edited", "source": {"path": "/models/compact"}},
        "slo": {"ttft": "2s", "tpot": "200ms"},
        # A class that nobody has: whoever runs Sluice on this cluster makes no workers for it.
        "variants": [{"acceleratorClass": "nowhere", "max": 1}],
    },
}


@pytest.fixture(scope="module")
def run(cluster, binaries):
    """Return a function that runs kubectl where the kinds are known and a namespace waits."""

    def call(*arguments, stdin=None):
        return subprocess.run(
            [binaries.kubectl, "--kubeconfig", cluster.kubeconfig, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
        )

    applied = call("apply", "--server-side", "--force-conflicts", "-k", "crds")
    assert applied.returncode == 0, applied.stderr
    established = call("wait", "--for=condition=Established", "crd", "-l", SLUICE, "--timeout=60s")
    assert established.returncode == 0, established.stderr
    created = call("create", "namespace", NAMESPACE)
    assert created.returncode == 0, created.stderr
    yield call
    call("delete", "namespace", NAMESPACE, "--wait=false")


SLUICE = "app.kubernetes.io/part-of=sluice"


@pytest.fixture
def apply(run):
    """Return a function that applies a document and returns it as stored; pools are gone after."""

    def call(document, *arguments):
        command = ("apply", "--server-side", *arguments, "-o", "json", "-f", "-")
        done = run(*command, stdin=json.dumps(document))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield call
    run("delete", "ipool", "--all", "-n", NAMESPACE)


def try_create(run, document):
    command = ("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    return run(*command, stdin=yaml.safe_dump(document))


@pytest.mark.parametrize(("document", "refused"), list_cases())
def test_the_api_server_agrees_with_the_types(run, document, refused):
    answer = try_create(run, document)
    if refused is None:
        assert answer.returncode == 0, answer.stderr
        kind = TYPES[document["kind"]]
        # Equal as wholes, so the defaults are equal too.
        assert kind.model_validate(json.loads(answer.stdout)) == kind.model_validate(document)
    else:
        assert answer.returncode == 1
        assert refused in answer.stderr


def test_what_the_api_server_makes_plain_the_types_can_read(run):
    variant = {"acceleratorClass": "nowhere", "max": 5.0, "devices": None, "min": None}
    document = merge(POOL, {"spec": {"variants": [variant]}})
    answer = try_create(run, document)
    assert answer.returncode == 0, answer.stderr
    read = TYPES["InferencePool"].model_validate(json.loads(answer.stdout)).spec.variants[0]
    assert (read.min, read.max, read.devices) == (0, 5, None)


def test_a_model_cannot_be_renamed_but_the_rest_can_be_edited(run, apply):
    apply(POOL)
    renamed = merge(POOL, {"spec": {"model": {"name": "other"}}})
    refused = run("apply", "--server-side", "-f", "-", stdin=json.dumps(renamed))
    assert refused.returncode == 1
    assert "make a second pool with the new name" in refused.stderr
    edited = apply(merge(POOL, {"spec": {"slo": {"ttft": "3s"}, "priority": 7}}))
    assert (edited["spec"]["slo"]["ttft"], edited["spec"]["priority"]) == ("3s", 7)


def test_the_order_of_variants_is_the_order_last_applied(apply):
    def order(*names):
        return {"spec": {"variants": [{"acceleratorClass": name, "max": 1} for name in names]}}

    apply(merge(POOL, order("a", "b", "c")))
    stored = apply(merge(POOL, order("c", "a", "b")))
    assert [v["acceleratorClass"] for v in stored["spec"]["variants"]] == ["c", "a", "b"]


def test_one_program_may_own_one_variant_of_a_pool(apply):
    apply(merge(POOL, {"spec": {"variants": [{"acceleratorClass": "a", "max": 1}]}}))
    theirs = {key: POOL[key] for key in ("apiVersion", "kind", "metadata")}
    theirs["spec"] = {"variants": [{"acceleratorClass": "b", "max": 2}]}
    stored = apply(theirs, "--field-manager=capacity-team")
    assert {v["acceleratorClass"]: v["max"] for v in stored["spec"]["variants"]} == {"a": 1, "b": 2}


def test_status_is_a_subresource(run, apply):
    generation = apply(merge(POOL, {"status": {"endpoint": "http://elsewhere"}}))["metadata"][
        "generation"
    ]
    written = run(
        *("patch", "ipool", "edited", "-n", NAMESPACE, "--subresource=status", "--type=merge"),
        *("-p", json.dumps({"status": {"costPerHour": "1"}, "spec": {"priority": 9}})),
        *("-o", "json"),
    )
    stored = json.loads(written.stdout)
    assert stored["status"].get("endpoint") != "http://elsewhere"
    assert stored["metadata"]["generation"] == generation
    assert stored["spec"]["priority"] == 0


def test_a_row_says_whether_where_at_what_cost_and_why(run, apply):
    apply(POOL)
    now = "2026-01-01T00:00:00Z"
    said = {"reason": "R", "message": "M", "lastTransitionTime": now}
    status = {
        "attainment": "99.4%",
        "costPerHour": "31.20",
        "placement": "maia-200 2/2 80%, h100 1/1 20%",
        "reason": "Spill",
        "conditions": [
            {"type": "Ready", "status": "True", **said},
            {"type": "SLOMet", "status": "Unknown", **said},
            {"type": "FallbackActive", "status": "False", **said},
        ],
    }
    patch = ("patch", "ipool", "edited", "-n", NAMESPACE, "--subresource=status", "--type=merge")

    def read_row():
        assert run(*patch, "-p", json.dumps({"status": status})).returncode == 0
        header, row = run("get", "ipool", "-n", NAMESPACE).stdout.splitlines()
        # Whoever runs Sluice on this cluster may have written in between.
        return header.split(), row if "Spill" in row else ""

    printed = []

    def is_printed():
        printed[:] = read_row()
        return printed[1]

    wait_until(is_printed, "the row is printed")
    header, row = printed
    assert " ".join(header) == "NAME READY SLO ATTAINMENT PLACEMENT $/H FALLBACK WHY AGE"
    assert "True    Unknown   99.4%        maia-200 2/2 80%, h100 1/1 20%   31.20   False" in row


def test_a_class_is_printed_with_its_price(run):
    document = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": "printed"},
        "spec": {
            "nodeSelector": {"no": "node"},
            "resourceName": "example.com/npu",
            "price": {"onDemand": "1.50"},
        },
    }
    applied = run("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
    assert applied.returncode == 0, applied.stderr
    header, row = run("get", "accel", "printed").stdout.splitlines()
    run("delete", "accel", "printed")
    assert " ".join(header.split()) == "NAME RESOURCE DEVICES $/DEVICE-H PROFILE AGE"
    assert row.split()[:4] == ["printed", "example.com/npu", "1", "1.50"]


def list_undescribed(schema, path):
    """Return the paths of fields without a description, as kubectl explain would have to show."""
    found = []
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        if not child.get("description"):
            found.append(here)
        found += list_undescribed(child, here)
        found += list_undescribed(child.get("items", {}), here)
    return found


def test_every_field_is_explained(run):
    published = json.loads(run("get", "--raw", "/openapi/v3/apis/sluice.dev/v1alpha1").stdout)
    for kind in TYPES:
        schema = published["components"]["schemas"][f"dev.sluice.v1alpha1.{kind}"]
        schema["properties"].pop("metadata")  # Kubernetes' own
        assert schema["description"]
        assert list_undescribed(schema, kind) == []


def test_explain_reads_well(run):
    said = run("explain", "ipool.spec.slo").stdout
    assert "Longest time to first token" in said
    assert "Service level objective" in said
    said = run("explain", "accel.spec.emulation.timeCompression").stdout
    assert "startup / timeCompression" in " ".join(said.split())


def test_pools_are_found_under_their_short_names_and_categories(run):
    listed = run("api-resources", "--api-group=sluice.dev", "-o", "wide", "--no-headers").stdout
    rows = {line.split()[0]: line for line in listed.splitlines()}
    assert "ipool" in rows["inferencepools"]
    assert "all,sluice" in rows["inferencepools"]
    assert "accel" in rows["acceleratorclasses"]
    assert "sluice" in rows["acceleratorclasses"].rpartition("[")[2]
