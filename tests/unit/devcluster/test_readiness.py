from typing import Any

import pytest

from sluice.devcluster.readiness import is_node_ready


def node(*, ready: str = "True", taints: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "metadata": {"name": "maia-0"},
        "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (node(), True),
        (node(taints=("sluice.dev/maia",)), True),
        (node(taints=("node.kubernetes.io/not-ready",)), False),
        (node(ready="Unknown"), False),
        (node(ready="False"), False),
        ({"metadata": {"name": "new"}, "spec": {}}, False),
    ],
)
def test_a_node_is_ready_when_pods_can_go_there(*, given: dict[str, Any], expected: bool) -> None:
    assert is_node_ready(given) is expected
