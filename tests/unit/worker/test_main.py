"""Options out of their range end the worker with a sentence, before it loads anything."""

import logging

import pytest
import structlog
from aiohttp import web
from click import UsageError
from click.testing import CliRunner
from structlog.testing import capture_logs

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.numerics import NUMERICS as STORED
from sluice_accel.profiles import PROFILES
from sluice_accel.rounding import FORMATS
from sluice_worker.emulation import choose_emulation, describe
from sluice_worker.errors import EmulationError
from sluice_worker.main import LibraryHandler, main
from sluice_worker.numerics import NUMERICS
from sluice_worker.pacing import EmulatedDevice

from .checkpoints import write_checkpoint


@pytest.fixture(autouse=True)
def log_as_before():
    yield
    structlog.reset_defaults()  # or others would log to a standard error that is closed


@pytest.mark.parametrize(
    "option",
    [
        "--port=0",
        "--port=-1",
        "--max-num-seqs=0",
        "--max-num-batched-tokens=0",
        "--max-waiting=x",
        "--devices=0",
        "--token-scale=0.5",
        "--jitter=-0.1",
        "--jitter=nan",
        "--seed=x",
        "--startup-seconds=-1",
        "--startup-seconds=nan",
        "--startup-seconds=inf",
        "--max-model-len=1",
        f"--kv-cache-tokens={10**20}",
        "--time-compression=0",
        "--time-compression=nan",
        "--profile=abacus",
        "--nominal=abacus",
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path, option):
    least = [f"--model-path={tmp_path / 'nowhere'}", "--served-model-name=m"]
    ended = CliRunner().invoke(main, [*least, option])
    assert ended.exit_code == 2
    assert option.partition("=")[0] in ended.stderr.splitlines()[-1]


def test_a_nominal_model_that_the_devices_could_not_hold_is_refused(tmp_path):
    ended = CliRunner().invoke(
        main,
        [
            f"--model-path={write_checkpoint(tmp_path, max_position_embeddings=512)}",
            "--served-model-name=m",
            "--profile=h100",
            "--nominal=llama-3.3-70b",
            "--token-scale=96",
            "--host=a..b",  # so that it ends in any case
        ],
    )
    assert ended.exit_code == 2
    assert "leaves 0 nominal tokens of KV cache on 1 h100" in ended.stderr
    told = "one sequence of 512 tokens and known answers of 128, 96 nominal ones each, need 61440"
    assert told in ended.stderr


def test_a_cache_beyond_all_memory_ends_with_one_sentence(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("Unable to allocate 2 TiB")

    monkeypatch.setattr("sluice_worker.main.Engine", fail)
    ended = CliRunner().invoke(
        main, [f"--model-path={write_checkpoint(tmp_path)}", "--kv-cache-tokens=4096"]
    )
    assert ended.exit_code == 1
    told = ended.stderr.splitlines()[-1]
    assert told.startswith("sluice-worker: Unable to allocate 2 TiB: a context of 128 tokens and a")
    assert "cache of 4096" in told
    assert "lower --max-model-len" in told


def emulate(profile, devices=1, **over):
    model = NOMINAL_MODELS["llama-3.3-70b"]
    return EmulatedDevice(PROFILES[profile], model, devices, **{"scale": 96} | over)


@pytest.mark.parametrize(
    ("profile", "devices", "tokens", "contexts"),
    [("maia-200", 1, 7385, 14), ("h100", 2, 4360, 8), ("h100", 4, 13458, 26)],
)
def test_the_cache_is_what_the_nominal_model_leaves(profile, devices, tokens, contexts):
    bounds = emulate(profile, devices).bound_cache(context=512, spare=128)
    assert bounds.tokens == pytest.approx(tokens, rel=0.02)
    assert bounds.sequences == bounds.tokens // 512 == contexts


def test_a_context_fits_exactly_or_not_at_all():
    most = emulate("maia-200").bound_cache(context=1, spare=0).tokens
    assert emulate("maia-200").bound_cache(context=most, spare=0).sequences == 1
    with pytest.raises(EmulationError, match="lower --token-scale"):
        emulate("maia-200").bound_cache(context=most, spare=1)


def choose(**over):
    left_out = {
        "numerics": "float32",
        "profile": "none",
        "nominal": None,
        "devices": 1,
        "token_scale": 1,
        "jitter": 0.0,
        "seed": None,
        "startup_seconds": None,
        "time_compression": 1.0,
    }
    return choose_emulation(**left_out | over)


def test_a_start_takes_what_loading_the_nominal_model_takes():
    small, large = (
        choose(profile="h100", nominal=name, devices=2)
        for name in ("llama-3.1-8b", "llama-3.3-70b")
    )
    assert 20 < small.startup < large.startup  # the runtime, and gigabytes of weights
    assert choose().startup == 0
    assert choose(startup_seconds=60.0).startup == 60
    given = choose(profile="h100", nominal="llama-3.1-8b", startup_seconds=9.0)
    assert (given.startup, given.loading) == (9, 9)


def test_a_device_is_emulated_with_a_model_and_none_needs_nothing():
    assert choose(nominal="llama-3.1-8b", devices=2).device is None
    with pytest.raises(UsageError, match=r"--profile h100 needs --nominal: .* llama-3\.1-8b"):
        choose(profile="h100")


@pytest.mark.parametrize("name", FORMATS)
def test_a_device_s_memory_holds_the_bits_that_values_are_rounded_to(name):
    kept, rounded = STORED[FORMATS[name]], NUMERICS[name]
    # The cache has the format of attention, which some numerics have for their weights.
    [cached] = {one.bits for one in NUMERICS.values() if one.linear == rounded.attention}
    assert 8 * kept.weight_bytes.value == rounded.bits
    assert 8 * kept.cache_bytes.value == cached


def test_numerics_have_a_device_s_time_and_memory_or_are_refused():
    def context(profile, numerics):
        device = choose(profile=profile, nominal="llama-3.3-70b", numerics=numerics).device
        return device.bound_cache(context=1, spare=0).tokens, device.run_step([(1, 99, False)])

    assert set(FORMATS) == set(NUMERICS) - {"float32"}
    # A device's own format is what it takes with the reference numerics.
    assert context("b200", "fp8-row") == context("b200", "float32")
    assert context("maia-200", "fp8-block") == context("maia-200", "float32")
    wide, narrow = context("b200", "fp8-row"), context("b200", "fp4")
    assert narrow[0] > wide[0]
    assert narrow[1].seconds < wide[1].seconds
    with pytest.raises(UsageError, match="h100 with --numerics mx9: h100 cannot serve mx9"):
        choose(profile="h100", nominal="llama-3.3-70b", numerics="mx9")
    with pytest.raises(UsageError, match="maia-200-neutral with --numerics mx9"):
        choose(profile="maia-200-neutral", nominal="llama-3.3-70b", numerics="mx9")


def test_compression_shortens_the_start_and_no_step_and_is_told():
    usual, short = (
        choose(profile="h100", nominal="llama-3.1-8b", time_compression=factor)
        for factor in (1.0, 10.0)
    )
    assert short.startup == usual.startup / 10
    assert short.device == usual.device
    assert describe(short) == {
        "seconds": round(usual.startup / 10, 3),
        "uncompressed_seconds": round(usual.startup, 3),
        "time_compression": 10.0,
    }


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (ConnectionResetError("the client has gone"), []),
        (web.RequestPayloadError("no gzip"), ["a client sent no HTTP"]),
        (ValueError("ours"), ["Unhandled exception"]),
    ],
)
def test_what_clients_do_is_logged_without_a_traceback(error, logged):
    record = logging.LogRecord(
        "aiohttp.server", logging.ERROR, "", 0, "Unhandled exception", (), (None, error, None)
    )
    with capture_logs() as lines:
        LibraryHandler().emit(record)
    assert [line["event"] for line in lines] == logged
    assert [bool(line.get("exc_info")) for line in lines] == [type(error) is ValueError] * len(
        lines
    )
