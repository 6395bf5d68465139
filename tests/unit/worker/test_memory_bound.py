"""The memory of the emulated devices bounds who runs, and what clients feel when it is full."""

from statistics import fmean

import pytest

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Decoder
from sluice_worker.engine import Engine, Limits
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import EmulatedDevice, Pacer
from sluice_worker.sampling import SamplingParams

from .checkpoints import write_checkpoint

PROMPT, OUTPUT = 32, 16
SCALE = 2048
PARAMS = SamplingParams(temperature=0, top_p=1, seed=1, max_tokens=OUTPUT, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


def make_prompt(number):
    return [5 + number % 90, 5 + number // 90] * (PROMPT // 2)


def read(metrics, name):
    return metrics.registry.get_sample_value(name, {"model_name": "m"})


def test_sequences_wait_until_the_cache_has_room_and_get_their_own_answers(checkpoint):
    def serve(tokens):
        metrics = Metrics("m")
        limits = Limits(sequences=8, batched_tokens=64, waiting=16, cache_tokens=tokens)
        engine = Engine(Decoder(checkpoint), limits, Pacer(None), metrics, lambda _: None)
        asked = [engine.submit(make_prompt(number), PARAMS) for number in range(8)]
        running, used = [], []
        while engine.step():
            running.append(read(metrics, "vllm:num_requests_running"))
            used.append(read(metrics, "vllm:kv_cache_usage_perc"))
        return [one.output for one in asked], max(running), max(used)

    free, tight = serve(None), serve(3 * (PROMPT + OUTPUT))
    assert tight[0] == free[0]
    assert free[1] == 8
    assert 1 < tight[1] < 8
    assert free[2] < tight[2] <= 1


class Clients:
    """Clients that each send a request, wait for its end and send the next, on a clock of steps."""

    def __init__(self, checkpoint, count):
        device = EmulatedDevice(PROFILES["h100"], NOMINAL_MODELS["llama-3.3-70b"], 2, SCALE)
        tokens = device.bound_cache(PROMPT + OUTPUT, 0).tokens
        limits = Limits(sequences=64, batched_tokens=2 * PROMPT, waiting=64, cache_tokens=tokens)
        self.now, self.requests = 0.0, 0
        self.first, self.between, self.sent = [], [], {}
        self.at_once = tokens // (PROMPT + OUTPUT)
        pacer = Pacer(device, lambda: self.now, self.sleep)
        self.engine = Engine(Decoder(checkpoint), limits, pacer, Metrics("m"), self.take)
        for _ in range(count):
            self.send()

    def sleep(self, seconds):
        self.now += seconds

    def send(self):
        self.requests += 1  # no two alike: what they share might not be computed twice
        self.sent[self.engine.submit(make_prompt(self.requests), PARAMS)] = [self.now]

    def take(self, emissions):
        for one in emissions:
            times = self.sent[one.sequence]
            times.append(self.now)
            if one.finish:
                self.first.append(times[1] - times[0])
                self.between.append((times[-1] - times[1]) / (OUTPUT - 1))
                del self.sent[one.sequence]
                self.send()

    def measure(self, rounds):
        """Return s to the first token, s from token to token, requests/s, once it is steady."""
        for _ in range(rounds):
            self.engine.step()
        half = len(self.first) // 2
        return fmean(self.first[half:]), fmean(self.between[half:]), len(self.first) / self.now


def test_past_saturation_the_time_a_token_stays_and_the_first_token_waits(checkpoint):
    """The knee that NVIDIA published for 70B on 2 H100, at the worker itself."""
    full = Clients(checkpoint, 1).at_once
    assert full == 4
    one, all_run, over = (Clients(checkpoint, n).measure(160) for n in (1, full, 4 * full))
    assert one[1] < 0.95 * all_run[1]  # below it, the batch makes tokens slower
    assert over[1] == pytest.approx(all_run[1], rel=0.1)
    assert over[2] == pytest.approx(all_run[2], rel=0.1)
    assert over[0] > 5 * all_run[0]
