"""A device's state survives the way to the worker, and nonsense on that way is told."""

import json
from dataclasses import asdict

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
    schedule = {"until": 99.5, "probability": 0.5, "period": 3.0}
    faults = tuple(
        Fault(kind, 12.5, rate=0.25, slowdown=2.0, seed=7, held=0.75, **schedule)
        for kind in FaultKind
    )
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


@pytest.mark.parametrize("slowdown", [0.5, 1e10, float("inf"), float("nan")])
def test_a_slowdown_that_is_none_is_refused(slowdown):
    with pytest.raises(FaultError, match="slowdown"):
        Fault(FaultKind.THROTTLE, 0.0, slowdown=slowdown)


@pytest.mark.parametrize("since", [float("inf"), float("nan"), -1.0, 1e300])
def test_a_time_that_is_none_is_refused(since):
    with pytest.raises(FaultError, match="since"):
        Fault(FaultKind.THROTTLE, since)


def test_a_seed_that_is_none_is_refused():
    with pytest.raises(FaultError, match="seed -1"):
        Fault(FaultKind.CORRUPTION, 0.0, seed=-1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("number", "1e999"), ("number", "NaN"), ("number", "-1"), ("faults", "[" * 5000)],
)
def test_numbers_and_depths_that_python_cannot_take_are_refused_too(field, value):
    document = '{"resource":"x/y","number":0,"faults":[]}'
    present = {"number": '"number":0', "faults": '"faults":[]'}[field]
    line = document.replace(present, f'"{field}":{value}')
    with pytest.raises(FaultError, match="no device state"):
        decode_state(line.encode())
    with pytest.raises(FaultError, match="no states of devices"):
        decode_states(f"[{line}]")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("seed", "1e999"), ("since", "1e999"), ("since", "9" * 400), ("rate", "9" * 400)),
        *(("until", "1e999"), ("period", "1e999"), ("held", "NaN"), ("probability", "null")),
    ],
)
def test_a_fault_with_a_number_beyond_all_bounds_is_refused(name, number):
    fault = asdict(Fault(FaultKind.HANG, 1.0))
    text = json.dumps([{"resource": "x/y", "number": 0, "faults": [{**fault, name: "?"}]}])
    with pytest.raises(FaultError, match="no states of devices"):
        decode_states(text.replace('"?"', number))


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
