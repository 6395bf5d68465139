"""What can be done to a node, with a stand-in for the agent that runs one process as its pod."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.devcluster.certificates import create_certificates
from sluice.devcluster.children import Children
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import NodeError
from sluice.devcluster.networks import Network
from sluice.devcluster.nodes import NodeAgent, NodeSettings, apply_action, plan_agents
from sluice.devcluster.processes import identify_process, kill_processes, list_children
from sluice.devcluster.shape import ClusterShape

DEADLINE_SECONDS = 10.0

AGENT = """#!/bin/sh
trap 'echo silent' USR1
trap 'echo talking' USR2
echo "$@"
sleep 600 &
while :; do wait; done
"""


async def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def read_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "sluice-node"
    path.write_text(AGENT)
    path.chmod(0o755)
    return path


@pytest.fixture
def deaf_program(tmp_path: Path) -> Path:
    path = tmp_path / "deaf"
    path.write_text("#!/bin/sh\nexec sleep 600\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    state = StateDirectory.of("one", tmp_path)
    state.prepare()
    return NodeSettings(
        cluster="one",
        state=state,
        network=Network(77, -1),
        certificates=create_certificates(state.pki),
        api_server_host="127.0.0.1",
        api_server_port=20002,
        models=tmp_path / "models",
    )


@pytest.fixture
async def children(settings: NodeSettings) -> AsyncIterator[Children]:
    loop = asyncio.get_running_loop()
    children = Children(settings.state.processes)
    children.attach(loop)
    yield children
    loop.remove_signal_handler(signal.SIGCHLD)


@pytest.fixture
async def agent(
    settings: NodeSettings, children: Children, program: Path
) -> AsyncIterator[NodeAgent]:
    agents = plan_agents(ClusterShape(1, 0, 0).plan_nodes(), settings, children)
    agent = agents["maia-0"]
    child = agent.start_process(program)
    await wait_for(lambda: len(list_children(child.pid)) == 1)
    begun = [identify_process(pid) for pid in (child.pid, *list_children(child.pid))]
    yield agent
    if agent.child is not None and agent.child.running:
        begun.append(identify_process(agent.child.pid))
    assert kill_processes(each for each in begun if each is not None)


def read_log(agent: NodeAgent, settings: NodeSettings) -> list[str]:
    return settings.state.log_of(agent.plan.name).read_text().splitlines()


def read_config(path: str) -> tuple[dict[str, Any], list[Path]]:
    """Return the configuration and the files it names, the kubeconfig first."""
    config = yaml.safe_load(Path(path).read_text())
    named = [config["kubeconfig"], config["stateDir"], config["apiServer"]["caFile"]]
    named += [config["kubelet"][key] for key in ("certFile", "keyFile", "clientCAFile")]
    return config, [Path(each) for each in named]


async def test_the_configuration_says_all_an_agent_needs(
    agent: NodeAgent, settings: NodeSettings
) -> None:
    (first, *_) = read_log(agent, settings)
    option, path = first.split()
    assert option == "--config"
    config, named = read_config(path)
    assert config["name"] == "maia-0"
    assert config["address"] == "127.77.1.1"
    assert config["podRange"] == "127.77.1.0/24"
    assert config["stableRange"] == "127.77.0.0/24"
    assert config["kubelet"]["port"] == 10250
    assert agent.describe()["metrics"] == f"http://127.77.1.1:{config['metricsPort']}/metrics"
    assert Path(config["deviceDir"]).parent == settings.state.device_sockets
    assert config["apiServer"]["port"] == 20002
    assert config["capacity"]["sluice.dev/maia"] == "2"
    assert config["taints"][0]["effect"] == "NoSchedule"
    assert config["images"]["sluice-worker:0.1.0"]["rootfs"] == {"/models": str(settings.models)}
    assert all(path.exists() for path in named)
    assert named[0].stat().st_mode & 0o777 == 0o600


async def test_a_frozen_node_stops_whole_and_starts_where_it_was(
    agent: NodeAgent, program: Path
) -> None:
    assert agent.child is not None
    pid = agent.child.pid
    everyone = [pid, *list_children(pid)]
    apply_action(agent, "freeze", program)
    await wait_for(lambda: [read_state(each) for each in everyone] == ["T", "T"])
    assert agent.state == "frozen"
    assert agent.describe()["pid"] == pid
    with pytest.raises(NodeError, match="maia-0 is frozen: its agent cannot act on 'stop'"):
        apply_action(agent, "stop", program)
    apply_action(agent, "start", program)
    assert agent.state == "running"
    await wait_for(lambda: "T" not in [read_state(each) for each in everyone])
    assert agent.child.pid == pid


async def test_a_stopped_node_falls_silent_and_keeps_its_pods(
    agent: NodeAgent, program: Path, settings: NodeSettings
) -> None:
    assert agent.child is not None
    before = list_children(agent.child.pid)
    apply_action(agent, "stop", program)
    assert agent.state == "stopped"
    await wait_for(lambda: "silent" in read_log(agent, settings))
    assert list_children(agent.child.pid) == before
    apply_action(agent, "start", program)
    await wait_for(lambda: "talking" in read_log(agent, settings))
    assert agent.state == "running"


async def test_what_was_stopped_and_then_frozen_comes_back_whole(
    agent: NodeAgent, program: Path, settings: NodeSettings
) -> None:
    apply_action(agent, "stop", program)
    await wait_for(lambda: "silent" in read_log(agent, settings))
    apply_action(agent, "freeze", program)
    apply_action(agent, "start", program)
    await wait_for(lambda: "talking" in read_log(agent, settings))
    assert agent.state == "running"


async def test_a_killed_node_takes_all_its_processes_along(agent: NodeAgent, program: Path) -> None:
    assert agent.child is not None
    (below,) = list_children(agent.child.pid)
    apply_action(agent, "kill", program)
    await wait_for(lambda: identify_process(below) is None)


async def test_a_killed_node_gets_a_new_agent_only_on_start(
    agent: NodeAgent, program: Path
) -> None:
    first = agent.child
    assert first is not None
    apply_action(agent, "kill", program)
    await wait_for(lambda: not first.running)
    assert agent.state == "killed"
    assert agent.describe()["pid"] is None
    for action in ("kill", "freeze", "stop"):
        with pytest.raises(NodeError, match=f"maia-0 has no agent to {action}: it is killed"):
            apply_action(agent, action, program)
    apply_action(agent, "start", program)
    assert agent.state == "running"
    assert agent.child is not first


async def test_an_agent_that_cannot_hear_yet_is_not_killed_by_the_signal(
    agent: NodeAgent, program: Path, deaf_program: Path
) -> None:
    apply_action(agent, "kill", program)
    await wait_for(lambda: agent.child is not None and not agent.child.running)
    apply_action(agent, "start", deaf_program)
    with pytest.raises(NodeError, match="The agent of maia-0 is still starting"):
        apply_action(agent, "stop", program)
    assert agent.state == "running"


async def test_starting_a_node_that_runs_changes_nothing(agent: NodeAgent, program: Path) -> None:
    before = agent.child
    apply_action(agent, "start", program)
    assert agent.child is before


async def test_an_agent_that_ended_by_itself_is_told_apart(agent: NodeAgent, program: Path) -> None:
    child = agent.child
    assert child is not None
    child.signal(signal.SIGTERM)
    await wait_for(lambda: not child.running)
    assert agent.state == "ended"
    assert "maia-0 was ended by SIGTERM" in child.describe_end()


async def test_devices_break_and_heal_whatever_the_agent_does(
    agent: NodeAgent, program: Path, settings: NodeSettings
) -> None:
    file = settings.state.nodes / "maia-0" / "faults.json"
    assert agent.describe()["faults"] == []
    apply_action(agent, "freeze", program)
    apply_action(agent, "break", program, {"fault": "hang"})
    assert "hang" in file.read_text()
    apply_action(agent, "kill", program)
    await wait_for(lambda: agent.state == "killed")
    apply_action(agent, "break", program, {"fault": "ecc", "device": 1})
    assert [(f["device"], f["fault"]) for f in agent.describe()["faults"]] == [
        (0, "hang"),
        (1, "ecc"),
    ]
    apply_action(agent, "start", program)
    assert len(agent.describe()["faults"]) == 2  # a new agent repairs no hardware
    apply_action(agent, "heal", program)
    assert agent.describe()["faults"] == []
    assert "hang" not in file.read_text()


async def test_only_breaking_takes_options(agent: NodeAgent, program: Path) -> None:
    with pytest.raises(NodeError, match="'freeze' takes no options"):
        apply_action(agent, "freeze", program, {"fault": "ecc"})
    assert agent.state == "running"


async def test_an_unknown_action_names_the_known_ones(agent: NodeAgent, program: Path) -> None:
    with pytest.raises(NodeError, match="'explode' cannot be done to a node; use kill, freeze"):
        apply_action(agent, "explode", program)
