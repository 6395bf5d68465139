import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sluice.devcluster.binaries.programs import KUBERNETES_VERSION
from sluice.devcluster.errors import InvalidClusterError
from sluice.devcluster.shape import ClusterShape


def test_nodes_are_numbered_by_kind_and_addressed_over_all() -> None:
    nodes = ClusterShape(maia=2, gpu=1, system=1).plan_nodes()
    assert [(node.name, node.index) for node in nodes] == [
        ("maia-0", 1),
        ("maia-1", 2),
        ("gpu-0", 3),
        ("system-0", 4),
    ]


def test_nodes_carry_what_classes_and_manifests_look_for() -> None:
    maia, gpu, system = ClusterShape(maia=1, gpu=1, system=1).plan_nodes()
    assert all(node.labels["sluice.dev/emulated"] == "true" for node in (maia, gpu, system))
    assert maia.labels["sluice.dev/accelerator"] == "maia-200"
    assert maia.capacity["sluice.dev/maia"] == "2"
    assert maia.taints == ({"key": "sluice.dev/maia", "value": "present", "effect": "NoSchedule"},)
    assert gpu.labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert gpu.labels["nvidia.com/gpu.count"] == gpu.capacity["nvidia.com/gpu"] == "2"
    assert gpu.taints == ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},)
    assert system.labels["sluice.dev/node-pool"] == "system"
    assert system.taints == ()


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(InvalidClusterError, match="--gpu -1"):
        ClusterShape(gpu=-1)
    with pytest.raises(InvalidClusterError, match="201 nodes are more"):
        ClusterShape(maia=100, gpu=100, system=1)


def test_a_shape_survives_json() -> None:
    shape = ClusterShape(maia=3, gpu=0, system=2)
    assert ClusterShape.from_dict(json.loads(json.dumps(shape.to_dict()))) == shape
    assert str(shape) == "3 Maia, 0 GPU and 2 system nodes"


def test_a_wheel_carries_the_pinned_modules(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        modules = archive.read("sluice/devcluster/kubernetes/go.mod").decode()
        names = archive.namelist()
    assert f"k8s.io/kubernetes {KUBERNETES_VERSION}\n" in modules
    assert "sluice/devcluster/kubernetes/go.sum" in names
    assert "sluice/devcluster/kubernetes/toolchain.txt" in names
