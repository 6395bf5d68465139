"""Connections that are kept for a next request."""

import asyncio
import socket
import threading
from contextlib import contextmanager, suppress

import aiohttp
import pytest

from sluice_gateway.reuse import CarefulConnector

RIGHT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
WRONG = RIGHT.replace(b"right", b"wrong")


@contextmanager
def answering(when_asked_to_spoil, spoil):
    """Yield the port of a server, in a thread, that answers, and once does something more."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection, suppress(ConnectionError):
            while connection.recv(4096):
                connection.sendall(RIGHT)
                if not spoiled.is_set():
                    when_asked_to_spoil.wait()
                    spoil(connection)
                    spoiled.set()

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    spoiled = threading.Event()
    threading.Thread(target=accept, daemon=True).start()
    with server:
        yield server.getsockname()[1], spoiled
        server.shutdown(socket.SHUT_RDWR)  # wakes who accepts


@pytest.mark.parametrize(
    "spoil",
    [lambda one: one.sendall(WRONG), lambda one: one.shutdown(socket.SHUT_WR)],
    ids=["answer", "end"],
)
async def test_what_lies_in_the_socket_unread_is_found(spoil):
    now = threading.Event()
    connector = CarefulConnector(limit=0, keepalive_timeout=30)
    with answering(now, spoil) as (port, spoiled):
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask():
                async with session.post(f"http://127.0.0.1:{port}/", data=b"x") as response:
                    return await response.read()

            assert await ask() == b"right"
            await asyncio.sleep(0)
            now.set()
            spoiled.wait()  # the loop stands still: it reads nothing before the next request
            assert await ask() == b"right"
