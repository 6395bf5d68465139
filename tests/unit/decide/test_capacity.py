"""What one worker carries: no more at once than the memory of its devices holds."""

from pathlib import Path

import yaml

from sluice.api.accelerator import AcceleratorClass
from sluice.api.pool import InferencePool
from sluice.decide.capacity import reckon_capacity
from sluice.decide.demand import Demand

SAMPLES = Path(__file__).resolve().parents[3] / "manifests" / "samples"


def load(name):
    return next(yaml.safe_load_all((SAMPLES / name).read_text()))


def reckon(profile, devices, of_class=None, of_variant=None):
    pool = InferencePool.model_validate(load("pool.yaml")).spec
    accelerator = AcceleratorClass.model_validate(load("classes.yaml")).spec
    emulation = accelerator.emulation.model_copy(update={"profile": profile})
    accelerator = accelerator.model_copy(update={"emulation": emulation, "numerics": of_class})
    variant = pool.variants[0].model_copy(update={"numerics": of_variant})
    demand = Demand(rate=1.0, prompt_tokens=30.0, output_tokens=30.0, fresh=True)
    return reckon_capacity(pool, variant, accelerator, devices, demand)


def test_devices_that_hold_a_few_sequences_carry_what_those_make():
    # Two A100 hold one such sequence of a 70B model in bf16; four hold many.
    assert reckon("a100", 4) > 3 * reckon("a100", 2) > 0


def test_devices_with_room_to_spare_carry_no_more_for_it():
    # Both run as many sequences at once as a worker may; only the speed counts.
    assert reckon("maia-200-neutral", 1) > reckon("maia-100", 2) > 0


def test_narrower_numerics_carry_more_wherever_they_are_said():
    usual = reckon("b200", 2)
    assert reckon("b200", 2, of_class="fp8-row") == reckon("b200", 2, of_class="float32") == usual
    assert reckon("b200", 2, of_class="bfloat16") < usual < reckon("b200", 2, of_class="fp4")
    assert reckon("b200", 2, of_class="fp4", of_variant="fp8-row") == usual


def test_numerics_that_a_device_has_not_change_nothing_of_what_runs():
    assert reckon("h100", 2, of_variant="mx9") == reckon("h100", 2)
