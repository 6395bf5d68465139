"""What `sluice gateway key create` prints is what a gateway takes."""

import json

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
