"""Commands without a cluster: help, what is refused, and how results are printed."""

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from sluice.cli.errors import CommandError, ExitCode, run_command
from sluice.cli.gateway import choose_address
from sluice.cli.main import COMMANDS, sluice
from sluice.cli.output import StepDisplay
from sluice.devcluster.faults import FaultRequest, NodeHardware
from sluice_accel.faults import FaultKind


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "state" / "sluice" / "clusters"


def test_help_lists_every_command_and_every_exit_code() -> None:
    result = CliRunner().invoke(sluice, ["--help"])
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    for name, entry in COMMANDS.items():
        assert f"{name} {entry.summary}" in text
    for code in ExitCode:
        assert f"{code.value} {code.name.lower().replace('_', ' ')}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_tells_the_truth(name: str) -> None:
    result = CliRunner().invoke(sluice, [name, "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name].summary.rstrip(".") in " ".join(result.output.split())


def test_help_imports_no_command() -> None:
    code = (
        "import sys\n"
        "from sluice.cli.errors import run_command\n"
        "from sluice.cli.main import sluice\n"
        "assert run_command(sluice, ['--help']) == 0\n"
        "slow = {'aiohttp', 'kubernetes', 'rich', 'numpy', 'pydantic', 'cryptography'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cluster", "kubeconfig"], 3, "No cluster 'sluice' is running."),
        (["cluster", "kubectl", "--name", "x", "--", "get", "pods"], 3, "No cluster 'x'"),
        (["node", "kill", "maia-0"], 3, "No cluster 'sluice' is running."),
        (["gateway", "url", "--name", "x"], 3, "No cluster 'x' is running."),
        (["cluster", "up", "--name", "Bad Name"], 2, "'Bad Name' cannot be the name"),
        (["cluster", "up", "--maia", "-1"], 2, "-1 is not in the range x>=0"),
        (["cluster", "up", "--maia", "300"], 2, "303 nodes are more than"),
        (["cluster", "up", "--maia", "x"], 2, "'x' is not a valid integer range"),
        (["cluster", "up", "--binaries", "/no/such"], 5, "there is no such directory"),
        (["cluster", "explode"], 2, "No such command 'explode'"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["node", "kill"], 2, "Missing argument 'NODE'"),
        (["node", "break", "maia-0"], 2, "Missing option '--fault'"),
        (["node", "break", "maia-0", "--fault", "rust"], 2, "'rust' is not one of 'off-bus'"),
        (["node", "break", "m", "--fault", "ecc", "--device", "x"], 2, "neither a device's number"),
        (["node", "break", "m", "--fault", "ecc", "--device", "²"], 2, "neither a device's number"),
        (["node", "break", "m", "--fault", "ecc", "--rate", "x"], 2, "'x' is not a valid float"),
        (["node", "break", "maia-0", "--fault", "ecc"], 3, "No cluster 'sluice' is running."),
        (["node", "heal", "maia-0"], 3, "No cluster 'sluice' is running."),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_a_code(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run_command(sluice, arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (
            ["break", "maia-0", "--fault", "corruption", "--device", "1", "--rate", "0.5"],
            {"fault": "corruption", "device": 1, "rate": 0.5},
            "maia-0 is broken: its device 1 has the fault 'corruption'.",
        ),
        (
            ["break", "maia-0", "--fault", "throttle", "--device", "all", "--slowdown", "4"],
            {"fault": "throttle", "device": "all", "slowdown": 4.0},
            "maia-0 is broken: all its devices have the fault 'throttle'.",
        ),
        (
            ["break", "maia-0", "--fault", "ecc", "--seed", "3"],
            {"fault": "ecc", "device": 0, "seed": 3},
            "maia-0 is broken: its device 0 has the fault 'ecc'.",
        ),
        (
            ["break", "maia-0", "--fault", "out-of-memory", "--held", "0.25", "--after", "30"],
            {"fault": "out-of-memory", "device": 0, "held": 0.25, "after": 30.0},
            "maia-0 is broken: its device 0 has the fault 'out-of-memory' in 30 s.",
        ),
        (
            ["break", "maia-0", "--fault", "hang", "--probability", "0.1", "--period", "60"],
            {"fault": "hang", "device": 0, "probability": 0.1, "period": 60.0},
            "maia-0 is broken: its device 0 has the fault 'hang', with probability 0.1 each 60 s.",
        ),
        (
            ["break", "n", "--fault=hang", "--repair-after=600", "--time-compression=100"],
            {"fault": "hang", "device": 0, "repairAfter": 600.0, "timeCompression": 100.0},
            (
                "n is broken: its device 0 has the fault 'hang', until it is repaired 6 s later"
                " (600 s, compressed 100 times)."
            ),
        ),
        (["heal", "maia-0"], {}, "maia-0 is healed: its devices have no fault."),
    ],
)
def test_devices_are_broken_as_the_command_line_says(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    options: dict[str, Any],
    said: str,
) -> None:
    asked: list[Any] = []

    class FoundCluster:
        def act_on_node(self, node: str, action: str, **options: Any) -> dict[str, Any]:
            asked.append((node, action, options))
            return {"name": node}

    monkeypatch.setattr("sluice.devcluster.cluster.find_cluster", lambda name: FoundCluster())
    result = CliRunner().invoke(sluice, ["node", *arguments])
    assert result.output.strip() == said
    assert asked == [(arguments[1], arguments[0], options)]


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            "0",
            (
                "its device 0 has the fault 'corruption' (rate 0.01)."
                " Broken before, and still: 'throttle' (slowdown 3) on device 0."
            ),
        ),
        ("1", "its device 1 has the fault 'corruption' (rate 0.01)."),
        (
            "all",
            (
                "all its devices have the fault 'corruption' (rate 0.01). Broken before, and still:"
                " 'throttle' (slowdown 3) on device 0; 'ecc' on device 2, not there now."
            ),
        ),
    ],
)
def test_what_is_broken_is_told_with_its_numbers_and_with_what_was_broken_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, said: str
) -> None:
    hardware = NodeHardware("maia-0", {"maia": "3"}, tmp_path)
    hardware.break_devices(FaultRequest(FaultKind.THROTTLE))
    hardware.break_devices(FaultRequest(FaultKind.ECC, device=2, after=60.0))

    class FoundCluster:
        def act_on_node(self, node: str, action: str, **options: Any) -> dict[str, Any]:
            hardware.break_devices(FaultRequest.parse(options))
            return {"name": node, "faults": hardware.describe()}

    monkeypatch.setattr("sluice.devcluster.cluster.find_cluster", lambda name: FoundCluster())
    command = ["node", "break", "maia-0", "--fault", "corruption", "--device", device]
    assert CliRunner().invoke(sluice, command).output == f"maia-0 is broken: {said}\n"


def test_down_is_fine_without_a_cluster(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run_command(sluice, ["cluster", "down"]) == 0
    assert run_command(sluice, ["cluster", "down", "--all"]) == 0
    assert capsys.readouterr().out == "No cluster 'sluice' is there.\nNo cluster is there.\n"
    assert not home.exists()


def test_one_cluster_that_cannot_be_stopped_keeps_no_other_running(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    for name, version in (("a", "7"), ("b", "1"), ("c", "8")):
        (home / name).mkdir(parents=True)
        (home / name / "format").write_text(f"{version}\n")
    assert run_command(sluice, ["cluster", "down", "--all"]) == ExitCode.CONFLICT
    out, err = capsys.readouterr()
    assert out == "Cluster 'b' is stopped and removed.\n"
    assert "(format 7," in err
    assert "(format 8," in err
    assert sorted(path.name for path in home.iterdir()) == ["a", "c"]


def test_lists_are_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run_command(sluice, ["cluster", "list"]) == 0
    assert capsys.readouterr().out == "No clusters.\n"
    (home / "one").mkdir(parents=True)
    (home / "one" / "format").write_text("1\n")
    (home / "two").mkdir()
    (home / "two" / "format").write_text("7\n")
    assert run_command(sluice, ["cluster", "list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["NAME", "PHASE"]
    assert [row.split()[:2] for row in rows] == [["one", "crashed"], ["two", "unreadable"]]
    assert run_command(sluice, ["cluster", "list", "--output", "json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["phase"] for entry in entries] == ["crashed", "unreadable"]
    assert "format 7" in entries[1]["error"]


def pod(name: str, *, ready: bool, phase: str = "Running", gone: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": name, **({"deletionTimestamp": "x"} if gone else {})},
        "status": {
            "phase": phase,
            "podIP": f"127.10.0.{len(name)}",
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def test_the_gateway_is_a_pod_that_is_ready_and_stays() -> None:
    pods = [pod("ccc", ready=True), pod("a", ready=True, gone=True), pod("bb", ready=False)]
    assert choose_address(pods) == "http://127.10.0.3:8080"


def test_a_gateway_with_a_certificate_is_found_by_https() -> None:
    secured = {**pod("a", ready=True), "spec": {"containers": [{"args": ["--tls-dir=/tls"]}]}}
    assert choose_address([secured]) == "https://127.10.0.1:8080"


def test_a_key_is_shown_once_and_its_entry_holds_only_its_hash(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["gateway", "key", "create", "team-a", "--requests-per-minute", "60"]
    command += ["--model", "compact", "--output", "json"]
    assert run_command(sluice, command) == 0
    made = json.loads(capsys.readouterr().out)
    digest, _, limits = made["entry"].partition(" ")
    assert digest == f"sha256:{hashlib.sha256(made['key'].encode()).hexdigest()}"
    assert json.loads(limits) == {"requestsPerMinute": 60, "models": ["compact"]}
    assert run_command(sluice, ["gateway", "key", "create", "team-a"]) == 0
    text = capsys.readouterr().out
    assert text.count("sk-") == 1
    assert "{" not in text.splitlines()[1]  # no limits, no object


def test_a_key_s_name_has_to_be_an_entry_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(sluice, ["gateway", "key", "create", "team/a"]) == ExitCode.USAGE
    assert "'team/a' cannot be a Secret's entry" in capsys.readouterr().err


def test_without_a_ready_gateway_its_pods_are_described() -> None:
    pods = [
        pod("a", ready=False),
        pod("b", ready=True, gone=True),
        pod("c", ready=False, phase="Pending"),
        {"metadata": {"name": "d"}},
    ]
    with pytest.raises(CommandError) as caught:
        choose_address(pods)
    assert caught.value.code is ExitCode.NOT_READY
    assert str(caught.value) == (
        "No gateway is ready yet: a is running but not ready, b is terminating, c is pending, "
        "d is pending."
    )
    with pytest.raises(CommandError, match="No gateway is installed"):
        choose_address([])


def test_steps_are_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with StepDisplay(Console(force_terminal=False, width=40)) as display:
        display.begin("downloading something with a name longer than the line")
        display.advance(1, 10)
    assert capsys.readouterr().out == ("downloading something with a name longer than the line …\n")


def test_steps_move_on_a_terminal() -> None:
    screen = io.StringIO()
    with StepDisplay(Console(force_terminal=True, width=100, file=screen)) as display:
        display.begin("compiling")
        display.advance(5, 10)
        display.advance(12, 10)  # more lines than were foreseen
        display.begin("linking")
    assert "linking" in screen.getvalue()


@pytest.mark.parametrize("arguments", [["explain", "chat"], ["node", "release", "maia-0"]])
def test_a_kubeconfig_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    result = CliRunner().invoke(sluice, arguments)
    assert isinstance(result.exception, CommandError)
    assert str(result.exception) == "KUBECONFIG names /nowhere/config, and there is no such file."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "/nowhere/passes"], "Cannot read /nowhere/passes: No such file or directory."),
        (["recording", "--url", "http://127.0.0.1:1", "x"], "does not give its recording"),
        (["recording", "--url", "http://127.0.0.1:port", "x"], "no address of an admin port"),
        (["recording", "--url", "http://[::1", "x"], "no address of an admin port"),
        (["recording", "--url", "nonsense", "x"], "no address of an admin port"),
        (["recording", "--url", "http://127.0.0.1:1", "--since", "2h", "x"], "does not give its"),
    ],
)
def test_recordings_that_cannot_be_had_are_a_sentence(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(sluice, arguments)
    assert isinstance(result.exception, CommandError)
    assert said in str(result.exception)
