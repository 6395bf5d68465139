"""TLS on the public port: stock clients, certificates that change, handshakes that never end."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
import socket
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import openai
import pytest

from ..unit.gateway.certificates import Authority
from ..unit.gateway.fakebackend import FakeBackend
from ..unit.gateway.gatewayworld import GatewayWorld, settings
from ..unit.gateway.polling import until, until_async
from ..unit.gateway.secrets import MountedFiles, entry_of
from .test_gateway_process import started

AUTHORITY = Authority()


def trusting(**more):
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    for name, value in more.items():
        setattr(context, name, value)
    return context


def pair(name="gateway", **more):
    certificate, key = AUTHORITY.issue(name, **more)
    return {"tls__crt": certificate, "tls__key": key}


@asynccontextmanager
async def secured(directory, **limits):
    """A world behind TLS; yields it with the mounted Secret."""
    files = MountedFiles(directory / "tls", **pair())
    told = replace(settings(limits=limits), tls_dir=files.path, mount_period=0.02)
    async with GatewayWorld(told) as world:
        await world.add_pool()
        await world.start_gateway()
        await world.add_worker("w1")
        await world.until_usable("w1")
        yield world, files


async def connect(world, **more):
    return await asyncio.open_connection(
        "127.0.0.1", world.gateway.port, ssl=more.pop("ssl", None) or trusting(), **more
    )


async def find_subject(world):
    _, writer = await connect(world)
    subject = writer.get_extra_info("peercert")["subject"][0][0][1]
    writer.close()
    return subject


async def has_subject(world, name):
    return await find_subject(world) == name


async def ask(world):
    url = f"https://127.0.0.1:{world.gateway.port}/v1/completions"
    body = {"model": "compact", "prompt": "hello", "seed": 1}
    async with world.http.post(url, json=body, ssl=trusting()) as response:
        return response.status


async def test_stock_clients_speak_to_it(tmp_path):
    async with secured(tmp_path) as (world, _):
        url = f"https://127.0.0.1:{world.gateway.port}/v1"
        async with (
            openai.DefaultAsyncHttpxClient(verify=trusting()) as http,
            openai.AsyncOpenAI(base_url=url, api_key="x", http_client=http) as client,
        ):
            asked = {"model": "compact", "prompt": "hello", "seed": 1}
            whole = await client.completions.create(**asked)
            chunks = [c async for c in await client.completions.create(**asked, stream=True)]
            assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
        async with world.http.get(f"{world.admin}/healthz") as response:
            assert response.status == 200  # the admin port stays plain


async def test_old_versions_and_plain_http_are_refused(tmp_path):
    async with secured(tmp_path) as (world, _):
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old = trusting(
                maximum_version=ssl.TLSVersion.TLSv1_1, minimum_version=ssl.TLSVersion.TLSv1_1
            )
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(world, ssl=old)
        two = trusting(maximum_version=ssl.TLSVersion.TLSv1_2)
        _, writer = await connect(world, ssl=two)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in await read_all(reader)
        writer.close()
        assert await ask(world) == 200


async def read_all(reader):
    async with asyncio.timeout(15):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_a_new_certificate_serves_new_connections_and_the_old_ones_stay(tmp_path):
    async with secured(tmp_path) as (world, files):
        reader, writer = await connect(world)
        body = json.dumps({"model": "compact", "prompt": "x", "stream": True, "max_tokens": 20})
        world.workers["w1"].step = 0.05
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body.encode())
        )
        assert b"200 OK" in await reader.readline()
        files.put(**pair("renewed"))
        await until_async(lambda: has_subject(world, "renewed"))
        assert b"[DONE]" in await reader.readuntil(b"[DONE]")
        writer.close()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"tls__crt": b"x", "tls__key": b"y"}, "are no pair in PEM form"),
        ({"tls__crt": pair()["tls__crt"]}, "cannot read"),
        ({**pair(), "tls__key": pair()["tls__key"]}, "do not belong together"),
        (pair(password=b"secret"), "are no pair in PEM form without a password"),
    ],
    ids=["nonsense", "no-key", "other-key", "password"],
)
async def test_a_broken_pair_keeps_the_old_one(tmp_path, broken, sentence):
    async with secured(tmp_path) as (world, files):
        files.put(**broken)
        await until(lambda: complaints(world))
        assert sentence in complaints(world)[0]["reason"]
        assert await find_subject(world) == "gateway"
        files.put(**pair("mended"))
        await until_async(lambda: has_subject(world, "mended"))


async def test_when_the_certificate_ends_is_told(tmp_path):
    async with secured(tmp_path) as (world, files):
        assert 0 < await find_end(world) - time.time() <= 24 * 3600
        files.put(**pair("late", days=-1))
        await until(lambda: any("has ended" in line["event"] for line in world.lines))
        assert await find_end(world) < time.time()


async def find_end(world):
    async with world.http.get(f"{world.admin}/metrics") as response:
        lines = (await response.text()).splitlines()
    name = "sluice_gateway_tls_certificate_end_seconds "
    (line,) = [line for line in lines if line.startswith(name)]
    return float(line.removeprefix(name))


def complaints(world):
    return [line for line in world.lines if line["event"] == "TLS certificate not reloaded"]


async def test_handshakes_that_never_end_are_cut_off(tmp_path):
    async with secured(tmp_path, handshake_seconds=0.3) as (world, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        writer.write(b"\x16\x03\x01\x02\x00")
        assert await read_all(reader) == b""
        writer.close()


async def test_handshakes_that_never_end_keep_nobody_out(tmp_path):
    async with secured(tmp_path, handshakes=50, handshake_seconds=600.0) as (world, _):
        silent = []
        try:
            for _ in range(300):  # ours and the gateway's ends are open files of one process
                connection = socket.create_connection(("127.0.0.1", world.gateway.port))
                connection.settimeout(0)
                silent.append(connection)
                await asyncio.sleep(0)
            assert await ask(world) == 200
            # Those beyond the bound were dropped at once, the oldest first.
            await until(lambda: sum(map(is_closed, silent)) == 251)
            assert all(map(is_closed, silent[:251]))
        finally:
            for connection in silent:
                connection.close()


async def test_connections_that_stand_are_not_dropped_for_new_ones(tmp_path):
    async with secured(tmp_path, connections=3) as (world, _):
        standing = [await connect(world) for _ in range(3)]
        for reader, writer in standing:  # the server has seen the end of their handshakes, too
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"}]}")
        with pytest.raises((OSError, ssl.SSLError)):
            await connect(world)
        for reader, writer in standing:
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"compact" in await read_all(reader)
            writer.close()


def is_closed(connection):
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_a_request_in_the_packet_that_ends_the_handshake_is_answered(tmp_path):
    async with secured(tmp_path) as (world, _):
        for _ in range(20):
            reader, writer = await connect(world)
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"compact" in await read_all(reader)
            writer.close()


async def test_a_client_that_reads_nothing_is_cut_off(tmp_path):
    async with secured(tmp_path) as (world, _):
        worker = world.workers["w1"]
        worker.script = ["flood"]
        reader, writer = await connect(world, limit=1024)
        body = json.dumps({"model": "compact", "prompt": "x", "stream": True})
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body.encode())
        )
        assert b"200 OK" in await reader.readline()
        await until(world.request_lines)
        assert world.request_lines()[-1]["outcome"] == "slow_reader"
        writer.transport.abort()


async def test_the_program_with_keys_and_tls_serves_the_openai_client(tmp_path):
    tls = MountedFiles(tmp_path / "tls", **pair())
    keys = MountedFiles(tmp_path / "keys", team=entry_of("sk-team"))
    async with (
        FakeBackend("a") as backend,
        started(
            *("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--drain-delay", "0"),
            *("--backend", f"a={backend.url}"),
            *("--tls-dir", str(tls.path), "--api-keys-dir", str(keys.path)),
        ) as program,
    ):
        await until(lambda: program.find("backend serves") and program.find("listening"))
        url = f"https://127.0.0.1:{program.find('listening')['port']}/v1"
        async with (
            openai.DefaultAsyncHttpxClient(verify=trusting()) as http,
            openai.AsyncOpenAI(base_url=url, api_key="sk-team", http_client=http) as client,
        ):
            answer = await client.completions.create(model="compact", prompt="x")
            assert answer.choices[0].text == "a"
        program.process.terminate()
        assert await program.process.wait() == 0


async def test_the_program_says_what_is_wrong_with_the_pair(tmp_path):
    files = MountedFiles(tmp_path / "tls", tls__crt=b"x")
    async with started(
        *("--host", "127.0.0.1", "--port", "0", "--admin-port", "0"),
        *("--backend", "a=http://127.0.0.1:1", "--tls-dir", str(files.path)),
    ) as program:
        assert await program.process.wait() == 2
    reason = program.find("cannot start")["reason"]
    assert f"--tls-dir: cannot read {files.path / 'tls.key'}" in reason
    assert "put certificate chain and key there as tls.crt and tls.key" in reason
