"""Expansion, paths and environment: what becomes of the words of a manifest."""

from pathlib import Path
from typing import Any

import pytest

from sluice_node.environment import (
    ContainerConfigError,
    PodFacts,
    build_environment,
    complete_environment,
    list_config_maps,
    resolve_field,
)
from sluice_node.expansion import expand
from sluice_node.paths import PathMap

FACTS = PodFacts("127.9.1.2", "127.9.1.1")
POD: dict[str, Any] = {
    "metadata": {
        "name": "chat-1",
        "namespace": "default",
        "uid": "u-1",
        "labels": {"sluice.dev/pool": "chat"},
    },
    "spec": {"nodeName": "maia-0", "serviceAccountName": "chat", "containers": []},
}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("--host=$(POD_IP)", "--host=127.9.1.2"),
        ("$(POD_IP):$(PORT)", "127.9.1.2:8000"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(POD_IP)", "$(POD_IP)"),
        ("$$$(PORT)", "$8000"),
        ("$PORT", "$PORT"),
        ("$(PORT", "$(PORT"),
        ("a$", "a$"),
    ],
)
def test_references_expand_as_in_kubernetes(text: str, expanded: str):
    assert expand(text, {"POD_IP": "127.9.1.2", "PORT": "8000"}) == expanded


@pytest.mark.parametrize(
    ("argument", "rewritten"),
    [
        ("/etc/sluice/settings.yaml", "/v/settings/settings.yaml"),
        ("--settings=/etc/sluice/settings.yaml", "--settings=/v/settings/settings.yaml"),
        ("/etc/sluice", "/v/settings"),
        ("/etc/sluice-other/x", "/etc/sluice-other/x"),
        ("/etc/sluice/deep/x", "/v/deep/x"),
        ("/models/compact", "/real/models/compact"),
        ("x=/models/compact", "x=/models/compact"),
        ("see /models", "see /models"),
    ],
)
def test_container_paths_become_real_ones(argument: str, rewritten: str):
    paths = PathMap(
        {
            "/etc/sluice/": Path("/v/settings"),
            "/etc/sluice/deep": Path("/v/deep"),
            "/models": Path("/real/models"),
        }
    )
    assert paths.rewrite_argument(argument) == rewritten


def test_environment_is_built_in_order():
    container = {
        "name": "worker",
        "envFrom": [{"configMapRef": {"name": "base"}, "prefix": "B_"}],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "URL", "value": "http://$(POD_IP):$(LATER)/$(B_x)"},
            {"name": "LATER", "value": "1"},
            {"name": "B_y", "value": "own"},
            {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "more", "key": "k"}}},
            {
                "name": "NONE",
                "valueFrom": {"configMapKeyRef": {"name": "more", "key": "z", "optional": True}},
            },
        ],
    }
    assert list_config_maps(container) == {"base", "more"}
    maps = {"base": {"x": "1", "y": "2"}, "more": {"k": "v"}}
    assert build_environment(POD, container, FACTS, maps) == {
        "B_x": "1",
        "B_y": "own",
        "POD_IP": "127.9.1.2",
        "URL": "http://127.9.1.2:$(LATER)/1",
        "LATER": "1",
        "K": "v",
    }


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        ({"envFrom": [{"configMapRef": {"name": "no"}}]}, 'configmap "no" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}]},
            'configmap "no" not found',
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]},
            "couldn't find key k in ConfigMap m",
        ),
    ],
)
def test_a_missing_config_map_is_named(container: dict[str, Any], sentence: str):
    with pytest.raises(ContainerConfigError, match=sentence):
        build_environment(POD, {"name": "c", **container}, FACTS, {"no": None, "m": {}})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.uid", "u-1"),
        ("metadata.labels['sluice.dev/pool']", "chat"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "maia-0"),
        ("status.hostIP", "127.9.1.1"),
    ],
)
def test_fields_of_the_pod_resolve(path: str, value: str):
    assert resolve_field(POD, path, FACTS) == value


def test_an_unknown_field_is_named():
    with pytest.raises(ContainerConfigError, match=r"metadata\.colour"):
        resolve_field(POD, "metadata.colour", FACTS)


def test_nothing_of_the_agent_is_passed_on_but_zone_and_language():
    environment = complete_environment(
        {"A": "declared", "PATH": "/own"},
        base={"A": "base", "HOME": "/h"},
        image_path="/image/bin",
        agent={"TZ": "UTC", "SECRET": "s", "PYTHONPATH": "/x"},
    )
    assert environment == {"TZ": "UTC", "A": "declared", "PATH": "/own", "HOME": "/h"}
