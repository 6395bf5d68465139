"""The story that is told again and again: a pool is made, a Maia node dies, and comes back.

One run makes the pool, kills a node, waits for the fallback, heals the node and waits for the
return; the operator may be killed on the way. What a run ends in, and what it did on the way, is
compared with a run in which nobody killed anything.
"""

import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import yaml
from tests.integration.story import ROOT, Sluice, ask, make_pool, wait_until

from .process import OperatorProcess
from .proxy import FaultProxy
from .writes import MARK, PROBE, Moment, Phase, Write, is_tainted

POOL = "chat"
PREFERRED, OTHER = "maia-200", "h100"
RETURN_AFTER = 3.0
WINDOW = "2s"
QUIET = 1.5
"""Seconds without a write after which a run is over; passes come every half second."""

ENOUGH_PASSES = 3
"""Passes that an operator must have made, since it was last started, before a phase is over."""

ACCOUNT = "system:serviceaccount:sluice-system:sluice-operator"
REPLICA_SETS = "system:serviceaccount:kube-system:replicaset-controller"

Point = tuple[Phase, str, int]
"""A write to be killed at: phase, key, occurrence."""

SETTINGS = {"workerImage": "sluice-worker:0.1.0", "signalWindow": "5s", "fastTick": "500ms"}


@dataclass(slots=True)
class Outcome:
    """What a run ended in, and what happened on the way.

    Attributes:
        before: the state before the harm, without what depends on chance or time.
        final: the same at the end.
        course: what was done on the way, in a form that two runs can be compared by.
        writes: every write, in order.
        log: of the operator.
        audited: how often the API server logged a write of the operator, by (verb, resource).
        problems: what must not happen in any run; sentences.
    """

    before: Mapping[str, object] = field(default_factory=dict)
    final: Mapping[str, object] = field(default_factory=dict)
    course: Mapping[str, object] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    log: str = ""
    audited: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def kills(self) -> list[tuple[Point, Moment]]:
        """Return where the operator was killed."""
        return [
            ((write.phase, write.key, write.occurrence), write.killed)
            for write in self.writes
            if write.killed
        ]

    @property
    def story(self) -> str:
        """Return what was written, for whoever looks for a cause."""
        return "\n".join([*map(str, self.writes), f"the operator's log: {self.log}"])

    def keys(self, phase: Phase) -> set[str]:
        """Return the keys of the writes in a phase."""
        return {write.key for write in self.writes if write.phase is phase}


Kills = Mapping[Point, Moment] | Callable[[Write, Moment], bool]
"""Where to kill: a plan by point, or something that decides as it goes."""


def load_classes() -> list[dict]:
    """Return the samples' classes with one worker a Maia node and windows to wait for."""
    classes = list(yaml.safe_load_all((ROOT / "manifests/samples/classes.yaml").read_text()))
    for document in classes:
        spec = document["spec"]
        spec["devicesPerWorker"] = 2
        spec["health"]["returnAfter"] = f"{RETURN_AFTER:g}s"
        spec["health"]["liveness"] = {"period": "1s", "timeout": "900ms", "failures": 3}
        spec["emulation"]["timeCompression"] = 60
    return classes


def make_document() -> dict:
    """Return a pool that holds a worker on every Maia node, and needs one GPU when one is lost."""
    return make_pool(
        POOL,
        variants=[
            {"acceleratorClass": PREFERRED, "min": 2, "max": 2},
            {"acceleratorClass": OTHER, "min": 0, "max": 1},
        ],
        autoscaling={"stableWindow": WINDOW},
        shift={"holdDown": WINDOW, "ramp": {"steps": ["50%"], "dwell": "1s"}},
    )


class Stage:
    """Cluster, proxy and operator, on which runs are played one after the other."""

    def __init__(self, sluice: Sluice, proxy: FaultProxy, operator: OperatorProcess) -> None:
        self.sluice, self.proxy, self.operator = sluice, proxy, operator

    def play(self, kills: Kills) -> Outcome:
        """Tell the story once, killing the operator where asked."""
        outcome = Outcome()
        decide = kills if callable(kills) else _follow(kills)

        def strike(write: Write, moment: Moment) -> bool:
            if not decide(write, moment):
                return False
            self.operator.kill()
            write.killed = moment
            return True

        self.proxy.begin(strike)
        begun = self.sluice.cluster.state.audit_log.stat().st_size
        self.operator.start()
        try:
            self._tell(outcome)
        finally:
            self.operator.stop()
            self._clear()
        outcome.writes, outcome.log = list(self.proxy.writes), str(self.operator.log)
        self._audit(outcome, begun)
        return outcome

    def _tell(self, outcome: Outcome) -> None:
        sluice, proxy = self.sluice, self.proxy
        sluice.create(make_document())
        self._settle("the pool is made", self._is_whole)
        outcome.before = self._observe()
        victim = min(sluice.workers(POOL), key=lambda pod: pod["spec"]["nodeName"])
        node, name = victim["spec"]["nodeName"], victim["metadata"]["name"]
        proxy.phase = Phase.FALL_BACK
        sluice.cluster.act_on_node(node, "kill")
        self._settle("it has fallen back", lambda: self._is_fallen_back(node, name))
        proxy.phase = Phase.RETURN
        healed = time.monotonic()
        sluice.cluster.act_on_node(node, "start")
        self._settle("it is back", lambda: self._is_whole() and not sluice.tainted())
        outcome.final = self._observe()
        status, said = ask(sluice.gateway(), POOL)
        if status != 200:
            outcome.problems.append(f"the gateway answers {status} {said}")
        outcome.course, problems = follow_course(proxy.writes, node, healed)
        outcome.problems += problems
        if self.operator.deaths:
            outcome.problems.append(
                f"the operator ended by itself: exit codes {self.operator.deaths}; its log:"
                f" {self.operator.log}"
            )
        self._doomed = name

    def _settle(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something holds, the operator is up, and nothing is written any more."""

        def is_settled() -> bool:
            if not holds() or self.operator.count_passes() < ENOUGH_PASSES:
                return False
            seen, starts = len(self.proxy.writes), self.operator.starts
            time.sleep(QUIET)
            calm = (len(self.proxy.writes), self.operator.starts) == (seen, starts)
            return calm and holds()

        try:
            wait_until(is_settled, what, seconds=90)
        except AssertionError as error:
            told = "\n".join(map(str, self.proxy.writes[-30:]))
            log = "\n".join(self.operator.log.read_text(errors="replace").splitlines()[-40:])
            raise AssertionError(
                f"{error}; status: {json.dumps(self.sluice.status(POOL))}\n"
                f"the last writes:\n{told}\nthe operator's log:\n{log}"
            ) from error

    def _is_whole(self) -> bool:
        status = self.sluice.status(POOL)
        variants = {v["acceleratorClass"]: v for v in status.get("variants", ())}
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        return (
            [(v["wanted"], v["serving"], v["ready"]) for v in variants.values()]
            == [(2, 2, 2), (0, 0, 0)]
            and conditions["FallbackActive"] == conditions["Progressing"] == "False"
            and len(self.sluice.workers(POOL)) == 2
        )

    def _is_fallen_back(self, node: str, doomed: str) -> bool:
        status = self.sluice.status(POOL)
        variants = {v["acceleratorClass"]: v for v in status["variants"]}
        conditions = {c["type"]: c["status"] for c in status["conditions"]}
        pods = {p["metadata"]["name"]: p["metadata"] for p in self.sluice.workers(POOL)}
        return (
            self.sluice.tainted() == {node}
            and conditions["FallbackActive"] == "True"
            and variants[OTHER]["serving"] == 1
            and ("deletionTimestamp" in pods[doomed] if doomed in pods else True)
        )

    def _observe(self) -> dict[str, object]:
        """Return the final state, without names, times and words that differ from run to run."""
        get = self.sluice.get
        status = self.sluice.status(POOL)
        shown = ("acceleratorClass", "wanted", "ready", "serving", "share", "quarantined", "ramp")
        deployments = get("deployments")["items"]
        pods = [pod for pod in get("pods", "-A")["items"] if not _belongs_to_gateway(pod)]
        return {
            "nodes": {n["metadata"]["name"]: _describe_node(n) for n in get("nodes")["items"]},
            "deployments": {
                d["metadata"]["name"]: (d["spec"]["replicas"], d["status"].get("readyReplicas", 0))
                for d in deployments
            },
            "pods": Counter(_describe_pod(pod) for pod in pods),
            "children": sorted(
                f"{item['kind']} {item['metadata']['name']}"
                for item in get("services,pdb", "-l", f"sluice.dev/pool={POOL}")["items"]
            ),
            "variants": [{k: v[k] for k in shown if k in v} for v in status["variants"]],
            "conditions": {
                c["type"]: (c["status"], c["reason"])
                for c in status["conditions"]
                if c["type"] != "SLOMet"  # whether a request ended in the window
            },
        }

    def _audit(self, outcome: Outcome, begun: int) -> None:
        """Hold what was done against the API server's own log of it."""
        doomed = getattr(self, "_doomed", "")
        removed: Counter[str] = Counter()
        made = 0
        for event in self._read_audit(begun):
            user, verb = event["user"].get("username"), event["verb"]
            ref, code = event.get("objectRef") or {}, event.get("responseStatus", {}).get("code", 0)
            resource = "/".join(filter(None, (ref.get("resource"), ref.get("subresource"))))
            if (user, verb, resource, code) == (REPLICA_SETS, "create", "pods", 201):
                made += 1
            if user != ACCOUNT or verb not in ("create", "update", "patch", "delete"):
                continue
            if resource == "leases":
                continue
            outcome.audited[verb, resource] += 1
            if (verb, resource) == ("delete", "pods") and code == 200:
                removed[ref["name"]] += 1
        workers = {name: n for name, n in removed.items() if not name.startswith(PROBE)}
        if workers != {doomed: 1}:
            outcome.problems.append(f"deleted {workers}, and was to delete {doomed} once")
        outcome.course = {**outcome.course, "pods made": made}

    def _read_audit(self, begun: int) -> Iterator[dict]:
        with self.sluice.cluster.state.audit_log.open("rb") as log:
            log.seek(begun)
            for line in log:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def _clear(self) -> None:
        """Put everything back, without the operator."""
        sluice = self.sluice
        for agent in sluice.cluster.read_status()["nodes"]:
            if agent["state"] != "running":
                sluice.cluster.act_on_node(agent["name"], "start")
        for node in sluice.get("nodes")["items"]:
            name = node["metadata"]["name"]
            sluice.run("annotate", "node", name, f"{MARK}-", check=False)
            if is_tainted(node):
                sluice.run("taint", "node", name, "sluice.dev/quarantine-", check=False)
        sluice.delete_pool(POOL)
        sluice.run("-n", "sluice-system", "delete", "pods", "-l", f"app.kubernetes.io/name={PROBE}")
        wait_until(
            lambda: all(_is_ready(node) for node in sluice.get("nodes")["items"]),
            "every node is ready",
        )


def _follow(plan: Mapping[Point, Moment]) -> Callable[[Write, Moment], bool]:
    def decide(write: Write, moment: Moment) -> bool:
        return plan.get((write.phase, write.key, write.occurrence)) is moment

    return decide


def follow_course(
    writes: list[Write], node: str, healed: float
) -> tuple[dict[str, object], list[str]]:
    """Return what was done on the way, and what must not have been.

    A count that goes up and down once in a run without kills may not do so twice in one with them.
    """
    committed = [write for write in writes if write.committed]
    patched = [write for write in committed if write.resource == "nodes"]
    problems = [
        f"{write.name} was patched, and only {node} had failed"
        for write in patched
        if write.name != node
    ]
    tainted = [(is_tainted(write.answer), write.at) for write in patched if write.name == node]
    changes = [state for state, _ in itertools.groupby(state for state, _ in tainted)]
    if changes != [True, False]:
        problems.append(
            f"{node} was to go out once and come back once, and its taint went {changes}"
        )
    released = min((at for state, at in tainted if not state), default=healed + RETURN_AFTER)
    if released - healed < RETURN_AFTER:
        problems.append(
            f"{node} was released {released - healed:.1f} s after it was healed; returnAfter is"
            f" {RETURN_AFTER:g} s"
        )
    replicas: dict[str, list[int]] = {}
    for write in committed:
        if write.resource == "deployments" and write.verb == "patch":
            replicas.setdefault(write.name, []).append(write.answer["spec"]["replicas"])
    conditions = [
        condition["status"]
        for write in committed
        if write.resource == "inferencepools/status"
        for condition in write.answer["status"]["conditions"]
        if condition["type"] == "FallbackActive"
    ]
    return {
        "FallbackActive": [state for state, _ in itertools.groupby(conditions)],
        "replicas": {
            name: [count for count, _ in itertools.groupby(counts)]
            for name, counts in sorted(replicas.items())
        },
    }, problems


def _describe_node(node: dict) -> dict[str, object]:
    mark = json.loads(node["metadata"].get("annotations", {}).get(MARK, "null"))
    return {
        "tainted": is_tainted(node),
        "ready": _is_ready(node),
        "mark": mark and (mark["state"], len(mark.get("outs", ()))),
    }


def _describe_pod(pod: dict) -> tuple[str, str, bool]:
    labels = pod["metadata"].get("labels", {})
    what = labels.get("sluice.dev/accelerator-class", labels.get("app.kubernetes.io/name", "?"))
    return what, pod["status"].get("phase", ""), "deletionTimestamp" in pod["metadata"]


def _belongs_to_gateway(pod: dict) -> bool:
    return pod["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "sluice-gateway"


def _is_ready(node: dict) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
