"""What a starter says of a supervisor that dies on it."""

import sys
from pathlib import Path

import pytest

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import start_cluster
from sluice.devcluster.errors import ClusterStartError
from sluice.devcluster.shape import ClusterShape

BINARIES = Binaries(
    kube_apiserver=Path("a"),
    kube_controller_manager=Path("b"),
    kube_scheduler=Path("c"),
    kubectl=Path("d"),
    etcd=Path("e"),
    etcd_version=(3, 6, 0),
    kubernetes_source="here",
    etcd_source="here",
)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no such module' >&2", "ended before the cluster was ready: no such module."),
        (
            'mkdir -p "{root}/logs"; touch "{root}/logs/supervisor.log"; printf \'{{"event": "st\'',
            "ended before the cluster was ready. Its log: {root}/logs/supervisor.log.",
        ),
    ],
    ids=["at once", "while it wrote an event"],
)
def test_a_supervisor_that_dies_leaves_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    root = tmp_path / "one"
    supervisor = tmp_path / "python"
    supervisor.write_text(f"#!/bin/sh\nread line\n{script.format(root=root)}\n")
    supervisor.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(supervisor))
    with pytest.raises(ClusterStartError) as caught:
        start_cluster("one", shape=ClusterShape(), binaries=BINARIES, home=tmp_path)
    assert message.format(root=root) in str(caught.value)
