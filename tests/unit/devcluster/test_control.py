"""The control socket from both ends, with a stand-in for the supervisor."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sluice.devcluster.client import _Connection, call_supervisor
from sluice.devcluster.cluster import Cluster
from sluice.devcluster.control import serve_control
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import (
    ClusterError,
    ClusterNotRunningError,
    ComponentError,
    NodeError,
)


class Target:
    def __init__(self) -> None:
        self.actions: list[tuple[str, str, dict[str, Any]]] = []
        self.shut_down = False

    def describe(self) -> dict[str, Any]:
        return {"phase": "ready"}

    async def act_on_node(
        self, node: str, action: str, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        if node == "gone":
            raise NodeError("The cluster 'one' has no node 'gone'.")
        self.actions.append((node, action, dict(options)))
        return {"name": node, "state": action}

    async def act_on_component(self, name: str, action: str) -> dict[str, Any]:
        if name == "gone":
            raise ComponentError("The cluster has no component 'gone'.")
        self.actions.append((name, action, {}))
        return {"name": name, "state": "ended"}

    def request_shutdown(self) -> None:
        self.shut_down = True


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    # Far longer than the 107 bytes a socket's path may have.
    state = StateDirectory.of("one", tmp_path / ("long" * 30))
    state.prepare()
    return state


@pytest.fixture
async def target(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Target]:
    monkeypatch.chdir(state.root)
    target = Target()
    close = await serve_control(target, state.socket_name)
    yield target
    await close()


async def test_a_cluster_is_reached_however_long_its_path(
    state: StateDirectory, target: Target
) -> None:
    cluster = Cluster(state)
    assert await asyncio.to_thread(cluster.read_status) == {"phase": "ready"}
    answer = await asyncio.to_thread(cluster.act_on_node, "maia-0", "freeze")
    assert answer == {"name": "maia-0", "state": "freeze"}
    assert target.actions == [("maia-0", "freeze", {})]
    await asyncio.to_thread(call_supervisor, state, "POST", "/shutdown")
    assert target.shut_down


async def test_what_to_break_reaches_the_supervisor(state: StateDirectory, target: Target) -> None:
    cluster = Cluster(state)
    await asyncio.to_thread(
        cluster.act_on_node, "maia-0", "break", fault="ecc", device="all", seed=3
    )
    assert target.actions == [("maia-0", "break", {"fault": "ecc", "device": "all", "seed": 3})]


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize(
    ("body", "sentence"), [(b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[1]", "no object")]
)
async def test_a_body_that_is_no_object_is_refused(
    state: StateDirectory, body: bytes, sentence: str
) -> None:
    def post() -> tuple[int, str]:
        connection = _Connection(state, timeout=5)
        try:
            connection.request("POST", "/nodes/maia-0/break", body=body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())["error"]
        finally:
            connection.close()

    status, error = await asyncio.to_thread(post)
    assert status == 409
    assert sentence in error


@pytest.mark.usefixtures("target")
async def test_a_refusal_arrives_as_the_sentence_it_was(state: StateDirectory) -> None:
    with pytest.raises(NodeError, match="The cluster 'one' has no node 'gone'"):
        await asyncio.to_thread(Cluster(state).act_on_node, "gone", "kill")


async def test_a_component_is_acted_on_and_a_refusal_is_told(
    state: StateDirectory, target: Target
) -> None:
    cluster = Cluster(state)
    answer = await asyncio.to_thread(cluster.act_on_component, "kube-apiserver", "kill")
    assert answer == {"name": "kube-apiserver", "state": "ended"}
    assert target.actions == [("kube-apiserver", "kill", {})]
    with pytest.raises(ComponentError, match="The cluster has no component 'gone'"):
        await asyncio.to_thread(cluster.act_on_component, "gone", "kill")


@pytest.mark.usefixtures("target")
async def test_only_the_owner_may_open_the_socket(state: StateDirectory) -> None:
    assert (state.root / state.socket_name).stat().st_mode & 0o777 == 0o600
    assert state.root.stat().st_mode & 0o777 == 0o700


def test_nobody_listening_is_a_cluster_that_does_not_run(state: StateDirectory) -> None:
    with pytest.raises(ClusterNotRunningError, match="No cluster 'one' is running"):
        call_supervisor(state, "GET", "/status")


def test_silence_is_told_apart_from_absence(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(state.root)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(state.socket_name)
        listener.listen()  # and never accepts
        with pytest.raises(ClusterError, match="does not answer"):
            call_supervisor(state, "GET", "/status", timeout_seconds=0.1)
