"""Decisions are written at once, measured numbers now and then."""

from sluice.act.status import MEASURED_EVERY, StatusWriter, strip_measured
from sluice.model.keys import PoolKey

KEY = PoolKey("default", "chat")


class FakeWriter:
    def __init__(self):
        self.applied = []

    async def apply(self, resource, manifest, subresource=""):
        self.applied.append((manifest["status"], subresource))


def test_what_was_compared_is_a_measured_number_and_its_verdict_is_not():
    pair = {"acceleratorClass": "a", "reference": "b", "verdict": "Agrees", "agreement": "99%"}
    pair |= {"kl": "0.001", "audits": 7}
    stripped = strip_measured({"parity": [pair]})
    assert stripped == {
        "parity": [{"acceleratorClass": "a", "reference": "b", "verdict": "Agrees"}]
    }


def status(share="80%", attainment="99%", capacity="1.2"):
    return {
        "attainment": attainment,
        "variants": [{"acceleratorClass": "maia", "share": share, "capacity": capacity}],
    }


async def test_a_measured_number_waits_and_a_decision_does_not():
    now = [1000.0]
    writer = FakeWriter()
    statuses = StatusWriter(writer, lambda: now[0])
    assert statuses.is_due("u", status(), {})
    await statuses.write(KEY, "u", status())
    assert writer.applied == [(status(), "status")]
    assert not statuses.is_due("u", status(), {})
    assert not statuses.is_due("u", status(attainment="42%", capacity="9"), {})
    assert statuses.is_due("u", status(share="20%"), {})
    now[0] += MEASURED_EVERY
    assert statuses.is_due("u", status(attainment="42%"), {})
    assert not statuses.is_due("u", status(), {})


async def test_after_a_restart_the_observed_document_counts_as_written():
    statuses = StatusWriter(FakeWriter(), lambda: 0.0)
    assert not statuses.is_due("u", status(), status())
