"""One run of the demo on a cluster that is up: install, calibrate, play the story, measure."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import click
from openai import AsyncOpenAI

from sluice.cli.demo.fleet import Fleet
from sluice.cli.demo.load import Load
from sluice.cli.demo.prompts import (
    draw_requests,
    list_gaps,
    load_questions,
    load_tale,
    load_trace,
)
from sluice.cli.demo.reference import (
    Answers,
    answer_questions,
    find_different,
    read_numerics,
)
from sluice.cli.demo.report import describe_run
from sluice.cli.demo.story import PREFERRED, Story
from sluice.cli.demo.survival import LONGEST_TALE, Tale, tell_survival
from sluice.cli.demo.table import show_progress
from sluice.cli.errors import CommandError
from sluice.cli.gateway import choose_address
from sluice.cli.route import ADMIN_PORT, fetch_record
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster
from sluice.kube.client import KubeClient
from sluice.model.names import ANNOTATION_RELEASE

QUESTIONS = 24
READY_SECONDS = 90.0
LAST_RATE = 1.0
LAST_SECONDS = 10.0


def kubectl(cluster: Cluster, programs: Binaries, *arguments: str) -> str:
    """Run kubectl on the cluster and return what it printed.

    Raises:
        CommandError: it failed; the message is its own.
    """
    done = subprocess.run(
        [str(programs.kubectl), "--kubeconfig", str(cluster.kubeconfig), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise CommandError(f"kubectl {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
    return done.stdout


def install(cluster: Cluster, programs: Binaries, deadline: float) -> None:
    """Apply Sluice, then the samples; give up at `deadline` (monotonic seconds).

    To be called in the main thread, where Ctrl-C ends it: a thread would be waited for.
    """
    _say("installing Sluice from manifests/overlays/embedded, then classes and a pool")
    for path in ("manifests/overlays/embedded", "manifests/samples"):
        _apply(cluster, programs, path, deadline)


def _apply(cluster: Cluster, programs: Binaries, path: str, deadline: float) -> None:
    """Apply a directory; custom resources may have to wait until their kinds are established."""
    while True:
        try:
            kubectl(cluster, programs, "apply", "--server-side", "-k", path)
        except CommandError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def find_gateway(cluster: Cluster, programs: Binaries) -> str:
    """Return the base URL of the gateway's API."""
    selector = ("-l", "app.kubernetes.io/name=sluice-gateway")
    found = kubectl(
        cluster, programs, "get", "pods", "-n", "sluice-system", "-o", "json", *selector
    )
    return f"{choose_address(json.loads(found)['items'])}/v1"


def release_node(cluster: Cluster, programs: Binaries, node: str) -> None:
    """Ask for a node's release, as `sluice node release` does."""
    kubectl(cluster, programs, "annotate", "node", node, f"{ANNOTATION_RELEASE}=yes", "--overwrite")


async def play(cluster: Cluster, programs: Binaries, models: Path) -> dict[str, Any]:
    """Play the whole story with what `install` has applied; return what was measured.

    Raises:
        CommandError: the story could not begin.
    """
    numerics = read_numerics(partial(kubectl, cluster, programs), "chat")
    client = KubeClient(str(cluster.kubeconfig))
    try:
        async with aiohttp.ClientSession() as session:
            fleet = Fleet(client, session, "default", "chat")
            load = _prepare_load(cluster, programs, models)
            release = partial(release_node, cluster, programs)
            story = Story(fleet, load, cluster.act_on_node, _say, release)
            try:
                load.references = await answer_references(load, models, numerics, _say)
                question = load_tale(models)
                told = await answer_questions(models, [question], numerics, LONGEST_TALE)
                address = await _calibrate(story, cluster, programs)
                admin = f"http://{urlsplit(address).hostname}:{ADMIN_PORT}"
                tale = Tale(load, question, told, partial(fetch_record, admin), _say)
                await _play_under_load(story, tale)
            finally:
                await fleet.close()
    finally:
        await client.close()
    log = kubectl(
        cluster, programs, "-n", "sluice-system", "logs", "deploy/sluice-gateway", "--tail=-1"
    )
    found = describe_run(story, load, fleet, numerics, log.splitlines())
    return found | {"survival": tale.describe()}


def _prepare_load(cluster: Cluster, programs: Binaries, models: Path) -> Load:
    questions, trace = load_questions(models, QUESTIONS), load_trace()
    spec = json.loads(kubectl(cluster, programs, "get", "ipool", "chat", "-o", "json"))["spec"]
    requests = draw_requests(trace, questions, spec["model"]["emulation"]["tokenScale"])
    return Load(None, spec["model"]["name"], questions, requests, list_gaps(trace))


async def answer_references(
    load: Load, models: Path, numerics: Mapping[str, str], say: Callable[[str], None]
) -> Mapping[str, Answers]:
    """Return what classes answer undisturbed to the load's questions, and tell how that is known.

    Args:
        load: whose questions.
        models: directory of the compact model's.
        numerics: of each class.
        say: is told.
    """
    told = ", ".join(f"{name} computes in {its}" for name, its in numerics.items())
    count = len(load.questions)
    say(
        f"{told}: a worker in each of them answers {count} questions here, undisturbed; what a"
        " class answers under load is held against its own"
    )
    answers = await answer_questions(models, load.questions, numerics)
    say(f"{len(find_different(answers))} of the {count} are answered differently by two classes")
    return answers


async def _calibrate(story: Story, cluster: Cluster, programs: Binaries) -> str:
    """Wait for the first worker, ask it every question undisturbed, return the gateway's URL.

    Raises:
        CommandError: it does not come, or see `ask_undisturbed`.
    """
    _say("waiting for the first worker")
    if not await story.until(lambda v: v.conditions.get("Ready") == "True", READY_SECONDS):
        view = story.fleet.view
        raise CommandError(f"The pool did not become ready: {view.reason}: {view.message}")
    address = find_gateway(cluster, programs)
    story.load.client = AsyncOpenAI(base_url=address, api_key="none", max_retries=0)
    _say("asking it the same questions undisturbed: all must be answered as here")
    await ask_undisturbed(story.load)
    return address


async def ask_undisturbed(load: Load) -> None:
    """Ask the pool every question once, with nothing else to do.

    Raises:
        CommandError: it does not answer, or something else than this machine does in the numerics
            of the class that answered.
    """
    asked = await load.ask_all()
    broken = [one.error for one in asked if one.error]
    if broken:
        raise CommandError(f"Calibration failed: {broken[0]}")
    odd = [one for one in asked if one.wrong or one.unjudged]
    if odd:
        raise CommandError(
            f"Calibration failed: {len(odd)} of {len(asked)} questions were answered otherwise than"
            f" on this machine, by {odd[0].accelerator or 'an unnamed class'}. Do its workers"
            " compute in what 'kubectl get ipool chat -o yaml' says, with the same weights?"
        )


async def _play_under_load(story: Story, tale: Tale) -> None:
    sending = asyncio.create_task(story.load.run())
    showing = asyncio.create_task(show_progress(story.fleet, story.load))
    try:
        await story.climb()
        await story.ease()
        await kill_under_a_tale(story, tale)
        await story.corrupt_and_catch()
        _say("lowering the load")
        story.load.rate = LAST_RATE
        await asyncio.sleep(LAST_SECONDS)
    finally:
        story.load.rate = 0.0
        sending.cancel()
        showing.cancel()
        await asyncio.gather(sending, showing, return_exceptions=True)
        await story.load.client.close()


async def kill_under_a_tale(story: Story, tale: Tale) -> None:
    """Kill the node of the worker that tells a story, and show how that goes on elsewhere."""
    telling = asyncio.create_task(tale.follow())
    telling.add_done_callback(lambda _: _say(tell_survival(tale.describe())))
    try:
        await tale.begun()
        await story.fleet.look()
        nodes = [name for name, pods in story.fleet.workers.items() if tale.worker in pods]
        preferred = tale.accelerator == PREFERRED
        await story.kill_and_return(node=nodes[0] if nodes and preferred else "")
        await telling
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


def _say(text: str) -> None:
    click.echo(f"— {text}", err=True)
