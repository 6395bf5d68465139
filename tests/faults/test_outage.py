"""The API server of a real cluster is away: serving goes on, and nobody restarts anything after.

Every answer, of streams and in one piece, is compared with what was answered before.
"""

import asyncio
import itertools
import json
import signal
import sys
import threading
import time
from collections import Counter

import aiohttp
import pytest
from tests.integration.story import LONG, make_pool, wait_until

from .streams import PATH, PATIENCE, Told, end_worker, follow, run_streams

POOL = "outage"
PINNED = "fp8-block"
"""What both classes compute in, so that each gives the same answers."""
KINDS = 6
TOKENS = 40
PERIOD = 0.5
"""Seconds between two requests: a modest load, which is never too much for those that are left."""
API_SERVER = "kube-apiserver"


class Traffic:
    """Requests at a steady rate from a thread of its own; every other one streams.

    Attributes:
        asked: How many were sent.
        lost: What became of those that got no whole answer.
        wrong: Numbers of those whose answer was another than before.
        served: When which worker gave a whole answer: (monotonic seconds, pod).
    """

    def __init__(self, url, expected):
        self._url, self._expected = url, expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.asked, self.lost, self.wrong, self.served = 0, [], [], []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(PATIENCE)

    def served_by(self, since):
        """Return who has answered since then."""
        return {pod for at, pod in list(self.served) if at >= since}

    @property
    def longest_gap(self):
        """Return the longest time in seconds without a whole answer."""
        times = sorted(at for at, _ in list(self.served))
        return max(later - sooner for sooner, later in itertools.pairwise(times))

    async def _run(self):
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            while not self._stop.is_set():
                ask = self._stream if self.asked % 2 else self._ask
                group.create_task(ask(session, self.asked // 2 % KINDS))
                self.asked += 1
                await asyncio.sleep(PERIOD)

    async def _stream(self, session, number):
        told = Told()
        await follow(session, self._url, POOL, number, told, tokens=TOKENS)
        if told.error or told.done != 1:
            self.lost.append(told.error or "no end")
        else:
            self._compare(number, told.text, told.worker)

    async def _ask(self, session, number):
        body = {
            "model": POOL,
            "messages": [{"role": "user", "content": f"{LONG} {number}"}],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "temperature": number % 2,
            "seed": number,
        }
        try:
            async with session.post(f"{self._url}{PATH}", json=body) as response:
                answer = await response.json()
                if response.status != 200:
                    self.lost.append(f"{response.status} {answer}")
                    return
                text = answer["choices"][0]["message"]["content"]
                self._compare(number, text, response.headers["x-sluice-worker"])
        except (aiohttp.ClientError, TimeoutError) as error:
            self.lost.append(repr(error))

    def _compare(self, number, text, worker):
        self.served.append((time.monotonic(), worker))
        if text != self._expected[number].text:
            self.wrong.append(number)


@pytest.fixture
def pool(sluice):
    """Serve a pool on both classes, in one numerics."""
    document = make_pool(
        POOL,
        variants=[
            {"acceleratorClass": "maia-200", "min": 3, "max": 4, "numerics": PINNED},
            {"acceleratorClass": "h100", "min": 1, "max": 2, "numerics": PINNED},
        ],
        slo={"ttft": "30s", "tpot": "1s"},
    )
    sluice.create(document)
    try:
        wait_until(lambda: sluice.serving(POOL, "maia-200") >= 3, "its Maia workers serve")
        wait_until(lambda: sluice.serving(POOL, "h100") >= 1, "its GPU worker serves")
        yield document
    finally:
        try:
            restore(sluice)
        finally:
            sluice.delete_pool(POOL)


def restore(sluice):
    """Bring back the API server and the nodes, whatever the test came to."""
    status = sluice.cluster.read_status()
    if any(one["name"] == API_SERVER and one["state"] != "running" for one in status["components"]):
        sluice.cluster.act_on_component(API_SERVER, "start")
    for node in status["nodes"]:
        if node["state"] != "running":
            sluice.cluster.act_on_node(node["name"], "start")
    wait_until(lambda: answers(sluice), "the API server answers")
    for node in [one["metadata"]["name"] for one in sluice.get("nodes")["items"]]:
        if "sluice.dev/health" in sluice.annotations(node):
            sluice.release(node)


def answers(sluice):
    """Return whether the API server answers at all."""
    return sluice.run("get", "--raw", "/readyz", "--request-timeout=3s", check=False) == "ok"


def identify_own(sluice):
    """Return the containers of gateway and operator, by pod, with how often each was begun."""
    pods = sluice.get("-n", "sluice-system", "pods")["items"]
    return {
        pod["metadata"]["name"]: [
            (one["containerID"], one["restartCount"]) for one in pod["status"]["containerStatuses"]
        ]
        for pod in pods
    }


def choose_victims(sluice):
    """Return a Maia worker to end, and a node with one Maia worker, another one, to end."""
    workers = [
        pod
        for pod in sluice.workers(POOL)
        if pod["metadata"]["labels"]["sluice.dev/accelerator-class"] == "maia-200"
    ]
    counts = Counter(pod["spec"]["nodeName"] for pod in workers)
    lonely = min(counts, key=counts.__getitem__)
    return next(pod for pod in workers if pod["spec"]["nodeName"] != lonely), lonely


@pytest.mark.parametrize(
    ("action", "seconds"), [("freeze", 60), pytest.param("kill", 600, marks=pytest.mark.full)]
)
def test_serving_goes_on_without_the_api_server(sluice, pool, action, seconds):
    url = sluice.gateway()
    expected = asyncio.run(run_streams([url], POOL, range(KINDS), tokens=TOKENS))
    assert [told.error for told in expected.values() if told.error] == []
    begun = identify_own(sluice)
    victim, node = choose_victims(sluice)
    name = victim["metadata"]["name"]
    doomed = {
        pod["metadata"]["name"] for pod in sluice.workers(POOL) if pod["spec"]["nodeName"] == node
    }
    with Traffic(url, expected) as traffic:
        wait_until(lambda: name in traffic.served_by(0), "the worker serves")
        gone = time.monotonic()
        sluice.cluster.act_on_component(API_SERVER, action)
        time.sleep(seconds / 6)
        assert end_worker(sluice, victim, signal.SIGKILL)
        killed = time.monotonic()
        # Its node's agent begins the container anew, and asks nobody for that.
        wait_until(lambda: name in traffic.served_by(killed + 1), "it serves again", seconds / 3)
        sluice.cluster.act_on_node(node, "kill")
        time.sleep(max(1.0, gone + seconds - time.monotonic()))
        assert not traffic.served_by(time.monotonic() - seconds / 6) & doomed, "the dead serve"
        sluice.cluster.act_on_component(API_SERVER, "start")
        back = time.monotonic()
        # As many as before serve, the dead node's worker is replaced by one of the other class.
        wait_until(lambda: answers(sluice), "the API server answers")
        pool["spec"]["variants"][1]["min"] = 2
        sluice.create(pool)
        wait_until(lambda: node in sluice.tainted(), "the dead node is out")
        wait_until(lambda: sluice.serving(POOL, "h100") >= 2, "it has scaled up")
        wait_until(lambda: sluice.serving(POOL, "maia-200") >= 2, "the others serve")
        recovered = time.monotonic()
    figures = {
        "away": round(back - gone, 1),
        "requests": traffic.asked,
        "lost": len(traffic.lost),
        "wrong": len(traffic.wrong),
        "longest gap": round(traffic.longest_gap, 2),
        "from return to recovery": round(recovered - back, 1),
    }
    sys.stdout.write(f"{json.dumps(figures)}\n")
    assert traffic.lost == []
    assert traffic.wrong == []
    assert len(traffic.served) == traffic.asked
    assert identify_own(sluice) == begun
