"""What benchmarks share: a cluster with Sluice and the sample pool on it, and a load."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from sluice.cli.demo.fleet import Fleet
from sluice.cli.demo.load import Load
from sluice.cli.demo.play import (
    QUESTIONS,
    READY_SECONDS,
    answer_references,
    ask_undisturbed,
    find_gateway,
    install,
    kubectl,
)
from sluice.cli.demo.prompts import draw_requests, list_gaps, load_questions, load_trace
from sluice.cli.demo.reference import read_numerics
from sluice.cli.demo.story import Story
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.binaries.resolution import resolve_binaries
from sluice.devcluster.cluster import Cluster, start_cluster
from sluice.devcluster.images import find_models
from sluice.devcluster.shape import ClusterShape
from sluice.kube.client import KubeClient

TOKEN_SCALE = 96


@dataclass(frozen=True, slots=True)
class Running:
    """One cluster, what is seen of it, and the load on it.

    Attributes:
        numerics: what the workers of each class compute in.
    """

    cluster: Cluster
    programs: Binaries
    fleet: Fleet
    load: Load
    story: Story
    numerics: dict[str, str]

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl on the cluster and return what it printed."""
        return kubectl(self.cluster, self.programs, *arguments)


@contextmanager
def start_sluice(name: str, *, audit_log: bool = False) -> Iterator[tuple[Cluster, Binaries]]:
    """Start a cluster with Sluice and its samples, and stop it at the end."""
    programs = resolve_binaries()
    shape = ClusterShape(maia=2, gpu=2, system=1)
    cluster = start_cluster(name, shape=shape, binaries=programs, audit_log=audit_log)
    try:
        install(cluster, programs, time.monotonic() + READY_SECONDS)
        yield cluster, programs
    finally:
        cluster.stop()


@asynccontextmanager
async def send_load(cluster: Cluster, programs: Binaries) -> AsyncIterator[Running]:
    """Wait until the sample pool is ready, then send requests at `load.rate` (0 at first).

    Every question was asked once before, undisturbed and in the numerics of every class, so that
    wrong answers can be told.
    """
    client = KubeClient(str(cluster.kubeconfig))
    trace, models = load_trace(), find_models() or Path("workers/models")
    questions = load_questions(models, QUESTIONS)
    load = Load(
        None, "compact", questions, draw_requests(trace, questions, TOKEN_SCALE), list_gaps(trace)
    )
    try:
        async with aiohttp.ClientSession() as session:
            fleet = Fleet(client, session, "default", "chat")
            story = Story(fleet, load, cluster.act_on_node, _say)
            numerics = read_numerics(partial(kubectl, cluster, programs), "chat")
            running = Running(cluster, programs, fleet, load, story, numerics)
            await story.until(lambda v: v.conditions.get("Ready") == "True", READY_SECONDS)
            load.client = AsyncOpenAI(
                base_url=find_gateway(cluster, programs), api_key="none", max_retries=0
            )
            load.references = await answer_references(load, models, numerics, _say)
            await ask_undisturbed(load)
            sending = asyncio.create_task(load.run())
            try:
                yield running
            finally:
                load.rate = 0
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                await load.client.close()
                await fleet.close()
    finally:
        await client.close()


def _say(text: str) -> None:
    print(f"— {text}")


def write_json(file: Path | None, found: Any) -> None:
    """Write what was measured, if a file is wanted."""
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n")
