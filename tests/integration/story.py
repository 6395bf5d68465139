"""What the integration tests do to Sluice and see of it, in a user's words."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import yaml

SLUICE = Path(sys.executable).parent / "sluice"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
HOLD_DOWN = 8.0
STEP = re.compile(r"^(\S+) (\d+) → (\d+):")


class Step(NamedTuple):
    """One change of a variant's count."""

    at: float
    accelerator_class: str
    before: int
    after: int
    reason: str


def wait_until(holds, what, seconds=PATIENCE):
    """Look until something holds; fail with what was seen last."""
    deadline = time.monotonic() + seconds
    while True:
        seen = holds()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.3)


def restrict(spec):
    """Give a pod's spec, in place, what Pod Security `restricted` asks for.

    The namespace `default` enforces it from the first test on that installs Sluice.
    """
    spec["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in spec["containers"]:
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    return spec


def make_pool(name, **over):
    """Return a pool with windows that a test can wait for."""
    spec = {
        "model": {
            "name": name,
            "source": {"path": "/models/compact"},
            "emulation": {"nominal": "llama-3.3-70b", "tokenScale": 96},
        },
        "slo": {"ttft": "2s", "tpot": "200ms"},
        "variants": [
            {"acceleratorClass": "maia-200", "min": 1, "max": 4},
            {"acceleratorClass": "h100", "min": 0, "max": 2},
        ],
        "autoscaling": {"stableWindow": "8s"},
        "shift": {"holdDown": f"{HOLD_DOWN:g}s", "ramp": {"steps": ["20%", "60%"], "dwell": "3s"}},
    } | over
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


@contextmanager
def serve_on_both_maia(sluice, gpu=0):
    """Serve the pool `chat` by three Maia workers, which stand on both nodes, and `gpu` others."""
    pool = make_pool("chat")
    pool["spec"]["variants"] = [
        {"acceleratorClass": "maia-200", "min": 3, "max": 4},
        {"acceleratorClass": "h100", "min": gpu, "max": 2},
    ]
    sluice.create(pool)
    wait_until(lambda: sluice.serving("chat", "maia-200") >= 3, "its workers serve")
    wait_until(lambda: sluice.serving("chat", "h100") >= gpu, "its GPU workers serve")
    wait_until(lambda: ask(sluice.gateway(), "chat")[0] == 200, "the gateway serves it")
    yield sluice
    sluice.delete_pool("chat")


class Sluice:
    """One installation on one cluster."""

    def __init__(self, cluster, binaries):
        self.cluster, self._kubectl = cluster, str(binaries.kubectl)

    def run(self, *arguments, stdin=None, check=True):
        """Run kubectl and return what it printed, or the error if it may fail."""
        done = subprocess.run(
            [self._kubectl, "--kubeconfig", str(self.cluster.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd=ROOT,
        )
        if check:
            assert done.returncode == 0, done.stderr
            return done.stdout
        return done.stdout + done.stderr

    def get(self, *arguments):
        """Return an object or a list as kubectl has it."""
        return json.loads(self.run("get", *arguments, "-o", "json"))

    def apply(self, path):
        """Apply a directory or a file of the repository."""
        flag = "-k" if (ROOT / path).is_dir() else "-f"
        wait_until(
            lambda: "forbidden" not in (said := self.try_apply(flag, path)) and "rror" not in said,
            f"{path} is applied",
        )

    def try_apply(self, flag, path):
        """Apply and return what kubectl said."""
        return self.run("apply", "--server-side", flag, path, check=False)

    def create(self, document, *, check=True):
        """Apply a document, or several; return what kubectl said."""
        documents = document if isinstance(document, list) else [document]
        return self.run(
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            "-",
            stdin=yaml.safe_dump_all(documents),
            check=check,
        )

    def apply_classes(self):
        """Apply the samples' classes, with short times where tests would only wait; say how."""
        documents = list(yaml.safe_load_all((ROOT / "manifests/samples/classes.yaml").read_text()))
        for document in documents:
            spec = document["spec"]
            spec["health"]["returnAfter"] = "5s"
            spec["health"]["knownAnswers"]["period"] = "3s"
            spec["emulation"]["timeCompression"] = 60
        return self.create(documents, check=False)

    def delete_pool(self, name):
        """Delete a pool and wait until its pods are gone."""
        self.run("delete", "ipool", name, "--ignore-not-found")
        wait_until(lambda: not self.workers(name), f"the workers of {name} are gone")

    def status(self, pool):
        """Return a pool's status."""
        return self.get("ipool", pool).get("status", {})

    def condition(self, pool, kind):
        """Return a condition's status."""
        found = {c["type"]: c for c in self.status(pool).get("conditions", ())}
        return found.get(kind, {}).get("status")

    def variant(self, pool, name):
        """Return a variant's status."""
        return next(
            (v for v in self.status(pool).get("variants", ()) if v["acceleratorClass"] == name), {}
        )

    def serving(self, pool, name):
        """Return how many workers of a variant serve."""
        return self.variant(pool, name).get("serving", 0)

    def wanted(self, pool, name):
        """Return how many workers of a variant are wanted."""
        return self.variant(pool, name).get("wanted", 0)

    def share(self, pool, name):
        """Return a variant's share in percent."""
        return int(self.variant(pool, name).get("share", "0%").rstrip("%"))

    def workers(self, pool):
        """Return the pool's worker pods."""
        return self.get("pods", "-l", f"sluice.dev/pool={pool}")["items"]

    def events(self, pool, reason):
        """Return the messages of a pool's Events of one reason."""
        items = self.get("events")["items"]
        return [
            e["message"]
            for e in items
            if e["involvedObject"]["name"] == pool and e["reason"] == reason
        ]

    def steps(self, pool):
        """Return the pool's scaling steps, oldest first, as its Events tell them."""
        actions = {"ScaleUp", "ScaleDown", "Spill", "FallBack"}
        found = []
        for event in self.get("events")["items"]:
            told = STEP.match(event["message"])
            if event["involvedObject"]["name"] == pool and event["reason"] in actions and told:
                at = datetime.fromisoformat(event["firstTimestamp"]).timestamp()
                before, after = int(told[2]), int(told[3])
                found.append(Step(at, told[1], before, after, event["message"]))
        return sorted(found)

    def gateway(self):
        """Return the gateway's URL."""
        pods = self.get(
            "-n", "sluice-system", "pods", "-l", "app.kubernetes.io/name=sluice-gateway"
        )
        return f"http://{pods['items'][0]['status']['podIP']}:8080"

    def replay(self, file, *options):
        """Save the operators' last passes and go over them, as a person would; return the JSON."""
        self._sluice("recording", file, "--name", self.cluster.state.root.name)
        return self._sluice("replay", file, *options)

    def explain(self, target, *options):
        """Return the story of a pool or a node as `sluice explain` tells it, as JSON."""
        return self._sluice("explain", target, *options, "--name", self.cluster.state.root.name)

    def _sluice(self, *arguments):
        """Run `sluice` as a person would whose clusters are those of the tests; return the JSON."""
        environment = {**os.environ, "XDG_STATE_HOME": str(self.cluster.state.root.parents[2])}
        environment.pop("KUBECONFIG", None)
        done = subprocess.run(
            [str(SLUICE), *map(str, arguments), "--output", "json"],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        return json.loads(done.stdout)

    def make_key(self, name, *options):
        """Make an API key, as a person would; return the key and its entry for the Secret."""
        made = self._sluice("gateway", "key", "create", name, *options)
        return made["key"], made["entry"]

    def release(self, node):
        """Have a node's flaps forgotten, as a person would, and wait until Sluice has done it.

        A node that is started anew while it is being released has failed once more: it comes back
        by itself, and is released again for that.
        """
        ask = ("annotate", "node", node, "sluice.dev/release=yes", "--overwrite")
        self.run(*ask)

        def is_forgotten():
            found = self.annotations(node)
            mark = json.loads(found.get("sluice.dev/health", "{}"))
            if mark.get("state") == "Healthy" and "sluice.dev/release" not in found:
                self.run(*ask)
            return not mark and "sluice.dev/release" not in found

        wait_until(is_forgotten, f"{node} bears no mark")

    def annotations(self, node):
        """Return a node's annotations."""
        return self.get("node", node)["metadata"].get("annotations", {})

    def tainted(self):
        """Return the nodes that carry our taint."""
        return {
            node["metadata"]["name"]
            for node in self.get("nodes")["items"]
            if any(t["key"] == "sluice.dev/quarantine" for t in node["spec"].get("taints", ()))
        }


def ask(url, model, prompt="Sort 31 17 12.", max_tokens=8, timeout=60):
    """Send one chat, not streamed; return (HTTP status, answer)."""
    return ask_somebody(url, model, prompt, max_tokens, timeout)[:2]


def ask_somebody(url, model, prompt, max_tokens, timeout):
    """Send one chat, not streamed; return (HTTP status, answer, class that answered)."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = urllib.request.Request(  # noqa: S310  # our own gateway on loopback
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            by = response.headers.get("x-sluice-class", "")
            return response.status, json.loads(response.read()), by
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}"), ""


LONG = "copy with a for b: " + " ".join(f"wo{i}rd" for i in range(22))


class Load:
    """Requests at a steady rate from threads, until the block ends; bounded in count.

    `answers` has what was answered, by the class that answered.
    """

    def __init__(self, url, model, rate, most=1500, tokens=40):
        self.url, self.model, self.rate, self._most = url, model, rate, most
        self._tokens = tokens
        self.answers, self.failures, self._threads = {}, [], []
        self._stop = threading.Event()

    def __enter__(self):
        self._pump = threading.Thread(target=self._run, daemon=True)
        self._pump.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._pump.join()
        for thread in self._threads:
            thread.join(timeout=90)

    @property
    def lost(self):
        """Return the failures but those that were shed: 429 says that all were busy."""
        return [failure for failure in self.failures if not failure.startswith("429 ")]

    @property
    def unequal(self):
        """Return the classes that gave the same question different answers.

        Two classes may answer differently: they compute in numerics of their own.
        """
        return {by: set(given) for by, given in self.answers.items() if len(set(given)) > 1}

    def _run(self):
        for _ in range(self._most):
            if self._stop.wait(1 / self.rate):
                return
            thread = threading.Thread(target=self._ask, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _ask(self):
        try:
            status, body, by = ask_somebody(self.url, self.model, LONG, self._tokens, timeout=90)
        except OSError as error:
            self.failures.append(repr(error))
            return
        if status == 200:
            given = body["choices"][0]["message"]["content"]
            self.answers.setdefault(by, []).append(given)
        else:
            self.failures.append(f"{status} {body}")
