"""A control plane for the tests that kill the operator: no other operator runs on it."""

import base64
import json
import os
import secrets
from collections.abc import Iterator

import pytest
import yaml
from tests.integration.story import Sluice, wait_until

from sluice.devcluster.binaries.resolution import resolve_binaries
from sluice.devcluster.cluster import start_cluster
from sluice.devcluster.shape import ClusterShape

from .process import OperatorProcess, write_kubeconfig
from .proxy import HOST, FaultProxy
from .scenario import SETTINGS, Stage, load_classes


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Start a cluster with Sluice on it, and an operator outside of it that can be killed."""
    binaries = resolve_binaries()
    directory = tmp_path_factory.mktemp("faults")
    cluster = start_cluster(
        f"faults-{os.getpid()}-{secrets.token_hex(3)}",
        shape=ClusterShape(maia=2, gpu=2, system=1),
        binaries=binaries,
        audit_log=True,
        home=directory / "sluice" / "clusters",
    )
    try:
        sluice = Sluice(cluster, binaries)
        install(sluice)
        config = json.loads(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
        authority = directory / "cluster-ca.crt"
        authority.write_bytes(base64.b64decode(config["certificate-authority-data"]))
        proxy = FaultProxy(config["server"], authority, directory)
        proxy.start()
        try:
            token = sluice.run(
                "-n", "sluice-system", "create", "token", "sluice-operator", "--duration=4h"
            )
            kubeconfig = directory / "operator.kubeconfig"
            write_kubeconfig(
                kubeconfig, f"https://{HOST}:{proxy.port}", proxy.authority, token.strip()
            )
            yield Stage(sluice, proxy, OperatorProcess(directory, kubeconfig, SETTINGS))
        finally:
            proxy.stop()
    finally:
        cluster.stop()


def install(sluice: Sluice) -> None:
    """Install Sluice from its manifests, but with no operator of its own."""
    rendered = sluice.run("kustomize", "manifests/overlays/embedded")
    documents = list(yaml.safe_load_all(rendered))
    for document in documents:
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", "sluice-operator"):
            document["spec"]["replicas"] = 0
    text = yaml.safe_dump_all([*documents])
    applied = ("apply", "--server-side", "-f", "-")
    wait_until(lambda: "rror" not in sluice.run(*applied, stdin=text, check=False), "it is applied")
    classes = yaml.safe_dump_all(load_classes())
    wait_until(
        lambda: "rror" not in sluice.run(*applied, stdin=classes, check=False), "classes are there"
    )
    gateway = ("-n", "sluice-system", "deployment", "sluice-gateway")
    wait_until(
        lambda: sluice.get(*gateway)["status"].get("readyReplicas") == 1, "the gateway is ready"
    )
