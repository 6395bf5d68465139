"""What is wrong becomes a clear sentence in the pool's status, and the rest keeps working."""

import pytest
import yaml

from .story import ROOT, ask, make_pool, wait_until


@pytest.fixture
def pool(sluice):
    """Create a pool named odd; gone after the test."""

    def create(change):
        document = make_pool("odd")
        change(document["spec"])
        sluice.create(document)
        return sluice

    yield create
    sluice.delete_pool("odd")


def degraded(sluice, *words):
    """Tell whether the pool says all these words of what is wrong."""
    found = {c["type"]: c for c in sluice.status("odd").get("conditions", ())}
    message = found.get("Degraded", {}).get("message", "")
    return found.get("Degraded", {}).get("status") == "True" and all(w in message for w in words)


def test_an_unknown_class_is_named(pool):
    def change(spec):
        spec["variants"] = [{"acceleratorClass": "tpu-v9", "max": 1}]

    sluice = pool(change)
    wait_until(lambda: degraded(sluice, "tpu-v9", "does not exist"), "the class is named")


def test_a_worker_that_crashes_at_start_shows_why(pool):
    def change(spec):
        spec["model"]["source"]["path"] = "/models/nowhere"

    sluice = pool(change)
    wait_until(
        lambda: degraded(sluice, "does not start", "no checkpoint directory"),
        "the worker's own words are shown",
    )


@pytest.mark.full
def test_an_unknown_image_is_named(pool):
    def change(spec):
        spec["variants"][0]["template"] = {"image": "sluice-worker:9.9.9"}

    sluice = pool(change)
    wait_until(lambda: degraded(sluice, "sluice-worker:9.9.9"), "the image is named")


@pytest.mark.full
def test_a_quota_that_refuses_pods_is_shown(pool, sluice):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": "default"},
        "spec": {"hard": {"pods": "0"}},
    }
    sluice.create(quota)
    try:
        pool(lambda _: None)
        wait_until(lambda: degraded(sluice, "exceeded quota"), "the quota is named")
    finally:
        sluice.run("delete", "resourcequota", "none")
    wait_until(lambda: sluice.serving("odd", "maia-200") >= 1, "it recovers by itself")


@pytest.mark.full
def test_a_class_deleted_while_in_use_is_named_and_its_workers_serve_on(pool, sluice):
    pool(lambda _: None)
    wait_until(lambda: sluice.serving("odd", "maia-200") >= 1, "a worker serves")
    wait_until(lambda: ask(sluice.gateway(), "odd")[0] == 200, "the gateway serves it")
    sluice.run("delete", "accel", "maia-200")
    try:
        wait_until(lambda: degraded(sluice, "maia-200", "does not exist"), "the class is named")
        assert ask(sluice.gateway(), "odd")[0] == 200
        assert sluice.serving("odd", "maia-200") >= 1
    finally:
        sluice.apply_classes()
    wait_until(lambda: sluice.condition("odd", "Degraded") == "False", "all is well again")


@pytest.mark.full
def test_a_class_without_a_node_is_named(pool, sluice):
    classes = (ROOT / "manifests/samples/classes.yaml").read_text()
    document = next(yaml.safe_load_all(classes))
    document["metadata"]["name"] = "maia-none"
    document["spec"]["nodeSelector"] = {"sluice.dev/accelerator": "nowhere"}
    sluice.create(document)
    try:
        pool(lambda spec: spec.update(variants=[{"acceleratorClass": "maia-none", "max": 1}]))
        wait_until(
            lambda: degraded(sluice, "no node of class maia-none", "nowhere"), "it says what to add"
        )
    finally:
        sluice.delete_pool("odd")
        sluice.run("delete", "accel", "maia-none")
