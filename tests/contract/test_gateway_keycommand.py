"""What `sluice gateway key create` prints is what a gateway takes."""

import json

import pytest

from sluice.cli.errors import run_command
from sluice.cli.main import sluice as command
from sluice_gateway.apikeys import KeyLimits, parse_entry


def test_a_made_entry_is_one(capsys):
    limits = ["--concurrency", "2", "--requests-per-minute", "60", "--tokens-per-minute", "9000"]
    names = ["--model", "compact", "--pool", "default/chat", "--output", "json"]
    assert run_command(command, ["gateway", "key", "create", "team", *limits, *names]) == 0
    made = json.loads(capsys.readouterr().out)
    found = parse_entry(made["name"], made["entry"])
    assert found.limits == KeyLimits(
        2, 60, 9000, frozenset({"compact"}), frozenset({"default/chat"})
    )


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (["--pool", "chat"], "'chat' names no pool; write NAMESPACE/NAME"),
        (["--pool", "a/b/c"], "'a/b/c' names no pool"),
        (["--model", ""], "--model is empty"),
        (["--tokens-per-minute", str(10**13)], "is not in the range"),
    ],
)
def test_a_limit_that_no_gateway_takes_makes_no_key(capsys, limit, said):
    assert run_command(command, ["gateway", "key", "create", "team", *limit]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "sk-" not in told.out
