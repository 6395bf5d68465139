"""Options out of their range end the worker with a sentence, before it loads anything."""

import pytest
from click.testing import CliRunner

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_worker.errors import EmulationError
from sluice_worker.main import main
from sluice_worker.pacing import EmulatedDevice

from .checkpoints import write_checkpoint


@pytest.mark.parametrize(
    "option",
    [
        "--port=0",
        "--port=-1",
        "--max-num-seqs=0",
        "--max-num-batched-tokens=0",
        "--max-waiting=x",
        "--emulate-devices=0",
        "--token-scale=0.5",
        "--emulate-jitter=-0.1",
        "--emulate-jitter=nan",
        "--emulate-seed=x",
        "--startup-seconds=-1",
        "--startup-seconds=nan",
        "--startup-seconds=inf",
        "--emulate-profile=abacus",
        "--profile=h100",  # which needs --nominal
        "--max-model-len=1",
        "--seed=-1",
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path, option):
    least = [f"--model-path={tmp_path / 'nowhere'}", "--served-model-name=m"]
    ended = CliRunner().invoke(main, [*least, option])
    assert ended.exit_code == 2
    assert option.partition("=")[0] in ended.stderr.splitlines()[-1]


def test_a_nominal_model_that_the_devices_could_not_hold_is_refused(tmp_path):
    ended = CliRunner().invoke(
        main,
        [
            f"--model-path={write_checkpoint(tmp_path, max_position_embeddings=512)}",
            "--served-model-name=m",
            "--emulate-profile=h100",
            "--emulate-model=llama-3.3-70b",
            "--token-scale=96",
            "--host=a..b",  # so that it ends in any case
        ],
    )
    assert ended.exit_code == 2
    told = "8 sequences of 512 tokens and of known answers of 128, 96 nominal ones each"
    assert f"{told}, need 139 GB" in ended.stderr
    assert "1 h100 can fill 72 GB, 0 nominal tokens beside the weights" in ended.stderr


@pytest.mark.parametrize(("profile", "devices"), [("maia-200", 1), ("h100", 2)])
def test_what_the_samples_ask_for_fits(profile, devices):
    device = EmulatedDevice(PROFILES[profile], NOMINAL_MODELS["llama-3.3-70b"], devices, 96)
    device.check_memory(sequences=8, context=512, spare=128)


def test_what_fits_is_bounded_by_what_the_memory_can_fill():
    device = EmulatedDevice(PROFILES["maia-200"], NOMINAL_MODELS["llama-3.3-70b"], 1, 96)
    device.check_memory(sequences=15, context=512, spare=128)
    with pytest.raises(EmulationError, match="756949 nominal tokens beside the weights"):
        device.check_memory(sequences=16, context=512, spare=128)
