"""A real Kubernetes control plane for tests that ask for it: one a session, which dies with it."""

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.binaries.resolution import resolve_binaries
from sluice.devcluster.cluster import Cluster, start_cluster
from sluice.devcluster.shape import ClusterShape

from .integration.story import Sluice, wait_until

# An example takes as long as the machine is busy: that is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

Kubectl = Callable[..., Any]
"""`kubectl("get", "nodes")`: kubectl's JSON answer."""


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """Return the programs of the control plane (`make test` has put them into the cache)."""
    return resolve_binaries()


@pytest.fixture(scope="session")
def cluster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home for clusters apart from the user's own."""
    return tmp_path_factory.mktemp("state") / "sluice" / "clusters"


@pytest.fixture(scope="session")
def environment(cluster_home: Path) -> dict[str, str]:
    """Return an environment in which `sluice` finds the clusters of these tests."""
    return {**os.environ, "XDG_STATE_HOME": str(cluster_home.parent.parent)}


@pytest.fixture(scope="session")
def cluster(binaries: Binaries, cluster_home: Path) -> Iterator[Cluster]:
    """Start the cluster that the tests of a session share: 2 Maia, 2 GPU, 1 system node.

    A test that kills or taints something puts it back.
    """
    name = f"test-{os.getpid()}-{secrets.token_hex(3)}"
    started = start_cluster(
        name,
        shape=ClusterShape(maia=2, gpu=2, system=1),
        binaries=binaries,
        audit_log=True,
        home=cluster_home,
    )
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster, binaries: Binaries) -> Kubectl:
    """Return a function that runs kubectl on the shared cluster and returns its JSON answer."""

    def run(*arguments: str, stdin: str | None = None) -> Any:
        completed = subprocess.run(
            [binaries.kubectl, "--kubeconfig", cluster.kubeconfig, *arguments, "-o", "json"],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr
        return json.loads(completed.stdout)

    return run


@pytest.fixture(scope="session")
def sluice(cluster: Cluster, binaries: Binaries, kubectl: Kubectl) -> Sluice:
    """Install Sluice from its manifests and wait until operator and gateway are there."""
    installed = Sluice(cluster, binaries)
    installed.apply("manifests/overlays/embedded")
    wait_until(lambda: "rror" not in installed.apply_classes(), "the classes are applied")
    wait_until(
        lambda: all(
            item["status"].get("readyReplicas", 0) == item["spec"]["replicas"]
            for item in kubectl("-n", "sluice-system", "get", "deploy")["items"]
        ),
        "operator and gateway are ready",
    )
    return installed
