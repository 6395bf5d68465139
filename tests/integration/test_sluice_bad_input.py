"""What is wrong becomes a clear sentence in the pool's status, and the rest keeps working."""

import pytest

from .story import make_pool, wait_until


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
