"""The planner: one pure pass over the whole fleet.

Health first, then each pool by priority (`pool_pass`), with the devices that the pools before it
left (`inventory`). The simulator, a replay and the unit tests call this same function.
"""

from dataclasses import replace

from sluice.decide.breaker import remember_storms
from sluice.decide.flaps import recall_outs
from sluice.decide.health import judge_nodes
from sluice.decide.inventory import Inventory
from sluice.decide.marks import recall_nodes
from sluice.decide.matching import claim_models
from sluice.decide.pool_pass import plan_pool
from sluice.decide.probation import choose_probations
from sluice.decide.recall import recall_pool, recall_storms
from sluice.decide.variants import Fleet
from sluice.decide.workers import bypass_latched, judge_workers
from sluice.model.keys import PoolKey
from sluice.model.memory import Memory, PoolMemory
from sluice.model.plan import Finding, Plan, PoolPlan, Problem
from sluice.model.snapshot import Pool, Snapshot


def plan(snapshot: Snapshot, memory: Memory) -> tuple[Plan, Memory]:
    """Return what is to be done about the fleet, and what to remember.

    An empty memory recalls what is durable from the snapshot, so that a restart releases nothing
    and repeats nothing.
    """
    if memory.started is None:
        nodes = recall_nodes(snapshot)
        storms = recall_storms(snapshot, nodes)
        memory = replace(memory, nodes=nodes, outs=recall_outs(snapshot), storms=storms)
    workers, against = judge_workers(snapshot, memory.workers, memory.nodes)
    judged = judge_nodes(snapshot, memory, workers, against)
    workers = bypass_latched(snapshot, workers, judged.nodes)
    storms = remember_storms(snapshot, judged.nodes, memory.storms)
    fleet = Fleet(snapshot, workers, judged.nodes, storms, judged.turns, judged.marked)
    remembered = {pool.key: _remember(pool, memory, snapshot.at) for pool in snapshot.pools}
    owners = claim_models(snapshot.pools)
    serving = [pool for pool in snapshot.pools if owners[pool.spec.model.name] == pool.key]
    inventory = Inventory(fleet, serving, remembered)
    plans: dict[PoolKey, PoolPlan] = {}
    memories: dict[PoolKey, PoolMemory] = {}
    for pool in inventory.order:
        planned, after = plan_pool(fleet, pool, remembered[pool.key], inventory)
        plans[pool.key], memories[pool.key] = planned, after
    for pool in snapshot.pools:
        if pool.key not in plans:
            owner = owners[pool.spec.model.name]
            plans[pool.key] = refuse_model(pool, owner)
            decisions = remembered[pool.key].decisions
            memories[pool.key] = PoolMemory(uid=pool.uid, decisions=decisions)
    started = memory.started if memory.started is not None else snapshot.at
    after_all = Memory(
        pools=memories,
        nodes=judged.nodes,
        outs=judged.outs,
        workers=workers,
        storms=storms,
        started=started,
    )
    probations = choose_probations(snapshot, judged.nodes)
    return Plan(snapshot.at, plans, judged.actions, probations), after_all


def _remember(pool: Pool, memory: Memory, at: float) -> PoolMemory:
    known = memory.pools.get(pool.key)
    return known if known is not None and known.uid == pool.uid else recall_pool(pool, at)


def refuse_model(pool: Pool, owner: PoolKey) -> PoolPlan:
    """Return the plan of a pool whose model name another one owns: it gets no workers."""
    message = (
        f"model name {pool.spec.model.name!r} belongs to the older pool {owner}: choose another"
        " spec.model.name, or delete that pool"
    )
    return PoolPlan(
        key=pool.key,
        uid=pool.uid,
        generation=pool.generation,
        variants=(),
        workers=False,
        problems=(Problem(Finding.MODEL_NAME_TAKEN, message),),
    )
