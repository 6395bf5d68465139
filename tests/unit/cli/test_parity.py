"""`sluice parity`: which classes, what they compute in, and what the table says."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sluice.cli import parity
from sluice.cli.errors import ExitCode, run_command
from sluice.cli.main import sluice

from .fakeapi import serve_objects

CLASSES = "/apis/sluice.dev/v1alpha1/acceleratorclasses"
SPEC = {
    "nodeSelector": {"a": "b"},
    "resourceName": "x.dev/y",
    "price": {"onDemand": "1"},
    "emulation": {"profile": "a100"},
}
REAL = {name: value for name, value in SPEC.items() if name != "emulation"}
GIVEN = [
    {"kind": "AcceleratorClass", "metadata": {"name": "old"}, "spec": SPEC},
    {"kind": "AcceleratorClass", "metadata": {"name": "real"}, "spec": REAL},
    {"kind": "AcceleratorClass", "metadata": {"name": "odd"}, "spec": {"price": {}}},
    {"kind": "InferencePool", "metadata": {"name": "pool"}},
]


def check(measure: str, value: float, bound: float, outcome: str = "pass") -> dict[str, Any]:
    return {"measure": measure, "value": value, "bound": bound, "outcome": outcome, "reason": ""}


COMPARISONS = [
    {
        "kind": "cost",
        "of": "maia-200",
        "against": "float32",
        "over": "answers",
        "agreement": 0.9696,
        "divergence": 0.0053,
        "ratio": None,
        "right": 66,
        "checks": [
            check("agreement", 0.9696, 0.97, "fail"),
            check("divergence", 0.0053, 0.01),
            check("score", 66, 65),
        ],
        "outcome": "fail",
    },
    {
        "kind": "device",
        "of": "maia-200",
        "against": "healthy fp8-block",
        "over": "everything",
        "agreement": 1.0,
        "divergence": 2e-7,
        "ratio": 1.3,
        "right": None,
        "checks": [check("agreement", 1, 0.98), check("ratio", 1.3, 1.2, "suspect")],
        "outcome": "suspect",
    },
    {
        "kind": "told",
        "of": "maia-200",
        "against": "float32",
        "over": "everything",
        "agreement": 0.9,
        "divergence": None,
        "ratio": None,
        "right": None,
        "checks": [],
        "outcome": None,
    },
]
PROMPTS = {
    "questions": 84,
    "tasks": ["add", "sort"],
    "texts": 12,
    "positions": 5403,
    "answerPositions": 1285,
    "entropy": 0.94,
    "leastEntropy": 0.5,
    "right": 68,
}


def describe(name: str, numerics: str, corruption: float = 0.0) -> dict[str, Any]:
    source = f"profile {name}"
    return {"name": name, "numerics": numerics, "corruption": corruption, "from": source}


def tell(outcome: str = "pass", *reasons: str) -> dict[str, Any]:
    """Return what the engine answers."""
    return {
        "model": {"path": "m", "digest": "d"},
        "prompts": PROMPTS,
        "classes": [describe("maia-200", "fp8-block"), describe("h100", "fp8-row", 0.001)],
        "comparisons": COMPARISONS,
        "outcome": outcome,
        "reasons": list(reasons),
        "about": "numerics are emulated",
    }


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("KUBECONFIG", raising=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for the engine; return what it was asked."""
    taken: list[Any] = []
    answer = tell()

    def take(model: Path, sides: list[Any]) -> dict[str, Any]:
        taken[:] = [model, *sides]
        for side, described in zip(sides, answer["classes"], strict=True):
            described["from"] = side.source
        return answer

    monkeypatch.setattr(parity, "compare_sides", take)
    return taken


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "classes.yaml"
    path.write_text("\n---\n".join(map(json.dumps, GIVEN)))
    return str(path)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(sluice, ["parity", *arguments])


def test_without_a_cluster_the_samples_are_compared_in_what_they_say(
    asked: list[Any],
) -> None:
    result = run("maia-200", "h100")
    assert result.exit_code == 0
    assert [one[:3] for one in asked[1:]] == [
        ("maia-200", "fp8-block", "its spec.numerics"),
        ("h100", "fp8-row", "its spec.numerics"),
    ]
    assert asked[0].name == "compact"
    assert "classes: the samples (" in result.output
    assert "numerics are emulated" in result.output


def test_what_a_class_says_comes_before_what_its_profile_stands_for(
    asked: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "said.yaml"
    said = {"kind": "AcceleratorClass", "metadata": {"name": "said"}}
    given = [GIVEN[0], said | {"spec": SPEC | {"numerics": "float32"}}]
    file.write_text("\n---\n".join(map(json.dumps, given)))
    assert run("said", "old", f"--classes={file}").exit_code == 0
    assert asked[1:] == [
        ("said", "float32", "its spec.numerics", "0"),
        ("old", "bfloat16", "profile a100", "0"),
    ]


def test_classes_of_a_live_cluster_come_first(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [GIVEN[0], {"metadata": {"name": "h100"}, "spec": SPEC}]
    kubeconfig = tmp_path / "config"
    with serve_objects({CLASSES: {"items": items}}, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        result = run("old", "h100")
    assert result.exit_code == 0
    assert [one.numerics for one in asked[1:]] == ["bfloat16", "bfloat16"]
    assert f"classes: the cluster of {kubeconfig}" in result.output


def test_a_cluster_without_sluice_is_no_reason_to_guess(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "config"
    with serve_objects({}, kubeconfig):
        code = run_command(sluice, ["parity", "a", "b", f"--kubeconfig={kubeconfig}"])
    assert code == ExitCode.USAGE
    assert "knows no AcceleratorClasses: Sluice is not installed" in capsys.readouterr().err


def test_what_is_asked_for_reaches_the_engine(asked: list[Any], file: str) -> None:
    result = run(
        "real",
        "old",
        "--numerics=real=fp4",
        "--corrupt=old=0.01",
        f"--classes={file}",
        "--model=m",
        "-o",
        "json",
    )
    assert asked == [
        Path("m"),
        ("real", "fp4", "--numerics", "0"),
        ("old", "bfloat16", "profile a100", "0.01"),
    ]
    told = json.loads(result.output)
    assert told["classesFrom"] == file
    assert [one["from"] for one in told["classes"]] == ["--numerics", "profile a100"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["maia-200", "h1000"],
            "no AcceleratorClass 'h1000' in the samples (",
        ),
        (["maia-200", "h1000"], "it has maia-200, h100."),
        (["old", "old"], "'old' is given twice: name two classes"),
        (["old", "real"], "'real' has neither spec.numerics nor spec.emulation, so that nothing"),
        (["old", "real"], "give --numerics real=NAME."),
        (["old", "pool"], "There is no AcceleratorClass 'pool'"),
        (["old", "odd"], "'odd' in {file} cannot be read: spec.nodeSelector: Field required."),
        (["old", "real", "--numerics=fp4"], "--numerics fp4: it should be CLASS=NAME"),
        (["old", "real", "--corrupt=old="], "--corrupt old=: it should be CLASS=SHARE"),
        (["old", "real", "--numerics=x=fp4"], "'x' is not compared; old and real are."),
        (["old", "real", "--json=/no/such/file"], "there is no directory /no/such."),
        (["old", "real", "--classes=/no/such/file"], "Cannot read /no/such/file: No such file"),
        (["a", "b", "--kubeconfig=/no/such/file"], "there is no such file."),
        (["old"], "Missing argument 'CLASS'"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(
    capsys: pytest.CaptureFixture[str], file: str, arguments: list[str], said: str
) -> None:
    named = "old" in arguments and not any(one.startswith("--classes") for one in arguments)
    given = [*arguments, f"--classes={file}"] if named else arguments
    assert run_command(sluice, ["parity", *given]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert said.format(file=file) in told.err
    assert "Traceback" not in told.err


def test_a_file_that_is_no_yaml_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "odd").write_text("a: [")
    assert run_command(sluice, ["parity", "a", "b", f"--classes={tmp_path / 'odd'}"]) == 2
    assert f"{tmp_path / 'odd'} is no YAML: " in capsys.readouterr().err


def test_each_number_stands_beside_its_bound_with_the_sign_that_is_true(asked: list[Any]) -> None:
    lines = [" ".join(line.split()) for line in run("maia-200", "h100").output.splitlines()]
    assert "maia-200 in fp8-block (of its spec.numerics)" in lines
    assert "h100 in fp8-row (of its spec.numerics), 0.001 of its values made wrong" in lines
    assert "on 1,285 tokens of right answers" in lines
    assert any("84 questions (add, sort; float32 answers 68 rightly) and 12" in x for x in lines)
    cost = "maia-200 against float32 96.96% < 97% FAIL 0.0053 ≤ 0.01 66 of 84 ≥ 65 fail"
    same = "maia-200 against healthy fp8-block 100.00% ≥ 98% 2e-07 1.30 ≥ 1.2 SUSPECT suspect"
    assert cost in lines
    assert same in lines
    assert "maia-200 against float32 90.00% infinite no bound" in lines


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        ("suspect", 0, ""),
        ("fail", 10, "maia-200 and h100 are no match; bounds broken: 1."),
        ("blind", 10, "The gate is blind: nobody saw anything."),
    ],
)
def test_scripts_tell_by_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    outcome: str,
    code: int,
    said: str,
) -> None:
    answer = tell(outcome, "nobody saw anything")
    monkeypatch.setattr(parity, "compare_sides", lambda model, sides: answer)
    file = tmp_path / "numbers.json"
    assert run_command(sluice, ["parity", "maia-200", "h100", f"--json={file}"]) == code
    told = capsys.readouterr()
    assert told.out.endswith(f"{outcome}\n  nobody saw anything\n")
    assert said in told.err
    assert json.loads(file.read_text())["outcome"] == outcome
