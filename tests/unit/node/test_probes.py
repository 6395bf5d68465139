from typing import Any

import pytest

from sluice_node.probes import ProbeError, ProbeState, ProbeTarget, ProbeTiming, resolve_target

CONTAINER = {"name": "worker", "ports": [{"name": "http", "containerPort": 8000}]}


def make_state(successes: int = 1, failures: int = 3) -> ProbeState:
    timing = ProbeTiming.from_spec({"successThreshold": successes, "failureThreshold": failures})
    return ProbeState(timing, passing=None)


def test_it_takes_the_threshold_in_a_row_to_fail():
    state = make_state(failures=3)
    assert state.observe(success=True)
    for success in (False, False, True, False, False):
        state.observe(success=success)
    assert state.passing is True
    assert state.observe(success=False)
    assert state.passing is False


def test_it_takes_the_threshold_in_a_row_to_pass():
    state = make_state(successes=2)
    assert not state.observe(success=True)
    assert state.passing is None
    assert state.observe(success=True)
    assert state.passing is True


def test_defaults_are_those_of_the_api():
    assert ProbeTiming.from_spec({}) == ProbeTiming(0, 10, 1, 1, 3)


@pytest.mark.parametrize(
    ("probe", "target"),
    [
        (
            {"httpGet": {"path": "/readyz", "port": "http"}},
            ProbeTarget("127.9.1.2", 8000, "http", "/readyz"),
        ),
        (
            {"httpGet": {"port": 81, "scheme": "HTTPS", "host": "127.9.9.9"}},
            ProbeTarget("127.9.9.9", 81, "https", "/"),
        ),
        (
            {"httpGet": {"path": "x", "port": 1, "httpHeaders": [{"name": "a", "value": "b"}]}},
            ProbeTarget("127.9.1.2", 1, "http", "/x", (("a", "b"),)),
        ),
        ({"tcpSocket": {"port": "http"}}, ProbeTarget("127.9.1.2", 8000)),
        ({"tcpSocket": {"port": "99"}}, ProbeTarget("127.9.1.2", 99)),
    ],
)
def test_targets_resolve(probe: dict[str, Any], target: ProbeTarget):
    assert resolve_target(probe, CONTAINER, "127.9.1.2") == target


@pytest.mark.parametrize(
    ("probe", "sentence"),
    [
        ({"httpGet": {"port": "admin"}}, "names the port 'admin', which is none of its ports"),
        ({"exec": {"command": ["true"]}}, "neither httpGet nor tcpSocket"),
    ],
)
def test_a_probe_that_cannot_run_is_said(probe: dict[str, Any], sentence: str):
    with pytest.raises(ProbeError, match=sentence):
        resolve_target(probe, CONTAINER, "127.9.1.2")
