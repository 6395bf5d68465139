"""Parts of a control plane, killed, frozen and started again, with a sleeping stand-in."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sluice.devcluster.children import Children
from sluice.devcluster.components import Command
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import ClusterStartError, ComponentError
from sluice.devcluster.outages import Components
from sluice.devcluster.processes import identify_process, kill_processes

# It says that it has begun, with what, and sleeps.
SCRIPT = 'echo "begun $0 $WORD"; exec sleep 1000'


@pytest.fixture
async def components(tmp_path: Path) -> AsyncIterator[Components]:
    state = StateDirectory.of("one", tmp_path)
    state.prepare()
    children = Children(state.processes)
    loop = asyncio.get_running_loop()
    children.attach(loop)
    components = Components(children, state)
    components.start(Command("api", ["/bin/sh", "-c", SCRIPT, "argument"], {"WORD": "kept"}))
    yield components
    ours = [identify_process(child.pid) for child in components.processes if child.running]
    assert kill_processes(each for each in ours if each is not None)
    await wait_for(lambda: not any(child.running for child in components.processes))
    loop.remove_signal_handler(signal.SIGCHLD)


def read_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def wait_for(met: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while not met():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


def read_lines(component: dict[str, Any]) -> list[str]:
    return Path(component["log"]).read_text().splitlines()


async def test_what_was_killed_starts_again_as_it_was(components: Components) -> None:
    first = components.describe()[0]
    assert first["state"] == "running"
    assert components.whole
    await wait_for(lambda: len(read_lines(first)) == 1)
    killed = await components.act("api", "kill")
    assert (killed["state"], killed["pid"], killed["exitCode"]) == ("ended", None, -9)
    assert not components.whole
    started = await components.act("api", "start")
    assert started["state"] == "running"
    assert started["pid"] not in (None, first["pid"])
    assert components.whole
    await wait_for(lambda: read_lines(first) == ["begun argument kept"] * 2)
    assert [child.pid for child in components.processes] == [started["pid"]]


async def test_what_was_frozen_goes_on_in_the_same_process(components: Components) -> None:
    pid = components.describe()[0]["pid"]
    frozen = await components.act("api", "freeze")
    assert (frozen["state"], frozen["pid"]) == ("frozen", pid)
    assert not components.whole
    await wait_for(lambda: read_state(pid) == "T")
    assert (await components.act("api", "start"))["pid"] == pid
    await wait_for(lambda: read_state(pid) in "SR")
    assert components.whole


async def test_what_was_frozen_can_be_killed(components: Components) -> None:
    await components.act("api", "freeze")
    assert (await components.act("api", "kill"))["state"] == "ended"
    assert (await components.act("api", "start"))["state"] == "running"


@pytest.mark.parametrize(
    ("before", "name", "action", "sentence"),
    [
        ([], "dns", "kill", "no component 'dns'. Its components: api"),
        ([], "api", "melt", "'melt' can be done to a component. There are: kill, freeze, start"),
        ([], "api", "start", "api is running; 'start' is for one that is frozen or ended"),
        (["freeze"], "api", "freeze", "api is frozen; 'freeze' is for one that is running"),
        (["kill"], "api", "freeze", "api is ended; 'freeze' is for one that is running"),
        (["kill"], "api", "kill", "api is ended; 'kill' is for one that is running or frozen"),
    ],
)
async def test_what_cannot_be_done_is_said(
    components: Components, before: list[str], name: str, action: str, sentence: str
) -> None:
    for step in before:
        await components.act("api", step)
    with pytest.raises(ComponentError, match=sentence):
        await components.act(name, action)


async def test_a_program_that_cannot_be_executed_is_named(components: Components) -> None:
    with pytest.raises(ClusterStartError, match=r"dns at /nowhere cannot be executed: No such"):
        components.start(Command("dns", ["/nowhere"], {}))
