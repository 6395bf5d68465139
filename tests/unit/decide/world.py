"""A small world for planner tests: does at once what a cluster would do in seconds.

`World.step` takes a snapshot of itself, calls the real planner and applies the plan: Deployments
get their replicas, pods find devices and become ready after a start-up, deleted pods go away.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec
from sluice.decide.limits import PROOF_ROUNDS
from sluice.decide.planner import plan
from sluice.model.keys import PoolKey
from sluice.model.memory import Memory
from sluice.model.names import probation_name, slot_name
from sluice.model.plan import EndProbation, QuarantineNode, ReleaseNode, StartProbation
from sluice.model.snapshot import (
    Deployment,
    KnownAnswers,
    Node,
    NodeCondition,
    NodeMark,
    NodeReady,
    PairSignals,
    ParitySignals,
    Pool,
    ProbationPod,
    Probe,
    Snapshot,
    Worker,
)

from .samples import CLASSES, pool_spec
from .traffic import measure_pool, measure_worker


@dataclass
class World:
    """Two maia and two gpu nodes with two devices each, one pool, one gateway."""

    specs: dict[str, InferencePoolSpec] = field(default_factory=lambda: {"chat": pool_spec()})
    rate: dict[str, float] = field(default_factory=dict)
    now: float = 1_000_000.0
    tick: float = 2.0
    startup: float = 4.0
    gateway: bool = True
    observer_ok: bool = True
    deaf: bool = False
    vanished: str = ""
    unreadable: dict[str, str] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    mute: set[str] = field(default_factory=set)
    lingering: set[str] = field(default_factory=set)
    unlabelled: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    banned: dict[str, str] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    compared: dict[str, ParitySignals] = field(default_factory=dict)
    pairs: list[PairSignals] = field(default_factory=list)
    unasked: str = ""
    frozen_leases: bool = False
    lease_lag: float = 10.0
    gone_devices: set[str] = field(default_factory=set)
    classes: dict[str, AcceleratorClassSpec] = field(default_factory=lambda: dict(CLASSES))
    memory: Memory = field(default_factory=Memory)
    status: dict[str, dict] = field(default_factory=dict)
    history: list = field(default_factory=list)

    def __post_init__(self):
        self.nodes = {f"{kind}-{i}": kind for kind in ("maia", "gpu") for i in range(2)}
        self.marks: dict[str, NodeMark] = {}
        self.returned: dict[str, NodeMark] = {}
        self.release: set[str] = set()
        self.replicas: dict[tuple[str, str], int] = {}
        self.workers: dict[str, Worker] = {}
        self.misses: dict[str, int] = {}
        self.leases: dict[str, float] = dict.fromkeys(self.nodes, self.now)
        self.boots: dict[str, int] = dict.fromkeys(self.nodes, 1)
        self.down: set[str] = set()
        self.probations: dict[str, ProbationPod] = {}
        self.probation_waiting = ""
        self.born = 0

    def run(self, seconds):
        """Step until `seconds` have gone by; return the last plan."""
        end = self.now + seconds
        while self.now < end:
            self.step()
        return self.plan

    def step(self):
        """Let one tick pass."""
        self.now += self.tick
        self._advance_pods()
        self.seen, self.before = self.snapshot(), self.memory
        self.plan, self.memory = plan(self.seen, self.before)
        self.history.append((self.now, self.plan))
        self._apply()

    def kill_for(self, node, seconds):
        """Let a node be dead for a while, and alive again."""
        self.dead = {node}
        self.run(seconds)
        self.dead = set()

    def restart_operator(self):
        """Forget everything that is not durable, as a new process does."""
        for key, remembered in self.memory.pools.items():
            self.status[key.name] = record(remembered) | {
                "variants": [{"quarantined": self.quarantined(key.name)}]
            }
        self.memory = Memory()

    def snapshot(self):
        """Return what an observer would see now."""
        return Snapshot(
            at=self.now,
            pools=tuple(self._pool(name) for name in self.specs),
            classes=self.classes,
            nodes=tuple(self._node(name) for name in self.nodes if self.vanished != "labels"),
            unreadable=self.unreadable,
            observer_ok=self.observer_ok,
            gateways=int(self.gateway),
            probations=tuple(self.probations.values()),
        )

    def wanted(self, pool="chat"):
        """Return the wanted workers of the last plan, by class."""
        planned = self.plan.pools[PoolKey("default", pool)]
        return {v.accelerator_class: v.wanted for v in planned.variants}

    def shares(self, pool="chat"):
        """Return the shares of the last plan, by class."""
        planned = self.plan.pools[PoolKey("default", pool)]
        return {v.accelerator_class: v.share for v in planned.variants}

    def chat(self):
        """Return the last plan of the pool named chat."""
        return self.plan.pools[PoolKey("default", "chat")]

    def quarantined(self, pool="chat"):
        """Return the pods that get no traffic by the last plan."""
        planned = self.plan.pools[PoolKey("default", pool)]
        return [name for v in planned.variants for name in v.quarantined]

    def told(self, action):
        """Return the reasons of all decisions of one kind, oldest first."""
        return [
            d.reason
            for _, p in self.history
            for planned in p.pools.values()
            for d in planned.decisions
            if d.action == action
        ]

    def _pool(self, name):
        key = PoolKey("default", name)
        order = list(self.specs).index(name)
        return Pool(
            key=key,
            uid=f"uid-{name}",
            generation=1,
            created=float(order),
            spec=self.specs[name],
            templates=dict.fromkeys(self.classes, "t1"),
            deployments={
                kind: Deployment(count, "t1", count, count, observed=True, paused=False)
                for (pool, kind), count in self.replicas.items()
                if pool == name
            },
            workers=tuple(
                replace(w, probe=None) if self.deaf else w
                for w in self.workers.values()
                if w.pool == key
            ),
            signals=self._signals(name) if self.gateway else None,
            status=self.status.get(name, {}),
        )

    def _measure(self, worker):
        """Return what the gateways saw of one worker."""
        if not worker.ready or not self.gateway:
            return None
        compared = self.compared.get(worker.node, ParitySignals())
        return measure_worker(failing=worker.node in self.failing, parity=compared)

    def _answer(self, before, node):
        """Return what a round of known answers adds on a node."""
        if self.unasked:
            return KnownAnswers(unavailable=self.unasked)
        before = before or KnownAnswers()
        if node in self.wrong:
            detail = "prompt 1: expected 4 17, got 4 99"
            return KnownAnswers(0, before.wrong + 1, self.now, detail, wrong_at=self.now)
        right = before.right + 1
        when = (*before.right_at, self.now)[-PROOF_ROUNDS:]
        if right >= PROOF_ROUNDS:
            return KnownAnswers(right, at=self.now, right_at=when)
        return replace(before, right=right, at=self.now, right_at=when)

    def _signals(self, name):
        key = PoolKey("default", name)
        serving = Counter(
            w.accelerator_class
            for w in self.workers.values()
            if w.pool == key and w.ready and not w.terminating and w.node not in self.dead
        )
        arrived, shares = self.rate.get(name, 0.0), self._last_shares(key)
        return measure_pool(self.now, arrived, shares, serving, self.slow, self.pairs)

    def _last_shares(self, key):
        planned = self.history[-1][1].pools.get(key) if self.history else None
        if planned is None:
            return {}
        return {v.accelerator_class: v.share for v in planned.variants}

    def _node(self, name):
        kind = self.nodes[name]
        if name in self.dead:
            self.down.add(name)
        elif name in self.down:
            self.down.discard(name)
            self.boots[name] = self.boots.get(name, 0) + 1
        if name not in self.dead and not self.frozen_leases:
            self.leases[name] = self.now
        resource = self.classes[kind].resource_name if kind in self.classes else "none/none"
        return Node(
            name=name,
            labels={} if name in self.unlabelled else {"accelerator": kind},
            ready=NodeReady.TRUE,
            cordoned=False,
            lease_age=self.now - self.leases[name],
            lease_renewed=self.leases[name],
            lease_lag=self.lease_lag,
            boot_id=str(self.boots.get(name, 0)),
            allocatable={resource: self._allocatable(name, kind)},
            capacity={resource: self.devices.get(kind, 2)},
            tainted=name in self.marks,
            mark=self.marks.get(name, self.returned.get(name)),
            released=name in self.release,
            banned=self.banned.get(name, ""),
            conditions={
                "AcceleratorHealthy": NodeCondition("False", "XID79", "device 0 fell off the bus")
                if name in self.broken
                else NodeCondition("True", "Healthy", "")
            },
        )

    def _allocatable(self, name, kind):
        gone = self.vanished == "devices" or name in self.gone_devices
        return 0 if gone else self.devices.get(kind, 2)

    def _advance_pods(self):
        for uid, worker in list(self.workers.items()):
            dead = worker.node in self.dead
            if uid in self.lingering:
                continue
            if worker.terminating and not dead:
                del self.workers[uid]
            else:
                bound = worker if worker.node is not None else self._bind(worker)
                self.workers[uid] = self._probe(bound, dead=dead)
        for name, pod in list(self.probations.items()):
            if pod.terminating:
                del self.probations[name]
            elif pod.node in self.dead:
                continue
            elif self.probation_waiting.startswith("ErrImagePull"):
                self.probations[name] = replace(pod, waiting=self.probation_waiting)
            elif self.now - pod.created < self.startup:
                self.probations[name] = replace(pod, started=True)
            else:
                slots = {k: self._answer(v, pod.node) for k, v in pod.slots.items()}
                waiting = self.probation_waiting
                self.probations[name] = replace(
                    pod, ready=not waiting, waiting=waiting, slots=slots, started=True
                )

    def _probe(self, worker, *, dead):
        ready = worker.node is not None and (worker.ready or (not dead and self._started(worker)))
        if not ready:
            return worker
        before = worker.probe or Probe(0, 0, None)
        misses = before.misses + 2 if dead else 0
        up_since = None if misses else before.up_since or self.now
        answered = before.answered + (not dead)
        answers = worker.answers
        if not dead and worker.name not in self.mute:
            answers = self._answer(worker.answers, worker.node)
        return replace(
            worker,
            ready=True,
            probe=Probe(misses, answered, up_since),
            answers=answers,
            signals=self._measure(worker),
        )

    def _started(self, worker):
        return self.now - worker.created >= self.startup

    def _bind(self, worker):
        for name, kind in self.nodes.items():
            if kind != worker.accelerator_class or name in self.marks:
                continue
            if sum(w.node == name for w in self.workers.values()) < 2:
                return replace(worker, node=name, unschedulable="", created=self.now)
        return replace(worker, unschedulable="0/4 nodes are available")

    def _apply(self):
        self._apply_marks()
        self._apply_probations()
        for key, planned in self.plan.pools.items():
            for delete in planned.deletes:
                self.workers[delete.uid] = replace(self.workers[delete.uid], terminating=True)
            for variant in planned.variants:
                if not variant.frozen:
                    self.replicas[key.name, variant.accelerator_class] = variant.wanted
                    self._scale(key, variant.accelerator_class, variant.wanted)

    def _obey_release(self, action):
        if action.released:
            self.release.discard(action.node)

    def _apply_marks(self):
        for action in self.plan.nodes:
            if isinstance(action, QuarantineNode):
                self.marks[action.node] = NodeMark(
                    action.state, action.since, action.reason, action.outs
                )
                self.returned.pop(action.node, None)
                self._obey_release(action)
            elif isinstance(action, ReleaseNode):
                self.marks.pop(action.node, None)
                self.returned.pop(action.node, None)
                self._obey_release(action)
                if action.outs or action.state != "Healthy":
                    mark = NodeMark(action.state, action.at, action.reason, action.outs)
                    self.returned[action.node] = mark

    def _apply_probations(self):
        for action in self.plan.probations:
            if isinstance(action, StartProbation):
                name = probation_name(action.node)
                self.probations[name] = ProbationPod(
                    uid=f"uid-{name}-{self.now:g}",
                    name=name,
                    node=action.node,
                    accelerator_class=action.accelerator_class,
                    created=self.now,
                    ready=False,
                    terminating=False,
                    slots={slot_name(i): None for i in range(action.slots)},
                )
            elif isinstance(action, EndProbation) and action.name in self.probations:
                pod = self.probations[action.name]
                self.probations[action.name] = replace(pod, terminating=True)

    def _scale(self, key, kind, count):
        live = [
            w
            for w in self.workers.values()
            if w.pool == key and w.accelerator_class == kind and not w.terminating
        ]
        for worker in sorted(live, key=lambda w: (w.ready, -w.created))[
            : max(0, len(live) - count)
        ]:
            self.workers[worker.uid] = replace(worker, terminating=True)
        for _ in range(count - len(live)):
            self.born += 1
            uid = f"{key.name}-{kind}-{self.born}"
            self.workers[uid] = Worker(
                uid, uid, key, kind, None, self.now, ready=False, terminating=False
            )


def record(remembered):
    """Return the part of a status document that survives a restart."""
    from sluice.decide.recall import format_time, record_memory

    return {
        "memory": record_memory(remembered),
        "decisions": [
            {"time": format_time(d.at), "action": d.action, "reason": d.reason}
            for d in remembered.decisions
        ],
    }
