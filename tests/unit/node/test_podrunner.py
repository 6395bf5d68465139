"""Pods from their binding to their end, as real processes."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sluice_node import podrunner, statuswriter
from sluice_node.kubeapi import ApiError
from sluice_node.volumes import PodVolumes

from .nodeworld import PYTHON, World, delete, make_pod, open_world, until

SERVER = """
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = (pathlib.Path(os.environ['HOME']) / self.path[1:]).exists()
        self.send_response(200 if known else 503)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer((os.environ['IP'], 8000), Handler).serve_forever()
"""
POD_IP = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


@pytest.fixture
async def world(tmp_path: Path):
    async with open_world(tmp_path) as opened:
        yield opened


def home_of(world: World, uid: str = "uid-1") -> Path:
    return world.context.pods / uid / "containers" / "c" / "home"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_a_pod_runs_and_is_ended_and_deleted(world: World):
    pod = make_pod("sleep", "1000")
    runner, task = world.run_pod(pod)
    await until(lambda: world.status.get("phase") == "Running")
    assert world.status["podIP"] == "127.77.1.2"
    assert world.container["ready"] is True
    assert "running" in world.state
    runner.update(delete(pod, grace=20))
    await task
    [options] = world.api.list_requests("DELETE")
    assert options["gracePeriodSeconds"] == 0
    assert options["preconditions"] == {"uid": "uid-1"}
    final = world.api.list_requests("PATCH", "/status")[-1]["status"]
    assert final["phase"] == "Failed"
    assert final["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143
    assert not (world.context.pods / "uid-1").exists()


async def test_a_disk_that_was_full_ends_no_refreshing(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    asked = 0

    async def prepare(_: PodVolumes) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first time is before the start
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(podrunner, "_REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(PodVolumes, "prepare", prepare)
    world.run_pod(make_pod("sleep", "1000"))
    await until(lambda: asked > 3)


async def test_a_status_that_is_refused_is_logged_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    tries = 0

    async def refuse(*_: Any) -> None:
        nonlocal tries
        tries += 1
        raise ApiError("phase is no phase", 422)

    monkeypatch.setattr(statuswriter, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(world.api, "patch", refuse)
    world.run_pod(make_pod("sleep", "1000"))
    await until(lambda: tries > 2)
    assert caplog.text.count("phase is no phase") == 1


async def test_nothing_is_written_when_nothing_changes(world: World):
    runner, _ = world.run_pod(make_pod("sleep", "1000"))
    await until(lambda: world.status.get("phase") == "Running")
    written = len(world.api.list_requests("PATCH"))
    shown = world.api.objects["/api/v1/namespaces/default/pods/chat"]
    runner.update({**shown, "metadata": {**shown["metadata"], "resourceVersion": "900"}})
    for _ in range(3):
        runner._writer.hurry()
        await until(lambda: not runner._writer._changed.is_set())
    assert len(world.api.list_requests("PATCH")) == written


async def test_a_condition_flipped_by_others_is_put_right(world: World):
    runner, _ = world.run_pod(make_pod("sleep", "1000"))
    await until(lambda: world.status.get("phase") == "Running")
    path = "/api/v1/namespaces/default/pods/chat"
    shown = world.api.objects[path]
    flipped = [{**item, "status": "False"} for item in shown["status"]["conditions"]]
    changed = {
        **shown,
        "metadata": {**shown["metadata"], "resourceVersion": "900"},
        "status": {**shown["status"], "conditions": flipped},
    }
    world.api.objects[path] = changed
    runner.update(changed)
    await until(lambda: all(item["status"] == "True" for item in world.status["conditions"]))


async def test_a_crash_is_restarted_then_backed_off(world: World):
    world.run_pod(make_pod("sh", "-c", "echo oops; exit 3"))
    await until(lambda: world.state.get("waiting", {}).get("reason") == "CrashLoopBackOff")
    assert world.container["restartCount"] == 1
    last = world.container["lastState"]["terminated"]
    assert (last["exitCode"], last["message"]) == (3, "oops\n")
    assert world.state["waiting"]["message"].startswith("back-off 10s restarting failed container")
    assert world.status["phase"] == "Running"


async def test_readiness_follows_the_probe(world: World):
    probe = {"httpGet": {"path": "/ok", "port": "http"}, "periodSeconds": 0.05}
    world.run_pod(
        make_pod(
            PYTHON,
            "-c",
            SERVER,
            env=[POD_IP],
            ports=[{"name": "http", "containerPort": 8000}],
            startupProbe={
                "httpGet": {"path": "/up", "port": 8000},
                "periodSeconds": 0.05,
                "failureThreshold": 1000,
            },
            readinessProbe={**probe, "failureThreshold": 1},
        )
    )
    await until(lambda: "running" in world.state)
    assert (world.container["started"], world.container["ready"]) == (False, False)
    (home_of(world) / "up").touch()
    await until(lambda: world.container["started"])
    assert not world.container["ready"]
    (home_of(world) / "ok").touch()
    await until(lambda: world.container["ready"])
    (home_of(world) / "ok").unlink()
    await until(lambda: not world.container["ready"])


async def test_a_failed_liveness_probe_restarts(world: World):
    world.run_pod(
        make_pod(
            "sleep",
            "1000",
            livenessProbe={"tcpSocket": {"port": 1}, "periodSeconds": 0.05},
        )
    )
    await until(lambda: world.container.get("restartCount", 0) >= 1)
    assert world.container["lastState"]["terminated"]["exitCode"] == 143


async def test_what_ignores_sigterm_is_killed_with_all_it_started(world: World, tmp_path: Path):
    script = "trap '' TERM; setsid sleep 1000 & echo $! > $HOME/child; while :; do sleep 1; done"
    pod = make_pod("sh", "-c", script)
    runner, task = world.run_pod(pod)
    child = home_of(world) / "child"
    await until(lambda: child.exists() and child.read_text())
    number = int(child.read_text())
    runner.update(delete(pod, grace=30))
    runner.update(delete(pod, grace=0))  # somebody lost patience
    await task
    final = world.api.list_requests("PATCH", "/status")[-1]["status"]
    assert final["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
    await until(lambda: not is_alive(number))


async def test_a_pod_that_vanished_is_ended_without_a_word(world: World):
    runner, task = world.run_pod(make_pod("sleep", "1000"))
    await until(lambda: "running" in world.state)
    written = len(world.api.requests)
    runner.vanish()
    await task
    assert len(world.api.requests) == written


async def test_a_pod_of_an_earlier_agent_is_run_again(world: World):
    pod = make_pod("sleep", "1000")
    pod["status"] = {
        "phase": "Running",
        "podIP": "127.77.1.9",
        "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [
            {"name": "c", "restartCount": 4, "state": {"running": {}}, "lastState": {}}
        ],
    }
    world.run_pod(pod)
    await until(lambda: "running" in world.state and world.container["restartCount"] == 5)
    assert world.status["podIP"] == "127.77.1.9"
    assert world.status["startTime"] == "2026-01-01T00:00:00Z"
    assert world.container["lastState"]["terminated"]["exitCode"] == 137


async def test_restarts_are_counted_on_when_volumes_take_long(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """By then the watch has brought the new agent's own status, which says nothing of before."""
    prepared = asyncio.Event()

    async def prepare(_: PodVolumes) -> None:
        await prepared.wait()

    monkeypatch.setattr(PodVolumes, "prepare", prepare)
    pod = make_pod("sleep", "1000")
    pod["status"] = {
        "phase": "Running",
        "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [
            {"name": "c", "restartCount": 4, "state": {"running": {}}, "lastState": {}}
        ],
    }
    runner, _ = world.run_pod(pod)
    await until(lambda: "waiting" in world.state)
    runner.update(
        {**pod, "metadata": {**pod["metadata"], "resourceVersion": "999"}, "status": world.status}
    )
    prepared.set()
    await until(lambda: "running" in world.state)
    assert world.container["restartCount"] == 5
    assert world.container["lastState"]["terminated"]["exitCode"] == 137


async def test_a_deleted_pod_of_an_earlier_agent_is_only_finalised(world: World):
    pod = delete(make_pod("sh", "-c", "touch /nowhere"), grace=30)
    pod["status"] = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}
    _, task = world.run_pod(pod)
    await task
    assert len(world.api.list_requests("DELETE")) == 1
    final = world.api.list_requests("PATCH", "/status")[-1]["status"]
    assert final["phase"] == "Failed"


async def test_a_completed_pod_stays_until_it_is_deleted(world: World):
    pod = make_pod("true")
    pod["spec"]["restartPolicy"] = "Never"
    runner, task = world.run_pod(pod)
    await until(lambda: world.status.get("phase") == "Succeeded")
    assert not task.done()
    runner.update(delete(pod, grace=30))
    await task
    assert len(world.api.list_requests("DELETE")) == 1


async def test_an_api_server_that_was_away_is_caught_up_with(world: World):
    world.run_pod(make_pod("sh", "-c", "while [ ! -e $HOME/go ]; do sleep 0.02; done; exit 7"))
    await until(lambda: "running" in world.state)
    world.api.away = True
    (home_of(world) / "go").touch()
    await until((world.context.pods / "uid-1/containers/c/1.log").exists)
    assert world.container["restartCount"] == 0
    world.api.away = False
    await until(lambda: world.container["restartCount"] == 1)


async def test_ending_waits_for_no_container_that_never_started(world: World):
    pod = make_pod("sleep", "1000")
    pod["spec"]["containers"][0]["image"] = "unknown:1"
    runner, _ = world.run_pod(pod)
    await until(lambda: world.state.get("waiting", {}).get("reason") == "ErrImagePull")
    async with asyncio.timeout(10):
        await runner.end_now(3600.0)


async def test_a_silent_agent_restarts_nothing(world: World):
    runner, _ = world.run_pod(make_pod("sh", "-c", "echo $$$$ > $HOME/pid; exec sleep 1000"))
    await until(lambda: "running" in world.state)
    await until((home_of(world) / "pid").exists)
    world.gate.clear()
    os.kill(int((home_of(world) / "pid").read_text()), 9)
    container = runner.containers[0]
    await until(lambda: not container.running)
    assert not (home_of(world).parent / "1.log").exists()
    world.gate.set()
    await until(lambda: world.container["restartCount"] == 1 and "running" in world.state)


@pytest.mark.parametrize(
    ("change", "reason", "sentence"),
    [
        ({"image": "nginx"}, "ErrImagePull", "it knows: w:1"),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]},
            "CreateContainerConfigError",
            'configmap "m" not found',
        ),
        ({"lifecycle": {"preStop": {}}}, "CreateContainerConfigError", "lifecycle hooks"),
    ],
)
async def test_a_container_that_cannot_start_says_why(
    world: World, change: dict[str, Any], reason: str, sentence: str
):
    world.run_pod(make_pod("true", **change))
    await until(lambda: world.state.get("waiting", {}).get("reason") == reason)
    assert sentence in world.state["waiting"]["message"]
    assert world.status["phase"] == "Pending"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [(("no-such-program",), 'exec: "no-such-program"'), ((), "must name its command")],
)
async def test_a_missing_program_is_a_start_error(
    world: World, command: tuple[str, ...], sentence: str
):
    pod = make_pod(*command)
    pod["spec"]["restartPolicy"] = "Never"
    world.run_pod(pod)
    await until(lambda: world.status.get("phase") == "Failed")
    ended = world.state["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert sentence in ended["message"]


async def test_a_pod_without_room_is_refused(world: World):
    limits = {"resources": {"limits": {"sluice.dev/maia": "3"}}}
    world.run_pod(make_pod("true", **limits))
    await until(lambda: world.status.get("phase") == "Failed")
    assert world.status["reason"] == "UnexpectedAdmissionError"
    assert "OutOfsluice.dev/maia" in world.status["message"]


async def test_a_container_sees_its_devices_and_nothing_of_the_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGENT_SECRET", "x")
    limits = {"resources": {"limits": {"sluice.dev/maia": "2"}}}
    pod = make_pod("env", env=[{"name": "M", "value": "/models/compact"}], **limits)
    pod["spec"]["restartPolicy"] = "Never"
    runner, _ = world.run_pod(pod)
    await until(lambda: world.status.get("phase") == "Succeeded")
    text = runner.containers[0].log.path.read_text()
    assert "SLUICE_DEVICES=sluice.dev/maia=0,1\n" in text
    sockets = [world.context.devices.find_socket(("sluice.dev/maia", n)) for n in (0, 1)]
    assert f"SLUICE_DEVICE_SOCKETS={sockets[0]},{sockets[1]}\n" in text
    assert f"M={world.context.config.state_dir}/compact\n" in text
    assert "AGENT_SECRET" not in text


async def test_an_empty_directory_outlives_the_container_and_goes_with_the_pod(world: World):
    script = "import sys; p = sys.argv[1].partition('=')[2]; open(p + '/log', 'a').write('x')"
    pod = make_pod(
        PYTHON,
        "-c",
        script,
        "--recordings=/var/lib/it",
        volumeMounts=[{"name": "kept", "mountPath": "/var/lib/it"}],
    )
    pod["spec"]["volumes"] = [{"name": "kept", "emptyDir": {"sizeLimit": "1Mi"}}]
    runner, task = world.run_pod(pod)
    kept = world.context.pods / "uid-1" / "volumes" / "kept" / "log"
    await until(lambda: kept.exists() and kept.read_text() >= "xx")
    runner.update(delete(pod, grace=1))
    await task
    assert not kept.exists()
