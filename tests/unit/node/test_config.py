from pathlib import Path

import pytest
import yaml

from sluice_node.config import ConfigError, load_config

GOOD = {
    "name": "maia-0",
    "kubeconfig": "/state/node.kubeconfig",
    "stateDir": "/state/nodes/maia-0",
    "address": "127.9.1.1",
    "podRange": "127.9.1.0/24",
    "stableRange": "127.9.0.0/24",
    "kubelet": {"port": 10250, "certFile": "/c", "keyFile": "/k", "clientCAFile": "/ca"},
    "apiServer": {"host": "127.0.0.1", "port": 6443, "caFile": "/ca"},
    "labels": {"a": "b"},
    "taints": [{"key": "sluice.dev/maia", "value": "present", "effect": "NoSchedule"}],
    "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110", "sluice.dev/maia": "2"},
    "images": {"w:1": {"path": ["/bin"], "rootfs": {"/models": "/m"}}},
}


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "node.yaml"
    value = {key: entry for key, entry in {**GOOD, **changes}.items() if entry is not None}
    path.write_text(yaml.safe_dump(value))
    return path


def test_a_complete_configuration_is_read(tmp_path: Path):
    config = load_config(write(tmp_path))
    assert config.kubelet.client_ca_file == Path("/ca")
    assert config.images["w:1"].rootfs == {"/models": Path("/m")}
    assert config.taints[0].effect == "NoSchedule"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": None}, "name is missing."),
        ({"colour": "red"}, "colour is not a field of a node's configuration."),
        ({"address": "maia"}, "address: "),
        ({"capacity": {"cpu": "8", "memory": "1Gi"}}, "capacity lacks 'pods'"),
        ({"capacity": {"cpu": "8", "memory": "lots", "pods": "1"}}, "'lots' is not a quantity"),
        ({"taints": [{"key": "a", "effect": "Sometimes"}]}, "taints.0.effect: "),
    ],
)
def test_a_fault_is_said_in_a_sentence(tmp_path: Path, changes: dict[str, object], sentence: str):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, **changes))
    assert sentence in str(caught.value)
    assert "node.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Cannot read the configuration .*none\.yaml: No such"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["a: [", "- a list", "\t"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "node.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"node\.yaml is not"):
        load_config(path)
