"""Options out of their range end the worker with a sentence, before it loads anything."""

import pytest
from click.testing import CliRunner

from sluice_worker.main import main


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
        "--startup-seconds=-1",
        "--startup-seconds=nan",
        "--startup-seconds=inf",
        "--emulate-profile=abacus",
        "--emulate-model=llama-3.3-70b",
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path, option):
    least = [f"--model-path={tmp_path / 'nowhere'}", "--served-model-name=m"]
    ended = CliRunner().invoke(main, [*least, option])
    assert ended.exit_code == 2
    assert option.partition("=")[0] in ended.stderr.splitlines()[-1]
