"""Whatever happens to nodes, operator and observer: what health promises holds after every pass."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sluice.decide.limits import LEASE_STALE, PROOF_ROUNDS
from sluice.model.memory import OUT_STATES, NodeState, WorkerState

from .settled import settle

NODES = ("maia-0", "maia-1", "gpu-0", "gpu-1")
NODE = st.sampled_from(NODES)
BAD = st.sets(NODE, min_size=1, max_size=4)
HOUR = 3600.0
LATCH = 3
HOLD_DOWN = 12


class Health(RuleBasedStateMachine):
    """A world in which anything may happen, and a bystander who keeps books of their own."""

    def __init__(self):
        super().__init__()
        self.world = settle(5.0)
        self.bad_until = dict.fromkeys(NODES, 0.0)
        self.outs = {node: [] for node in NODES}
        self.hurried = set()
        self.blamed = set()
        self.steps = {}
        self.broken = []
        self.hit = set()

    @rule(nodes=BAD, lasting=st.integers(1, 12), after=st.integers(0, 40))
    def nodes_are_dead_for_a_while(self, nodes, lasting, after):
        self.world.dead = nodes
        self.pass_time(lasting)
        self.world.dead = set()
        self.pass_time(after)

    @rule(node=NODE, times=st.integers(2, 5))
    def a_node_flaps(self, node, times):
        for _ in range(times):
            self.nodes_are_dead_for_a_while({node}, 6, 30)

    @rule(nodes=BAD, lasting=st.integers(1, 30))
    def devices_compute_wrongly(self, nodes, lasting):
        self.world.wrong = nodes
        self.pass_time(lasting)
        self.world.wrong = set()

    @rule(nodes=BAD, lasting=st.integers(1, 12), flapping=st.booleans())
    def health_agents_complain(self, nodes, lasting, flapping):
        for number in range(lasting):
            self.world.broken = set() if flapping and number % 2 else nodes
            self.pass_time(1)
        self.world.broken = set()

    @rule(nodes=BAD, before=st.integers(0, 20), after=st.integers(0, 20))
    def the_operator_restarts_in_the_middle(self, nodes, before, after):
        self.world.dead = nodes
        self.pass_time(min(before, 4))
        self.world.dead = set()
        self.pass_time(before)
        self.world.restart_operator()
        self.pass_time(after)

    @rule(nodes=BAD, lasting=st.integers(1, 8))
    def the_observer_is_in_doubt(self, nodes, lasting):
        self.world.dead, self.world.observer_ok = nodes, False
        self.pass_time(lasting)
        self.world.observer_ok = True

    @rule(lasting=st.integers(1, 30))
    def gateways_are_silent(self, lasting):
        self.world.gateway = False
        self.pass_time(lasting)
        self.world.gateway = True

    @rule(node=NODE, lasting=st.integers(1, 6))
    def a_hand_takes_a_node_out(self, node, lasting):
        self.world.banned = {node: "new firmware"}
        self.pass_time(lasting)
        self.world.banned = {}

    @rule(node=NODE)
    def a_hand_releases(self, node):
        self.world.release.add(node)
        self.pass_time(1)

    def pass_time(self, steps):
        for _ in range(steps):
            self.step()

    def step(self):
        world = self.world
        marks, asked, seen = set(world.marks), set(world.release), world.now + world.tick
        proof = {node: self.read_proof(node) for node in marks}
        for node in world.dead | world.broken:
            # Nothing runs on a node that is out: only its Lease tells, and that takes 25 s.
            stale = seen - world.leases[node] > LEASE_STALE
            if node not in marks or stale or node in world.broken:
                self.bad_until[node] = seen
        world.step()
        for node in asked:
            self.outs[node], self.hurried = [], self.hurried | {node}
            self.blamed.discard(node)
        for node in set(world.marks) - marks:
            self.note_out(node, seen)
        for node in marks - set(world.marks):
            self.check_return(node, seen, proof[node])
            self.hurried.discard(node)
        self.blamed |= {n for n in world.wrong if self.was_heard_wrong(n)}
        self.check_deletes(marks)
        self.check_scaling(seen)

    def read_proof(self, node):
        """Return the fewest rounds in a row that any device of a node answered right."""
        pods = [p for p in self.world.probations.values() if p.node == node and not p.terminating]
        heard = [slot for pod in pods for slot in pod.slots.values()]
        heard += [w.answers for w in self.world.workers.values() if w.node == node]
        return min((one.right if one is not None else 0 for one in heard), default=0)

    def was_heard_wrong(self, node):
        return node in self.world.marks and "wrong answer" in self.world.marks[node].reason

    def note_out(self, node, seen):
        by_hand = node in self.world.banned
        doubtful = not self.world.observer_ok and not by_hand
        self.expect(not doubtful, f"{node} taken out while the observer was in doubt")
        if not by_hand:
            self.outs[node] = [at for at in self.outs[node] if seen - at < HOUR] + [seen]

    def check_return(self, node, seen, rounds):
        flaps = max(0, len(self.outs[node]) - 1)
        returns = self.world.classes[self.world.nodes[node]].health.return_after
        needed, good = returns * 2**flaps, seen - self.bad_until[node]
        early = good < needed and node not in self.hurried
        self.expect(flaps < LATCH, f"{node} came back by itself after {flaps} flaps")
        self.expect(not early, f"{node} came back after {good:g} s of {needed:g}")
        # The world's devices answer one round more in the pass that is judged.
        self.expect(rounds + 1 >= PROOF_ROUNDS, f"{node} came back after {rounds} rounds")
        self.expect(node not in self.blamed, f"{node} came back after a wrong answer")
        self.expect(node not in self.world.banned, f"{node} came back against a hand")

    def check_deletes(self, marks):
        deleted = {d.name for p in self.world.plan.pools.values() for d in p.deletes}
        places = {w.node for w in self.world.workers.values() if w.name in deleted}
        doubt = not self.world.observer_ok
        self.expect(not (doubt and deleted), f"{deleted} deleted while the observer was in doubt")
        self.expect(places <= marks, f"workers deleted on {places}, only {marks} were marked")
        # What was acted on counts for as long as it is out, whoever else comes and goes.
        self.hit = {node for node in self.hit | places if node in self.world.marks}
        for kind in ("maia", "gpu"):
            hit = {node for node in self.hit if self.world.nodes[node] == kind}
            latched = any(self.world.marks[node].state == "Latched" for node in hit)
            told = f"workers deleted on {hit}, the breaker allows one of two"
            self.expect(len(hit) <= 1 or latched, told)  # a latched one may be set aside

    def check_scaling(self, seen):
        """Down is never followed by down, nor up by down, inside the hold-down."""
        for name, wanted in self.world.wanted().items():
            before, moved = self.steps.get(name, (wanted, 0.0))
            if wanted < before:
                early = seen - moved < HOLD_DOWN
                self.expect(
                    not early, f"{name} {before} → {wanted} {seen - moved:g} s after a step"
                )
            self.steps[name] = (wanted, seen if wanted != before else moved)

    def expect(self, holds, sentence):
        if not holds:
            self.broken.append(sentence)

    @invariant()
    def every_promise_is_kept(self):
        assert self.broken == []

    @invariant()
    def a_node_has_one_state_and_bears_its_mark(self):
        if self.world.memory.started is None:
            return  # the operator has only just begun anew
        for name, health in self.world.memory.nodes.items():
            assert (health.state in OUT_STATES) == (name in self.world.marks)
        for name, mark in self.world.marks.items():
            assert NodeState(mark.state) in OUT_STATES
            assert name in self.world.memory.nodes

    @invariant()
    def what_runs_on_a_latched_node_gets_no_traffic(self):
        if self.world.memory.started is None:
            return
        nodes = self.world.memory.nodes
        latched = {name for name in nodes if nodes[name].state is NodeState.LATCHED}
        live = {
            w.name
            for w in self.world.workers.values()
            if w.node in latched and w.uid in self.world.memory.workers and not w.terminating
        }
        assert live <= set(self.world.quarantined()) | self.just_deleted()

    @invariant()
    def what_failed_gets_no_traffic(self):
        kept = {WorkerState.FAILED, WorkerState.PROBATION}
        live = {
            w.name
            for w in self.world.workers.values()
            if not w.terminating
            and w.uid in self.world.memory.workers
            and self.world.memory.workers[w.uid].state in kept
        }
        assert live <= set(self.world.quarantined()) | self.just_deleted()

    def just_deleted(self):
        return {d.name for p in self.world.plan.pools.values() for d in p.deletes}

    @invariant()
    def shares_add_up(self):
        assert sum(self.world.shares().values()) in (0, 100)


Health.TestCase.settings = settings(max_examples=15, stateful_step_count=8, deadline=None)
TestHealth = Health.TestCase
