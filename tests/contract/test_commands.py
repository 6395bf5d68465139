"""Commands that stand on processes of their own: the engine for a model, a fresh planner."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.decide.world import World

from sluice.cli.errors import ExitCode, run_command
from sluice.cli.main import sluice
from sluice.control.recording import Recorder
from sluice.devcluster.shape import ClusterShape
from sluice.devcluster.speed import SpeedProbe, find_emulation, list_numerics

COMPACT = Path(__file__).parents[2] / "workers/models/compact"


def test_passes_are_replayed_bit_for_bit_in_a_fresh_process(tmp_path: Path) -> None:
    world, recorder = World(), Recorder("operator-1")
    world.rate["chat"] = 4.0
    for number in range(60):
        world.dead = {"maia-0"} if 30 <= number < 40 else set()
        world.step()
        recorder.note(world.seen, world.before, world.plan)
    lines = list(recorder.lines())
    file = tmp_path / "passes.jsonl"
    file.write_bytes(b"".join(lines))
    command = [sys.executable, "-c", "from sluice.cli.main import main; main()", "replay"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(lines)} passes: every plan" in done.stdout
    file.write_bytes(lines[0][40:])
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "line 1 is no record" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_is_recorded_by_the_engine_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(COMPACT / name)
    assert run_command(sluice, ["model", "record", str(tmp_path), "--count=1", "-o", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told == json.loads((tmp_path / "probes.json").read_text())
    assert len(told["answers"]) == 1


def test_a_machine_s_speed_is_measured_by_the_engine_itself() -> None:
    models = Path(__file__).parents[2] / "workers/models"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        # As beside a cluster that starts: what is not ready in time is given up.
        with SpeedProbe(models, list_numerics(ClusterShape())) as probe:
            time.sleep(2)
            measured = probe.finish()
        if measured is not None:
            break
    assert measured is not None
    assert set(measured) == {"fp8-block", "fp8-row"}
    found = find_emulation(measured, ClusterShape())
    assert found is not None
    assert found.rate > 0
    assert "This machine can emulate" in found.describe()


def test_a_directory_without_a_model_is_not_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(sluice, ["model", "record", str(tmp_path)]) == ExitCode.FAILED
    told = f"Error: Nothing was recorded: the checkpoint {tmp_path} lacks config.json.\n"
    assert capfd.readouterr().err == told
    assert not list(tmp_path.iterdir())


def test_clean_fp4_and_mx6_have_parity_and_a_wrong_value_in_a_thousand_has_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the compact model and its whole prompt set; then on a sixth of it."""
    asked = ["parity", "maia-200", "h100", "--numerics=maia-200=fp4", "--numerics=h100=mx6"]
    file = tmp_path / "numbers.json"
    assert run_command(sluice, [*asked, f"--json={file}"]) == 0, capfd.readouterr().out
    told = capfd.readouterr()
    assert told.out.endswith("\npass\n")
    assert "maia-200 (fp4), summed in another order …" in told.err
    found = json.loads(file.read_text())
    assert found["outcome"] == "pass"
    assert found["prompts"]["entropy"] >= 0.5
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(COMPACT / name)
    questions = (COMPACT / "heldout.jsonl").read_text().splitlines()[::20]
    (tmp_path / "heldout.jsonl").write_text("\n".join(questions))
    wrong = [f"--model={tmp_path}", "--corrupt=maia-200=0.001"]
    assert run_command(sluice, [*asked, *wrong]) == ExitCode.NO_PARITY
    told = capfd.readouterr()
    assert "maia-200 in fp4 (of --numerics), 0.001 of its values made wrong" in told.out
    assert "\n  maia-200 against healthy fp4, everything: the " in told.out
    assert told.err.splitlines()[-1].startswith("Error: maia-200 and h100 are no match; bounds")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["--model=/no/such"],
            1,
            "Nothing was compared: there is no checkpoint directory /no/such.",
        ),
        (["--numerics=h100=fp5"], 2, "Nothing was compared: 'fp5' are no numerics; there are fl"),
        (["--corrupt=h100=2"], 2, "Nothing was compared: '2' is no share of values; it should be"),
    ],
)
def test_what_the_engine_cannot_compare_is_a_sentence(
    capfd: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    assert run_command(sluice, ["parity", "maia-200", "h100", *options]) == code
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"Error: {said}")
    assert len(told.err.splitlines()) == 1
