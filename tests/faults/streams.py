"""Streams through the gateway of a cluster, and worker processes that are ended under them."""

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tests.integration.story import LONG

PATH = "/v1/chat/completions"
PATIENCE = 120.0


@dataclass
class Told:
    """What a client of one stream was told.

    Attributes:
        tokens: Ids of the choice's tokens.
        finishes: The reasons why it ended; one, if all is well.
        ids: Ids of its events; one, if all is well.
        worker: Name of the pod that it began on.
        mark: What its last chunk tells of how it went on.
        error: The error event that ended it.
    """

    text: str = ""
    tokens: list = field(default_factory=list)
    finishes: list = field(default_factory=list)
    ids: set = field(default_factory=set)
    usages: list = field(default_factory=list)
    worker: str = ""
    mark: dict = field(default_factory=dict)
    error: dict = field(default_factory=dict)
    done: int = 0
    ended: bool = False

    def add(self, payload):
        """Take one event."""
        if payload == "[DONE]":
            self.done += 1
            return
        document = json.loads(payload)
        if "error" in document:
            self.error = document["error"]
            return
        self.ids.add(document["id"])
        self.mark |= document.get("sluice", {})
        self.usages += [document["usage"]] if document.get("usage") else []
        for choice in document["choices"]:
            self.text += choice["delta"].get("content", "")
            self.tokens += choice.get("token_ids", ())
            if choice["finish_reason"] is not None:
                self.finishes.append(choice["finish_reason"])


async def follow(session, url, model, number, told, *, tokens):
    """Read one stream; every other one is drawn at a temperature of 1."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"{LONG} {number}"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": number % 2,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    try:
        async with session.post(f"{url}{PATH}", json=body) as response:
            if response.status != 200:
                told.error = {"status": response.status, "said": await response.text()}
                return
            told.worker = response.headers.get("x-sluice-worker", "")
            rest = ""
            async for data in response.content.iter_any():
                *events, rest = (rest + data.decode()).split("\n\n")
                for event in events:
                    told.add(event.removeprefix("data: "))
    except aiohttp.ClientError as error:
        told.error = {"broken": repr(error)}
    finally:
        told.ended = True


async def run_streams(urls, model, numbers, *, strike=None, tokens=60):
    """Run streams side by side, over servers in turn; return what each was told, by number.

    `strike` is called with them once all have begun, and may end a worker.
    """
    found = {number: Told() for number in numbers}
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        tasks = [
            asyncio.create_task(
                follow(session, urls[number % len(urls)], model, number, told, tokens=tokens)
            )
            for number, told in found.items()
        ]
        if strike is not None:
            deadline = time.monotonic() + PATIENCE
            while any(len(told.tokens) < 10 and not told.ended for told in found.values()):
                assert time.monotonic() < deadline, "the streams did not begin"
                await asyncio.sleep(0.02)
            await asyncio.to_thread(strike, found)
        await asyncio.gather(*tasks)
    return found


def end_worker(sluice, pod, number=signal.SIGKILL):
    """Send a signal to the worker process of a pod of our cluster; return whether there is one."""
    uid = pod["metadata"]["uid"].encode()
    root = str(sluice.cluster.state.root).encode()
    hit = False
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile, or somebody else's
        ours = b"POD_UID=" + uid in variables.split(b"\0") and root in variables
        if ours and b"sluice-worker" in command:
            os.kill(int(entry.name), number)
            hit = True
    return hit
