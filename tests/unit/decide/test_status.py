"""The status document: what is written anew, and what stands although a number drifts."""

import pytest

from sluice.decide.status import pool_status
from sluice.model.keys import PoolKey
from sluice.model.memory import PoolMemory
from sluice.model.plan import PoolPlan, Results, VariantPlan
from sluice.model.snapshot import Pool

from .samples import pool_spec

KEY = PoolKey("default", "chat")


def write(capacity, status):
    """Return the document of a pool whose worker carries `capacity`, after one that stands."""
    variant = VariantPlan(
        accelerator_class="maia", wanted=1, serving=1, ready=1, share=100, capacity=capacity
    )
    pool = Pool(
        key=KEY,
        uid="u",
        generation=1,
        created=0.0,
        spec=pool_spec(),
        templates={},
        deployments={},
        workers=(),
        signals=None,
        status=status,
    )
    plan = PoolPlan(key=KEY, uid="u", generation=1, variants=(variant,))
    return pool_status(pool, plan, PoolMemory(), Results(), "", 1000.0)


@pytest.mark.parametrize(
    ("later", "shown"), [(1.04, "1"), (0.96, "1"), (1.2, "1.2"), (0.8, "0.8"), (0.0, "0")]
)
def test_a_capacity_that_barely_moved_is_not_written_anew(later, shown):
    first = write(1.0, {})
    second = write(later, first)
    assert second["variants"][0]["capacity"] == shown
    assert (second == first) is (shown == "1")


@pytest.mark.parametrize("found", ["soon", None, "nan"])
def test_a_capacity_that_cannot_be_read_is_written_anew(found):
    shown = {"acceleratorClass": "maia", "capacity": found}
    assert write(1.5, {"variants": [shown]})["variants"][0]["capacity"] == "1.5"
