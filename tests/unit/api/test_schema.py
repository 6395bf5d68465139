"""The CRDs are structural, bounded, explained, and as fresh as the types."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sluice.api.crds import build_crds
from sluice.api.generate import main, render_files
from sluice.api.rules import RULES

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for crd in build_crds().values()
}


def walk(schema, path):
    """Yield every schema in a schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from walk(schema[part], f"{path}[]")


EVERY = [
    pytest.param(path, schema, id=path)
    for kind, root in SCHEMAS.items()
    for path, schema in walk(root, kind)
]


@pytest.mark.parametrize(("path", "schema"), EVERY)
def test_a_structural_schema_accepts_every_part(path, schema):
    refused = {"$ref", "$defs", "title", "const", "exclusiveMinimum", "exclusiveMaximum"}
    assert not refused & set(schema)
    either = schema.get("x-kubernetes-int-or-string", False)
    assert either or "type" in schema
    assert either or "anyOf" not in schema


def is_item(path):
    return path.endswith("[]")


@pytest.mark.parametrize(
    ("path", "schema"), [case for case in EVERY if not case.id.endswith(("[]", ".metadata"))]
)
def test_every_field_is_described_in_a_sentence(path, schema):
    assert schema.get("description", "").strip().endswith((".", "?", "…"))


@pytest.mark.parametrize(
    ("path", "schema"), [case for case in EVERY if ".spec" in case.id and ".status" not in case.id]
)
def test_everything_a_user_writes_is_bounded(path, schema):
    kind = schema.get("type")
    if kind == "string":
        assert "maxLength" in schema or "enum" in schema
    elif kind == "array":
        assert "maxItems" in schema
    elif kind == "object" and "additionalProperties" in schema:
        assert "maxProperties" in schema


def test_every_rule_says_what_must_be():
    rules = [found for case in EVERY for found in case.values[1].get(RULES, ())]
    assert len(rules) > 20
    for found in rules:
        assert " must " in f" {found['message']} "
        assert "messageExpression" not in found  # beyond the API server's cost budget


def test_an_object_left_out_gets_the_defaults_inside_it():
    spec = SCHEMAS["AcceleratorClass"]["properties"]["spec"]["properties"]
    assert spec["health"]["default"] == {
        "nodeConditions": ["AcceleratorHealthy"],
        "knownAnswers": {"period": "10s"},
        "liveness": {"period": "1s", "timeout": "500ms", "failures": 3},
        "returnAfter": "60s",
        "maxUnhealthy": "50%",
        "latchAfterFlaps": 3,
    }


def test_an_object_that_may_be_left_out_stays_out():
    spec = SCHEMAS["InferencePool"]["properties"]["spec"]
    parity = spec["properties"]["parity"]
    assert all("default" in child for child in parity["properties"].values())
    assert "default" not in parity


def test_a_list_left_out_gets_its_default_in_the_api_s_own_form():
    spec = SCHEMAS["InferencePool"]["properties"]["spec"]["properties"]
    ramp = spec["shift"]["properties"]["ramp"]
    assert ramp["default"] == {"steps": ["5%", "10%", "30%", "60%", "100%"], "dwell": "60s"}


def test_the_committed_files_are_fresh():
    assert main(["--check", "--root", str(ROOT)]) == 0


def test_a_file_that_differs_or_lacks_is_named(tmp_path, capsys):
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0
    (tmp_path / "crds/inferencepools.yaml").write_text("edited: by hand\n")
    (tmp_path / "docs/api.md").unlink()
    assert main(["--check", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "crds/inferencepools.yaml" in said
    assert "docs/api.md" in said
    assert "acceleratorclasses" not in said
    assert "make generate" in said
    assert (tmp_path / "crds/inferencepools.yaml").read_text() == "edited: by hand\n"
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0


def test_the_command_line_is_the_documented_one():
    command = [sys.executable, "-m", "sluice.api.generate", "--check"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=30)


def test_generated_yaml_needs_no_anchors():
    for name, text in render_files().items():
        if name.endswith(".yaml"):
            assert "&id" not in text
            assert yaml.safe_load(text)


def test_the_reference_lists_every_field():
    text = render_files()["docs/api.md"]
    for case in EVERY:
        path = case.id.partition(".")[2]
        if path.startswith(("spec.", "status.")) and not is_item(path):
            assert f"`{path}`" in text
