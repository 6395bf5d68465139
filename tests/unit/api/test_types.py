"""What every type of the API keeps to, and what the rest of Sluice writes into them."""

import json

import pytest
from pydantic import ValidationError

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec
from sluice.api.status import InferencePoolStatus
from sluice.api.template import QUARANTINE_TAINT
from sluice.decide.recall import record_memory
from sluice.decide.status import pool_status
from sluice.model.keys import PoolKey
from sluice.model.memory import PoolMemory
from sluice.model.names import TAINT_QUARANTINE
from sluice.model.plan import Decision, Finding, PoolPlan, Problem, Results, VariantPlan
from sluice.model.snapshot import Pool

POOL = {
    "model": {
        "name": "compact",
        "source": {"path": "/models/compact"},
        "emulation": {"nominal": "llama-3.3-70b", "tokenScale": 96},
    },
    "slo": {"ttft": "2s", "tpot": "200ms", "objective": "99.5%"},
    "variants": [
        {
            "acceleratorClass": "maia-200",
            "max": 4,
            "template": {"resources": {"requests": {"cpu": 1}}},
        }
    ],
}
CLASS = {
    "nodeSelector": {"sluice.dev/accelerator": "maia-200"},
    "resourceName": "sluice.dev/maia",
    "price": {"onDemand": "0.000000001"},
    "emulation": {"profile": "maia-200"},
}


@pytest.mark.parametrize(
    ("kind", "document"), [(InferencePoolSpec, POOL), (AcceleratorClassSpec, CLASS)]
)
def test_a_spec_survives_being_written(kind, document):
    spec = kind.model_validate(document)
    text = spec.model_dump_json(by_alias=True, exclude_none=True)
    assert kind.model_validate(json.loads(text)) == spec


def test_a_spec_cannot_be_changed():
    spec = InferencePoolSpec.model_validate(POOL)
    with pytest.raises(ValidationError, match="frozen"):
        spec.slo.ttft = 9.0


def test_defaults_are_what_the_design_says():
    spec = InferencePoolSpec.model_validate(POOL)
    variant = spec.variants[0]
    assert (variant.min, variant.max_share, variant.devices) == (0, 1.0, None)
    assert (spec.autoscaling.headroom, spec.autoscaling.stable_window) == (0.2, 300.0)
    assert spec.shift.hold_down == 120.0
    assert (spec.autoscaling.mode, spec.fallback.mode) == ("Automatic", "Automatic")
    health = AcceleratorClassSpec.model_validate(CLASS).health
    assert (health.return_after, health.max_unhealthy) == (60.0, 0.5)
    liveness = health.liveness
    assert (liveness.period, liveness.timeout, liveness.failures) == (1.0, 0.5, 3)


def test_names_that_stand_in_two_layers_are_the_same():
    assert QUARANTINE_TAINT == TAINT_QUARANTINE


def test_the_status_that_is_written_is_the_one_that_is_declared():
    key = PoolKey("default", "chat")
    variant = VariantPlan(
        accelerator_class="maia-200",
        wanted=2,
        serving=1,
        ready=2,
        share=100,
        capacity=1.234,
        cost_per_hour=20.0,
        numerics="fp8-block",
        quarantined=("chat-maia-200-abc-1",),
        surge=True,
        paused=False,
    )
    decision = Decision(1_000_000.0, "ScaleUp", "1.5/s > 1.2/s")
    plan = PoolPlan(
        key=key,
        uid="u",
        generation=3,
        variants=(variant,),
        attainment=0.987,
        fallback="lost",
        progress="moving",
        problems=(Problem(Finding.NO_DEVICES, "none is free"),),
    )
    memory = PoolMemory(decisions=(decision,))
    pool = Pool(
        key=key,
        uid="u",
        generation=3,
        created=0.0,
        spec=InferencePoolSpec.model_validate(POOL),
        templates={},
        deployments={},
        workers=(),
        signals=None,
        status={},
    )
    document = pool_status(pool, plan, memory, Results(), "http://here/v1", 1_000_000.0)
    status = InferencePoolStatus.model_validate(document)
    assert status.variants[0].quarantined == ["chat-maia-200-abc-1"]
    assert status.variants[0].numerics == "fp8-block"
    assert {condition.type for condition in status.conditions} == {
        "Ready",
        "Progressing",
        "SLOMet",
        "FallbackActive",
        "AnswersVerified",
        "Degraded",
    }
    assert status.memory == record_memory(memory)
