"""The program `sluice-gateway` as a pod runs it: arguments, environment, signals, exit codes."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest
import yaml

from sluice_gateway.main import parse_arguments

from ..unit.gateway.gatewayworld import GatewayWorld
from ..unit.gateway.polling import until


def write_kubeconfig(path, url):
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


class Program:
    """A running `sluice-gateway`; its lines are parsed as they come."""

    def __init__(self, process):
        self.process = process
        self.lines = []

    async def read_lines(self):
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def find(self, event):
        return next((line for line in self.lines if line["event"] == event), None)

    def count(self, event):
        return sum(line["event"] == event for line in self.lines)


@asynccontextmanager
async def started(*arguments, **environ):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sluice_gateway",
        *arguments,
        env={**os.environ, "POD_UID": "pod-1", **environ},
        stdout=asyncio.subprocess.PIPE,
    )
    program = Program(process)
    reading = asyncio.create_task(program.read_lines())
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def test_it_serves_drains_and_exits_with_0(tmp_path):
    arguments = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain-delay", "0.3")
    async with GatewayWorld() as world:
        config = write_kubeconfig(tmp_path / "config", world.kube.url)
        async with started(*arguments, KUBECONFIG=config) as program:
            await until(lambda: program.find("listening"))
            found = program.find("listening")
            url = f"http://127.0.0.1:{found['port']}"
            admin = f"http://127.0.0.1:{found['admin_port']}"
            await world.add_pool()
            worker = await world.add_worker("w1")
            worker.step = 0.1
            async with aiohttp.ClientSession() as http:
                body = {"model": "compact", "prompt": "x"}
                asked = asyncio.create_task(post(http, f"{url}/v1/completions", body))
                await until(lambda: worker.got)
                program.process.send_signal(signal.SIGTERM)
                await until(lambda: program.find("draining"))
                async with http.get(f"{admin}/readyz") as response:
                    assert response.status == 503
                async with http.get(f"{admin}/signals") as response:
                    assert (await response.json())["gateway"]["uid"] == "pod-1"
                assert await asked == 200
            assert await program.process.wait() == 0
        assert program.find("stopped")
        requests = [line for line in program.lines if line["event"] == "request"]
        assert requests[-1]["outcome"] == "ok"  # those before came before the pool was seen


async def post(http, url, body):
    while True:
        async with http.post(url, json=body) as response:
            if response.status not in {404, 503}:  # not ready, or the pool not seen yet
                return response.status


async def test_a_stream_outlives_the_gateway_s_notice_and_its_client_is_sent_elsewhere(tmp_path):
    arguments = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain-delay", "0.5")
    async with GatewayWorld() as world:
        config = write_kubeconfig(tmp_path / "config", world.kube.url)
        async with (
            started(*arguments, KUBECONFIG=config) as program,
            aiohttp.ClientSession() as http,
        ):
            await until(lambda: program.find("listening"))
            port = program.find("listening")["port"]
            url = f"http://127.0.0.1:{port}/v1/completions"
            await world.add_pool()
            worker = await world.add_worker("w1")
            assert await post(http, url, {"model": "compact", "prompt": "x"}) == 200
            worker.step = 0.1
            body = {"model": "compact", "prompt": "x", "stream": True, "max_tokens": 20}
            async with http.post(url, json=body) as stream:
                assert stream.headers.get("Connection", "keep-alive") != "close"
                await stream.content.readline()
                program.process.send_signal(signal.SIGTERM)
                await until(lambda: program.find("draining"))
                async with http.post(url, json={**body, "stream": False, "max_tokens": 1}) as late:
                    assert (late.status, late.headers["Connection"]) == (200, "close")
                async with http.post(url, json={**body, "max_tokens": 1}) as late:
                    assert (late.status, late.headers["Connection"]) == (200, "close")
                    assert b"[DONE]" in await late.read()
                await until(lambda: refuses(port))
                assert program.process.returncode is None
                assert b"[DONE]" in await stream.read()
            assert await program.process.wait() == 0


async def test_what_runs_longer_than_the_drain_does_not_hold_a_gateway(tmp_path):
    arguments = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain-delay", "0")
    async with GatewayWorld() as world:
        config = write_kubeconfig(tmp_path / "config", world.kube.url)
        started_program = started(*arguments, "--drain-seconds", "0.4", KUBECONFIG=config)
        async with started_program as program, aiohttp.ClientSession() as http:
            await until(lambda: program.find("listening"))
            url = f"http://127.0.0.1:{program.find('listening')['port']}/v1/completions"
            await world.add_pool()
            worker = await world.add_worker("w1")
            assert await post(http, url, {"model": "compact", "prompt": "x"}) == 200
            worker.step = 0.5
            body = {"model": "compact", "prompt": "x", "stream": True, "max_tokens": 1000}
            async with http.post(url, json=body) as stream:
                await stream.content.readline()
                program.process.send_signal(signal.SIGTERM)
                assert await program.process.wait() == 0
                with pytest.raises(aiohttp.ClientError):
                    await stream.read()


def refuses(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(tmp_path, second):
    arguments = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain-delay", "60")
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    async with started(*arguments, KUBECONFIG=config) as program:
        await until(lambda: program.find("Kubernetes API away"))
        program.process.send_signal(signal.SIGINT)
        await until(lambda: program.find("draining"))
        program.process.send_signal(second)
        assert await program.process.wait() == 1


async def test_an_occupied_port_gets_a_sentence(tmp_path):
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ("--host", "127.0.0.1", "--port", str(port), "--admin-port", "0")
        async with started(*arguments, KUBECONFIG=config) as program:
            assert await program.process.wait() == 2
    reason = program.find("cannot start")["reason"]
    assert f"cannot listen on 127.0.0.1:{port}" in reason
    assert "--port" in reason


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "99999"], "argument --port: '99999' is not a port: use 1 to 65535"),
        (["--admin-port", "-1"], "'-1' is not a port"),
        (["--drain-seconds", "-1"], "'-1' is not a number of seconds from 0 on"),
        (["--drain-delay", "nan"], "'nan' is not a number of seconds from 0 on"),
        (["--wait-for-worker", "soon"], "'soon' is not a number of seconds from 0 on"),
        (["--wait-for-worker=-1"], "'-1' is not a number of seconds from 0 on"),
    ],
)
def test_a_wrong_argument_is_named(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--host", "127.0.0.1", *arguments])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


async def test_without_a_cluster_it_says_what_to_do():
    environ = {"KUBECONFIG": "", "KUBERNETES_SERVICE_HOST": ""}
    async with started("--host", "127.0.0.1", **environ) as program:
        assert await program.process.wait() == 2
    assert "set KUBECONFIG" in program.find("cannot start")["reason"]
