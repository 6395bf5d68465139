"""A gateway without Kubernetes, over servers that come, go and change; and over real workers."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import aiohttp
import openai
import pytest
import structlog

from sluice_gateway.engines import Engine, find_steps
from sluice_gateway.gateway import Gateway
from sluice_gateway.main import parse_arguments
from sluice_gateway.settings import Following

from ..unit.gateway.fakebackend import FakeBackend
from ..unit.gateway.gatewayworld import SETTINGS, parse_events
from ..unit.gateway.polling import until
from ..unit.gateway.secrets import MountedFiles, entry_of
from ..unit.worker.checkpoints import write_checkpoint
from ..unit.worker.workerprocess import WorkerProcess
from .test_gateway_process import started
from .test_gateway_tls import pair, trusting


class Standalone:
    """A gateway over backends, and a client for it."""

    def __init__(self, gateway, http, lines):
        self.gateway = gateway
        self.http = http
        self.lines = lines

    @property
    def url(self):
        return f"http://127.0.0.1:{self.gateway.port}"

    @property
    def pods(self):
        return {worker.pod.name for worker in self.gateway.fleet.workers.values()}

    async def ask(self, model="compact", **more):
        body = {"model": model, "prompt": "x", **more}
        async with self.http.post(f"{self.url}/v1/completions", json=body) as response:
            return response.status, response.headers, await response.json()

    async def models(self):
        async with self.http.get(f"{self.url}/v1/models") as response:
            return [entry["id"] for entry in (await response.json())["data"]]

    async def metric(self, name):
        url = f"http://127.0.0.1:{self.gateway.admin_port}/metrics"
        async with self.http.get(url) as response:
            return [line for line in (await response.text()).splitlines() if name in line]


@asynccontextmanager
async def standing(*arguments):
    told = parse_arguments(["--host", "127.0.0.1", *arguments])
    settings = replace(
        SETTINGS,
        following=Following(period=0.1, eager_period=0.02, request_seconds=1.0),
        backends=told.backends,
    )
    capture = structlog.testing.LogCapture()
    log = structlog.wrap_logger(None, processors=[capture])
    async with (
        Gateway(settings, told.backends, log) as gateway,
        aiohttp.ClientSession() as http,
    ):
        yield Standalone(gateway, http, capture.entries)


def flags(*backends, **classes):
    return [
        part
        for backend in backends
        for part in (
            "--backend",
            f"{backend.name}={backend.url}"
            + (f",class={classes[backend.name]}" if backend.name in classes else ""),
        )
    ]


async def ready(world):
    await until(lambda: not world.gateway.explain_unready())


async def test_models_are_what_the_backends_name():
    async with (
        FakeBackend("a", models=["one", "two"]) as a,
        FakeBackend("b", models=["two", "three"]) as b,
        standing(*flags(a, b)) as world,
    ):
        await ready(world)
        assert await world.models() == ["one", "three", "two"]
        assert (await world.ask("one"))[2]["choices"][0]["text"] == "a"
        assert (await world.ask("three"))[2]["choices"][0]["text"] == "b"
        said = {(await world.ask("two"))[2]["choices"][0]["text"] for _ in range(30)}
        assert said == {"a", "b"}
        assert (await world.ask("four"))[0] == 404


async def test_a_backend_whose_uid_no_header_can_repeat_is_not_used():
    async with (
        FakeBackend("a") as good,
        FakeBackend("b", models=["other"], uid="bär") as odd,
        standing(*flags(good, odd)) as world,
    ):
        await ready(world)
        assert await world.models() == ["compact"]


async def test_a_path_prefix_is_kept_and_nothing_is_fenced_that_names_no_uid():
    async with (
        FakeBackend("a", prefix="/team/a", health="") as a,
        standing("--backend", f"a={a.url.replace('127.0.0.1', 'localhost')}/v1") as world,
    ):
        await ready(world)
        status, headers, _ = await world.ask()
        assert (status, headers["x-sluice-worker"]) == (200, "a")
        path, got = a.got[0]
        assert path == "/team/a/v1/completions"
        assert "X-Sluice-Worker-Uid" not in got
        async with world.http.post(
            f"{world.url}/v1/completions", json={"model": "compact", "prompt": "x", "stream": True}
        ) as response:
            assert parse_events(await response.read())[-1] == "[DONE]"


async def test_shares_hold_between_classes():
    async with (
        FakeBackend("a") as a,
        FakeBackend("b") as b,
        standing(*flags(a, b, a="maia-200", b="h100"), "--share", "maia-200=0.3") as world,
    ):
        await ready(world)
        await until(lambda: world.pods == {"a", "b"})
        for _ in range(40):
            assert (await world.ask())[0] == 200
        assert (len(a.got), len(b.got)) == (12, 28)


async def test_a_backend_that_comes_later_and_changes_is_found():
    async with FakeBackend("a") as a, FakeBackend("b", models=["other"]) as b:
        await b.stop()
        async with standing(*flags(a, b)) as world:
            await ready(world)
            assert await world.models() == ["compact"]
            assert [line["backend"] for line in world.lines if line["event"] == "backend away"] == [
                "b"
            ]
            await b.start()
            await until(lambda: world.pods == {"a", "b"})
            assert (await world.ask("other"))[0] == 200
            b.models = ["compact"]
            await until(lambda: len(world.gateway.fleet.pools) == 1)
            assert await world.models() == ["compact"]
            a.models = "nonsense"  # what was known of it stays
            await until(lambda: any("no list" in str(line.get("reason")) for line in world.lines))
            assert world.pods == {"a", "b"}


async def test_nobody_there_is_said_and_waited_for():
    async with FakeBackend("a") as a:
        await a.stop()
        async with standing(*flags(a)) as world:
            await until(lambda: "ClientConnectorError" in world.gateway.explain_unready())
            assert "no models known yet of a (" in world.gateway.explain_unready()
            status, headers, body = await world.ask()
            assert (status, body["error"]["code"]) == (503, "not_ready")
            assert headers["Retry-After"]
            await a.start()
            await ready(world)
            assert (await world.ask())[0] == 200


async def test_requests_go_on_elsewhere_while_one_is_away_and_come_back():
    async with (
        FakeBackend("a", health="/healthz") as a,
        FakeBackend("b", health="") as b,
        standing(*flags(a, b)) as world,
    ):
        await ready(world)
        await until(lambda: world.pods == {"a", "b"})
        await a.stop()
        for _ in range(10):
            assert (await world.ask())[2]["choices"][0]["text"] == "b"
        await a.start()
        async with asyncio.timeout(15):
            while not a.got:
                assert (await world.ask())[0] == 200


async def test_a_restarted_worker_is_known_by_its_new_uid():
    async with FakeBackend("a", uid="first") as a, standing(*flags(a)) as world:
        await ready(world)
        assert (await world.ask())[0] == 200
        assert a.got[-1][1]["X-Sluice-Worker-Uid"] == "first"
        a.uid = "second"
        assert (await world.ask())[0] == 200
        assert a.got[-1][1]["X-Sluice-Worker-Uid"] == "second"
        assert list(world.gateway.fleet.workers) == ["a@second"]


@pytest.mark.parametrize("path", ["/healthz", "/health"])
async def test_a_backend_that_says_it_is_ill_gets_nothing(path):
    async with (
        FakeBackend("a", health=path) as a,
        FakeBackend("b", health="") as b,
        standing(*flags(a, b)) as world,
    ):
        await ready(world)
        await until(lambda: world.pods == {"a", "b"})
        a.healthy = 503
        await until(lambda: any(line["event"] == "worker health" for line in world.lines))
        a.got.clear()
        for _ in range(10):
            assert (await world.ask())[2]["choices"][0]["text"] == "b"
        assert a.got == []


async def test_a_backends_own_key_is_sent_to_it_and_logged_nowhere(tmp_path):
    (tmp_path / "key").write_text("secret-word\n")
    async with (
        FakeBackend("a", key="secret-word") as a,
        standing("--backend", f"a={a.url},key-file={tmp_path / 'key'}") as world,
    ):
        await ready(world)
        assert (await world.ask())[0] == 200
        assert "secret-word" not in str(world.lines)


async def test_a_backend_that_wants_a_key_says_so():
    async with FakeBackend("a", key="secret-word") as a, standing(*flags(a)) as world:
        await until(lambda: "answered 401; name a file" in world.gateway.explain_unready())


@pytest.mark.parametrize("told", ["maia", 7, [], {"profile": "maia-200"}, {"profile": [[]]}])
async def test_nonsense_of_what_is_emulated_takes_no_backend_out_of_service(told):
    models = {"data": [{"id": "compact", "emulation": told}]}
    async with FakeBackend("a", models=models) as a, standing(*flags(a)) as world:
        await ready(world)
        assert (await world.ask())[0] == 200
        (worker,) = world.gateway.fleet.workers.values()
        assert worker.steps is None


async def test_workers_say_what_they_emulate_and_are_predicted_by_what_is_believed_of_it(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "tiny")
    emulated = ("--profile=maia-200", "--nominal=llama-3.1-8b", "--devices=2", "--token-scale=4")
    async with AsyncExitStack() as stack:
        workers = [
            WorkerProcess(checkpoint, tmp_path, "--max-num-seqs=3", *more, uid=f"uid-{number}")
            for number, more in enumerate([emulated, ()])
        ]
        for worker in workers:
            stack.callback(worker.close)
            await asyncio.to_thread(worker.until, "/readyz", 200)
        backends = [f"--backend=w{n}={worker.url}" for n, worker in enumerate(workers)]
        world = await stack.enter_async_context(standing(*backends))
        await ready(world)
        known = {w.pod.name: w for w in world.gateway.fleet.workers.values()}
        engine = Engine("maia-200", "float32", "llama-3.1-8b", 2, 4, slots=3, chunk=16)
        assert known["w0"].pod.engine == engine
        assert known["w0"].steps is find_steps(engine)
        assert known["w1"].steps is None
        for _ in range(4):
            assert (await world.ask(max_tokens=4))[0] == 200


async def test_what_the_backends_do_shows_in_metrics():
    async with FakeBackend("a") as a, standing(*flags(a, a="maia-200")) as world:
        await ready(world)
        await world.ask()
        assert 'sluice_gateway_watch_connected{kind="backend a"} 1.0' in await world.metric("watch")
        (line,) = await world.metric("sluice_gateway_requests_total{")
        assert 'accelerator_class="maia-200"' in line
        assert 'pool="compact"' in line


async def test_the_program_serves_two_real_workers_over_tls_to_a_key(tmp_path):
    tls = MountedFiles(tmp_path / "tls", **pair())
    keys = MountedFiles(tmp_path / "keys", team=entry_of("sk-team"))
    checkpoint = write_checkpoint(tmp_path / "tiny")
    async with AsyncExitStack() as stack:
        workers = [WorkerProcess(checkpoint, tmp_path, uid=f"uid-{n}") for n in range(2)]
        for worker in workers:
            stack.callback(worker.close)
        arguments = [
            *("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain-delay", "0"),
            *("--backend", f"m={workers[0].url},class=maia-200"),
            *("--backend", f"g={workers[1].url}/v1,class=h100"),
            *("--share", "maia-200=0.5"),
            *("--tls-dir", str(tls.path), "--api-keys-dir", str(keys.path)),
        ]
        environ = {"KUBECONFIG": "", "KUBERNETES_SERVICE_HOST": ""}
        program = await stack.enter_async_context(started(*arguments, **environ))
        await until(lambda: program.find("listening"))
        await until(lambda: program.count("backend serves") == 2, seconds=60)
        url = f"https://127.0.0.1:{program.find('listening')['port']}/v1"
        http = openai.DefaultAsyncHttpxClient(verify=trusting())
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=url, api_key="sk-team", max_retries=0, http_client=http)
        )
        asked = {"model": "compact", "prompt": "some text", "seed": 7, "max_tokens": 8}
        for _ in range(4):
            whole = await client.completions.create(**asked)
            chunks = [c async for c in await client.completions.create(**asked, stream=True)]
            assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
        await asyncio.to_thread(workers[0].close)
        for _ in range(4):
            assert (await client.completions.create(**asked)).usage.completion_tokens <= 8
        program.process.terminate()
        assert await program.process.wait() == 0
    used = {line["accelerator_class"] for line in program.lines if line["event"] == "request"}
    assert used == {"maia-200", "h100"}
    (usage,) = [line["keys"] for line in program.lines if line["event"] == "usage"]
    assert {row["key"] for row in usage} == {"team"}
    assert "sk-team" not in str(program.lines)
