"""Streams whose workers a cluster loses, by token: `kills.py` on the embedded cluster.

python benchmarks/gateway/cluster_kills.py --fault freeze --streams 200 --reference DIR

kill    SIGKILL to the process of the worker that has most streams
delete  its pod is deleted, and drains
freeze  its node hangs with all that runs on it, for --hang-seconds, and is released then
roll    all Deployments of the pool roll to new pods
"""

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kills import begin_streams, conclude, find_numerics, load_references, parse, report
from processes import read_requests
from striking import Striker

from sluice.cli.demo.play import kubectl
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.binaries.resolution import resolve_binaries
from sluice.devcluster.cluster import Cluster, start_cluster
from sluice.devcluster.shape import ClusterShape

POOL = "streams"
READY_SECONDS = 180.0
COUNTS = {"maia-200": (3, 4), "h100": (1, 2)}
"""Workers of each class, at least and at most."""
GATEWAYS = ("-n", "sluice-system", "-l", "app.kubernetes.io/name=sluice-gateway")
WORKER_PORT = 8000


def write_pool(options: argparse.Namespace) -> dict[str, Any]:
    """Return the pool. Patient: what is measured is what becomes of streams, not who is let in."""
    numerics = find_numerics(options)
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": POOL, "namespace": "default"},
        "spec": {
            "model": {
                "name": POOL,
                "source": {"path": "/models/compact"},
                "emulation": {"nominal": "llama-3.3-70b", "tokenScale": options.token_scale},
            },
            "slo": {"ttft": "30s", "tpot": "1s"},
            "variants": [
                {"acceleratorClass": name, "min": least, "max": most, "numerics": numerics[name]}
                for name, (least, most) in COUNTS.items()
            ],
        },
    }


def write_classes() -> list[dict[str, Any]]:
    """Return the samples' classes, with short times for what a run would only wait for."""
    classes = list(yaml.safe_load_all(Path("manifests/samples/classes.yaml").read_text()))
    for one in classes:
        one["spec"]["health"]["returnAfter"] = "5s"
        one["spec"]["emulation"]["timeCompression"] = 60
    return classes


class Pods:
    """The pool of one run on a cluster.

    Attributes:
        pods: Worker pods as last seen, by name.
    """

    def __init__(self, cluster: Cluster, programs: Binaries, options: argparse.Namespace) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self._cluster = cluster
        self._programs = programs
        self._options = options

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl and return what it printed."""
        return kubectl(self._cluster, self._programs, *arguments)

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply documents; their kinds may have to be established first."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump_all(documents, file)
            file.flush()
            self._insist("apply", "--server-side", "-f", file.name)

    def install(self) -> None:
        """Install Sluice with so many gateways, and the pool; wait until they serve."""
        self._insist("apply", "--server-side", "-k", "manifests/overlays/embedded")
        self.apply(*write_classes())
        count = self._options.gateways
        scale = ("scale", "deployment/sluice-gateway", f"--replicas={count}")
        self.kubectl("-n", "sluice-system", *scale)
        self.apply(write_pool(self._options))
        deadline = time.monotonic() + READY_SECONDS
        while len(self.list_gateways()) != count or not self._is_whole():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the pool does not serve after {READY_SECONDS:.0f} s")
            time.sleep(0.5)

    def _insist(self, *arguments: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.kubectl(*arguments)
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return

    def list_gateways(self) -> dict[str, str]:
        """Return the URLs of the gateways that are ready, by pod."""
        found = json.loads(self.kubectl("get", "pods", *GATEWAYS, "-o", "json"))["items"]
        return {
            pod["metadata"]["name"]: f"http://{pod['status']['podIP']}:8080"
            for pod in found
            if _is_ready(pod)
        }

    def read_logs(self) -> list[str]:
        """Return what the gateways have logged."""
        return [
            self.kubectl("-n", "sluice-system", "logs", name, "--tail=-1")
            for name in self.list_gateways()
        ]

    async def is_whole(self) -> bool:
        """Return whether all workers that are wanted serve, and no node is out."""
        return await asyncio.to_thread(self._is_whole)

    def _is_whole(self) -> bool:
        listed = self.kubectl("get", "pods", "-l", f"sluice.dev/pool={POOL}", "-o", "json")
        self.pods = {pod["metadata"]["name"]: pod for pod in json.loads(listed)["items"]}
        status = json.loads(self.kubectl("get", "ipool", POOL, "-o", "json")).get("status", {})
        serving = {
            one["acceleratorClass"]: one.get("serving", 0) for one in status.get("variants", ())
        }
        ready = sum(_is_ready(pod) for pod in self.pods.values())
        enough = all(serving.get(name, 0) >= least for name, (least, _) in COUNTS.items())
        return enough and ready == len(self.pods)

    async def find_struck(self, worker: str) -> frozenset[str]:
        """Return the worker itself, those on its node, or all."""
        if self._options.fault == "roll":
            return frozenset(self.pods)
        if self._options.fault != "freeze":
            return frozenset({worker})
        node = self.pods[worker]["spec"]["nodeName"]
        return frozenset(
            name for name, pod in self.pods.items() if pod["spec"].get("nodeName") == node
        )

    async def strike(self, worker: str) -> None:
        """Do the harm, and undo it if it does not end by itself."""
        await asyncio.to_thread(self._strike, worker)

    def _strike(self, worker: str) -> None:
        fault = self._options.fault
        if fault == "kill":
            end_process(self.pods[worker]["metadata"]["uid"])
        elif fault == "delete":
            self.kubectl("delete", "pod", worker, "--wait=false")
        elif fault == "roll":
            self.kubectl("rollout", "restart", "deployment", "-l", f"sluice.dev/pool={POOL}")
        else:
            node = self.pods[worker]["spec"]["nodeName"]
            self._cluster.act_on_node(node, "freeze")
            time.sleep(self._options.hang_seconds)
            self._cluster.act_on_node(node, "start")
            self.kubectl("annotate", "node", node, "sluice.dev/release=yes", "--overwrite")
        time.sleep(2)  # until it shows: a look at once would say that all is well

    def list_workers(self) -> dict[str, str]:
        """Return the URLs of the workers as last seen."""
        return {
            f"{name}/{_count_restarts(pod)}": f"http://{pod['status']['podIP']}:{WORKER_PORT}"
            for name, pod in self.pods.items()
            if pod.get("status", {}).get("podIP")
        }


def _count_restarts(pod: dict[str, Any]) -> int:
    statuses = pod["status"].get("containerStatuses", ())
    return sum(one.get("restartCount", 0) for one in statuses)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def end_process(uid: str) -> None:
    """Send SIGKILL to the worker of a pod: the uid is one of our cluster's, so it is ours."""
    for entry in Path("/proc").iterdir():
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # no process, ended meanwhile, or somebody else's
        if f"POD_UID={uid}".encode() in variables and b"sluice-worker" in command:
            os.kill(int(entry.name), signal.SIGKILL)


@contextmanager
def serve(options: argparse.Namespace) -> Iterator[Pods]:
    """Start a cluster with Sluice and the pool; stop it at the end."""
    programs = resolve_binaries()
    # Gateways stand on nodes of their own, as their manifest has it.
    shape = ClusterShape(maia=2, gpu=2, system=options.gateways)
    cluster = start_cluster("kills", shape=shape, binaries=programs)
    try:
        pods = Pods(cluster, programs, options)
        pods.install()
        yield pods
    finally:
        cluster.stop()


async def measure(options: argparse.Namespace, pods: Pods) -> dict[str, Any]:
    """Run the bench once; return its row."""
    references = load_references(options, find_numerics(options))
    began = time.monotonic()
    streams = begin_streams(options, list(pods.list_gateways().values()))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        striker = Striker(pods, streams, session, every=options.every)
        await striker.run(POOL)
    requests = read_requests(pods.read_logs())
    return conclude(options, references, streams, striker, requests, time.monotonic() - began)


def main() -> None:
    """Measure as the command line says."""
    options = parse(__doc__, ("kill", "delete", "freeze", "roll"))
    with serve(options) as pods:
        row = asyncio.run(measure(options, pods))
    report(row, options)


if __name__ == "__main__":
    main()
