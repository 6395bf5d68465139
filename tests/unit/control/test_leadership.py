"""Never two writers: leadership by a Lease, on the monotonic clock."""

import pytest

from sluice.act.writer import NotLeaderError, Writer
from sluice.control.leadership import Leadership
from sluice.control.settings import LeaseSettings
from sluice.kube.errors import ConflictError, NotFoundError, UnreachableError
from sluice.kube.paths import PODS


class FakeApi:
    """One Lease with optimistic locking."""

    def __init__(self):
        self.lease, self.version, self.away = None, 0, False

    def _check(self):
        if self.away:
            raise UnreachableError(0, "Unreachable", "nobody answers")

    async def get(self, resource, namespace, name, within=None):
        self.patience = within
        self._check()
        if self.lease is None:
            raise NotFoundError(404, "NotFound", name)
        return {"metadata": dict(self.lease["metadata"]), "spec": dict(self.lease["spec"])}

    async def create(self, resource, manifest, within=None):
        self._check()
        self._store(manifest)

    async def replace(self, resource, manifest, within=None):
        self._check()
        if manifest["metadata"].get("resourceVersion") != str(self.version):
            raise ConflictError(409, "Conflict", "changed")
        self._store(manifest)

    def _store(self, manifest):
        self.version += 1
        meta = {"name": "sluice-operator", "resourceVersion": str(self.version)}
        self.lease = {"metadata": meta, "spec": dict(manifest["spec"])}


class Race:
    """Two candidates with one clock."""

    def __init__(self):
        self.now, self.api = 0.0, FakeApi()
        self.a, self.b = (self._make(name) for name in "ab")

    def _make(self, name):
        return Leadership(
            self.api, "sluice-system", name, LeaseSettings(), lambda: None, lambda: self.now
        )

    async def go(self, seconds, *candidates):
        for _ in range(int(seconds / 2)):
            self.now += 2
            for candidate in candidates:
                await candidate.attempt()
            assert not (self.a.is_leading() and self.b.is_leading())


async def test_the_first_leads_and_the_second_waits():
    race = Race()
    await race.go(60, race.a, race.b)
    assert race.a.is_leading()
    assert not race.b.is_leading()


async def test_a_silent_leader_stops_writing_before_another_takes_over():
    race = Race()
    await race.go(10, race.a, race.b)
    await race.go(10, race.b)
    assert not race.a.is_leading()
    assert not race.b.is_leading()
    await race.go(10, race.b)
    assert race.b.is_leading()
    await race.go(4, race.a, race.b)
    assert not race.a.is_leading()


async def test_a_released_lease_is_taken_at_once():
    race = Race()
    await race.go(10, race.a, race.b)
    await race.a.release()
    await race.go(2, race.b)
    assert race.b.is_leading()


async def test_without_the_api_server_nobody_leads_for_long():
    race = Race()
    await race.go(10, race.a)
    race.api.away = True
    await race.go(12, race.a, race.b)
    assert not race.a.is_leading()
    race.api.away = False
    await race.go(30, race.a, race.b)
    assert race.a.is_leading() != race.b.is_leading()


async def test_the_lease_says_since_when_and_how_often_it_changed_hands():
    race = Race()
    await race.go(10, race.a)
    since = race.api.lease["spec"]["acquireTime"]
    assert since
    await race.a.release()
    await race.go(4, race.b)
    spec = race.api.lease["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)
    since = spec["acquireTime"]
    await race.go(10, race.b)
    spec = race.api.lease["spec"]
    assert (spec["acquireTime"], spec["leaseTransitions"]) == (since, 1)
    assert spec["renewTime"] > since


async def test_a_holder_with_a_longer_duration_is_waited_for():
    race = Race()
    await race.go(10, race.a, race.b)
    race.api.lease["spec"]["leaseDurationSeconds"] = 60
    await race.go(50, race.b)
    assert not race.b.is_leading()
    await race.go(20, race.b)
    assert race.b.is_leading()


async def test_a_silent_connection_leaves_time_for_another_try():
    race = Race()
    await race.go(2, race.a)
    assert race.api.patience < LeaseSettings().renew_deadline / 2


class Gate:
    def __init__(self, seconds):
        self.seconds = seconds

    def remaining(self):
        return self.seconds


class FakeClient:
    def __init__(self):
        self.sent = []

    async def request(self, method, path, *, within, **_):
        self.sent.append((method, path, within))
        return {}


async def test_a_write_is_refused_without_leadership_and_bounded_by_what_is_left():
    client = FakeClient()
    with pytest.raises(NotLeaderError):
        await Writer(client, Gate(0.4)).patch(PODS, "default", "w", [])
    assert client.sent == []
    await Writer(client, Gate(3.0)).patch(PODS, "default", "w", [])
    assert client.sent[0][2] == 2.5
