"""A device's state survives the way to the worker, and nonsense on that way is told."""

import pytest

from sluice_accel.faults import (
    DeviceState,
    Fault,
    FaultError,
    FaultKind,
    decode_state,
    decode_states,
    encode_state,
    encode_states,
)


def test_a_state_comes_back_as_it_was_sent():
    faults = tuple(Fault(kind, 12.5, rate=0.25, slowdown=2.0, seed=7) for kind in FaultKind)
    state = DeviceState("sluice.dev/maia", 1, faults)
    assert decode_state(encode_state(state)) == state
    assert encode_state(state).count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"nonsense", b'{"resource":"x/y","number":0,"faults":[{"kind":"rust"}]}'],
)
def test_what_is_no_state_is_refused_with_a_sentence(line):
    with pytest.raises(FaultError, match="no device state"):
        decode_state(line)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(FaultError, match="rate"):
        Fault(FaultKind.CORRUPTION, 0.0, rate=rate)


@pytest.mark.parametrize("slowdown", [0.5, float("inf"), float("nan")])
def test_a_slowdown_that_is_none_is_refused(slowdown):
    with pytest.raises(FaultError, match="slowdown"):
        Fault(FaultKind.THROTTLE, 0.0, slowdown=slowdown)


def test_a_fault_is_found_by_its_kind():
    fault = Fault(FaultKind.HANG, 1.0)
    state = DeviceState("sluice.dev/maia", 0, (fault,))
    assert state.find(FaultKind.HANG) is fault
    assert state.find(FaultKind.ECC) is None


def test_a_document_of_states_comes_back_and_nonsense_is_refused():
    states = (
        DeviceState("sluice.dev/maia", 0, (Fault(FaultKind.THROTTLE, 1.5, slowdown=4.0),)),
        DeviceState("sluice.dev/maia", 1),
    )
    assert decode_states(encode_states(states)) == states
    for text in ("", "{", '[{"number": 1}]', "[7]"):
        with pytest.raises(FaultError, match="no states of devices"):
            decode_states(text)
