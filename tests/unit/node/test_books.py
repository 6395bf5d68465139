"""Addresses, devices, quantities, back-off: what is counted."""

from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network

import pytest

from sluice_node.addresses import REST_SECONDS, AddressPool, NoAddressError
from sluice_node.backoff import RestartBackoff, format_delay
from sluice_node.devices import AdmissionError, CapacityLedger
from sluice_node.quantities import QuantityError, parse_quantity

STABLE = IPv4Network("127.9.0.0/24")


def make_pool(pods: str = "127.9.1.0/29", resting: dict[str, float] | None = None) -> AddressPool:
    return AddressPool(IPv4Network(pods), STABLE, IPv4Address("127.9.1.1"), resting)


def test_addresses_are_given_in_turn_and_kept():
    pool = make_pool()
    assert pool.assign("a", 0) == "127.9.1.2"
    assert pool.assign("b", 0) == "127.9.1.3"
    assert pool.assign("a", 1) == "127.9.1.2"
    pool.release("a", 1)
    assert pool.assign("c", 100) == "127.9.1.4"


def test_an_address_rests_before_it_is_given_again():
    pool = make_pool("127.9.1.0/30")  # one address beside the node's
    assert pool.assign("a", 0) == "127.9.1.2"
    pool.release("a", 10)
    with pytest.raises(NoAddressError, match="1 rest for 60 s"):
        pool.assign("b", 10 + REST_SECONDS - 0.1)
    assert pool.assign("b", 10 + REST_SECONDS) == "127.9.1.2"


def test_addresses_rest_across_a_killed_agent():
    pool = make_pool("127.9.1.0/30")
    pool.assign("a", 0)
    saved = {address: min(until, 70.0) for address, until in pool.export_resting().items()}
    after = make_pool("127.9.1.0/30", saved)
    with pytest.raises(NoAddressError):
        after.assign("b", 69)
    assert after.hold("a", "127.9.1.2", 69)  # its own pod gets it back at once


def test_an_address_held_by_another_or_foreign_is_not_kept():
    pool = make_pool()
    pool.assign("a", 0)
    assert not pool.hold("b", "127.9.1.2", 0)
    assert not pool.hold("b", "127.9.7.2", 0)


def test_a_stable_address_is_given_at_once_again():
    pool = make_pool()
    assert pool.assign("gateway", 0, "10") == "127.9.0.10"
    with pytest.raises(NoAddressError, match="in use by another pod"):
        pool.assign("gateway-2", 0, "10")
    pool.release("gateway", 1)
    assert pool.assign("gateway-2", 1, "10") == "127.9.0.10"


@pytest.mark.parametrize("number", ["0", "255", "-1", "ten", "", "١"])
def test_a_wrong_stable_number_is_refused(number: str):
    with pytest.raises(NoAddressError, match="number from 1 to 254"):
        make_pool().assign("gateway", 0, number)


CAPACITY = {"cpu": "2", "memory": "1Gi", "pods": "3", "sluice.dev/maia": "2"}


def make_spec(count: int = 0, **requests: str) -> dict[str, object]:
    limits = {"sluice.dev/maia": str(count)} if count else {}
    return {"containers": [{"name": "c", "resources": {"limits": limits, "requests": requests}}]}


def test_devices_are_numbered_and_come_back():
    ledger = CapacityLedger(CAPACITY)
    ledger.admit("a", make_spec(1))
    ledger.admit("b", make_spec(1))
    assert ledger.describe_devices("a", "c") == "sluice.dev/maia=0"
    assert ledger.describe_devices("b", "c") == "sluice.dev/maia=1"
    with pytest.raises(AdmissionError, match=r"OutOfsluice.dev/maia.*Requested: 2, Available: 0"):
        ledger.admit("d", make_spec(2))
    ledger.release("a")
    ledger.admit("a2", make_spec(1))
    assert ledger.describe_devices("a2", "c") == "sluice.dev/maia=0"


def test_two_containers_of_a_pod_get_different_devices():
    ledger = CapacityLedger(CAPACITY)
    limits = {"limits": {"sluice.dev/maia": "1"}}
    ledger.admit("a", {"containers": [{"name": n, "resources": limits} for n in ("one", "two")]})
    assert ledger.describe_devices("a", "one") != ledger.describe_devices("a", "two")


@pytest.mark.parametrize(
    ("requests", "reason"), [({"cpu": "1500m"}, "OutOfcpu"), ({"memory": "600Mi"}, "OutOfmemory")]
)
def test_requests_beyond_the_node_are_refused(requests: dict[str, str], reason: str):
    ledger = CapacityLedger(CAPACITY)
    ledger.admit("a", make_spec(**requests))
    ledger.admit("a", make_spec(**requests))  # the same pod is booked once
    with pytest.raises(AdmissionError) as caught:
        ledger.admit("b", make_spec(**requests))
    assert caught.value.reason == reason


def test_the_number_of_pods_is_limited():
    ledger = CapacityLedger(CAPACITY)
    for uid in "abc":
        ledger.admit(uid, make_spec())
    with pytest.raises(AdmissionError) as caught:
        ledger.admit("d", make_spec())
    assert caught.value.reason == "OutOfpods"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", Decimal(2)),
        ("250m", Decimal("0.25")),
        ("1.5Gi", Decimal(1610612736)),
        ("1e3", Decimal(1000)),
        ("4k", Decimal(4000)),
        ("1E", Decimal(10) ** 18),
    ],
)
def test_quantities_are_exact(text: str, value: Decimal):
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "much", "1 Gi", "1KiB", "--1"])
def test_what_is_no_quantity_is_said(text: str):
    with pytest.raises(QuantityError, match="is not a quantity"):
        parse_quantity(text)


def test_restarts_wait_longer_and_longer():
    backoff = RestartBackoff()
    delays = []
    for _ in range(8):
        delays.append(backoff.delay)
        backoff.note_start()
        backoff.note_end(1)
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_long_run_is_forgiven():
    backoff = RestartBackoff()
    backoff.note_start()
    backoff.note_end(599)
    assert backoff.delay == 10
    backoff.note_end(600)
    assert backoff.delay == 0


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (160, "2m40s"), (300, "5m0s")])
def test_delays_read_as_in_kubernetes(seconds: float, text: str):
    assert format_delay(seconds) == text
