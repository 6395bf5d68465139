"""What fits a device: weights once, a cache beside them, sequences by their length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_accel.memory import cache_bytes, plan_memory, startup_time
from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES, make_profile

LARGE, SMALL = (NOMINAL_MODELS[name] for name in ("llama-3.3-70b", "llama-3.1-8b"))


def test_a_token_of_70b_takes_160_kib_in_fp8():
    assert cache_bytes(PROFILES["h100"], LARGE) == 160 * 1024
    assert cache_bytes(make_profile("h100", "bf16"), LARGE) == 320 * 1024


def test_more_devices_than_heads_keep_copies():
    assert cache_bytes(PROFILES["trainium2"], LARGE, 16) == 2 * cache_bytes(PROFILES["h100"], LARGE)


def test_weights_are_what_is_published_for_the_format():
    # 70.6 GB of FP8, and a head and an embedding in bf16 on top; 16 GB in bf16.
    assert plan_memory(PROFILES["h200"], LARGE, 1).weights == pytest.approx(70.6e9, rel=0.04)
    assert plan_memory(PROFILES["a100"], SMALL, 1).weights == pytest.approx(16.06e9)


def test_70b_does_not_fit_one_h100_with_a_cache_and_fits_two():
    one, two = (plan_memory(PROFILES["h100"], LARGE, devices) for devices in (1, 2))
    assert one.cache < 0
    assert one.tokens == one.count_sequences(1) == 0
    # Published: about 85 sequences of 5,500 tokens were active on two.
    assert two.count_sequences(5500) == pytest.approx(85, rel=0.15)


@given(st.sampled_from(sorted(PROFILES)), st.integers(1, 8), st.integers(1, 100_000))
def test_what_is_said_to_fit_fits(profile, devices, context):
    plan = plan_memory(PROFILES[profile], SMALL, devices)
    used = plan.weights + plan.count_sequences(context) * context * plan.token
    assert used <= plan.usable < devices * PROFILES[profile].memory.value
    assert used + context * plan.token > plan.usable


def test_larger_weights_start_later():
    assert startup_time(PROFILES["h100"], SMALL) < startup_time(PROFILES["h100"], LARGE)
    # ServerlessLLM: 84 s to load 70B in 16 bits the ordinary way.
    loading = startup_time(PROFILES["a100"], LARGE) - 20
    assert loading == pytest.approx(84, rel=0.05)
