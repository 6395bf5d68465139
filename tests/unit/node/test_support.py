from typing import Any

import pytest

from sluice_node.support import find_unsupported


def make_spec(container: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": "w:1", **(container or {})}], **more}


@pytest.mark.parametrize(
    "spec",
    [
        make_spec(),
        make_spec(volumes=[{"name": "v", "configMap": {"name": "m"}}, {"name": "e"}]),
        make_spec(volumes=[{"name": "s", "secret": {"secretName": "s"}}]),
        make_spec(volumes=[{"name": "d", "emptyDir": {"sizeLimit": "300Mi"}}]),
        make_spec({"livenessProbe": {"tcpSocket": {"port": 1}}}),
        make_spec(volumes=[{"name": "t", "projected": {"sources": [{"serviceAccountToken": {}}]}}]),
    ],
)
def test_what_manifests_use_is_supported(spec: dict[str, Any]):
    assert find_unsupported(spec) is None


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (make_spec(initContainers=[{}]), "no init containers"),
        (make_spec(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "'v' is of kind hostPath"),
        (
            make_spec(volumes=[{"name": "v", "projected": {"sources": [{"secret": {}}]}}]),
            "'v' projects secret",
        ),
        (make_spec({"lifecycle": {"preStop": {}}}), "'c' has lifecycle hooks"),
        (make_spec({"volumeMounts": [{"name": "v", "subPath": "x"}]}), "mounts a subPath"),
        (
            make_spec({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {}}}]}),
            "Variable A of container 'c' comes from secretKeyRef",
        ),
        (make_spec({"envFrom": [{"secretRef": {"name": "s"}}]}), "from a Secret"),
        (make_spec({"readinessProbe": {"exec": {}}}), "The readinessProbe of container 'c'"),
    ],
)
def test_what_cannot_be_done_is_said(spec: dict[str, Any], sentence: str):
    assert sentence in str(find_unsupported(spec))
