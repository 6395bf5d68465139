"""What the gateways of a small world report of its traffic, over the last half minute."""

from sluice.model.snapshot import (
    Distribution,
    ParitySignals,
    PoolSignals,
    VariantSignals,
    WorkerSignals,
)

from .samples import BOUNDS, CAPACITY, one_bucket

SECONDS = 30.0
UNCOMPARED = ParitySignals()


def measure_worker(*, failing, parity=UNCOMPARED):
    """Return what is seen of one worker: errors only where requests fail."""
    counts = one_bucket(0, 0 if failing else 20)
    return WorkerSignals(
        seconds=SECONDS,
        finished=0 if failing else 20,
        errors=5 if failing else 0,
        timeouts=0,
        ttft=Distribution(BOUNDS, counts),
        tpot=Distribution(BOUNDS, counts),
        parity=parity,
    )


def measure_pool(at, arrived, shares, serving, slow, parity=()):
    """Return what is seen of a pool: classes that get more than they carry miss the objective.

    Args:
        at: now.
        arrived: requests/s.
        shares: by class, in percent.
        serving: workers by class.
        slow: classes that miss the objective whatever they get.
        parity: pairs of classes whose answers were compared.
    """
    variants = {
        kind: _measure_variant(arrived * share / 100, serving[kind] * CAPACITY[kind], kind in slow)
        for kind, share in shares.items()
    }
    finished = sum(v.finished for v in variants.values())
    return PoolSignals(
        at=at,
        seconds=SECONDS,
        arrived=int(arrived * SECONDS),
        finished=finished,
        met=sum(v.met for v in variants.values()),
        failed=0,
        rejected=0,
        waiting=0,
        prompt_tokens=finished * 90,
        output_tokens=finished * 48,
        variants=variants,
        parity=tuple(parity),
    )


def _measure_variant(sent, able, slow):
    ended = int(min(sent, able) * SECONDS)
    over = sent > able or slow
    return VariantSignals(
        sent=int(sent * SECONDS),
        finished=ended,
        met=0 if over else ended,
        inflight=0,
        oldest_pending=0.0,
        ttft=Distribution(BOUNDS, one_bucket(5 if over else 3, ended)),
        tpot=Distribution(BOUNDS, one_bucket(0, ended)),
    )
