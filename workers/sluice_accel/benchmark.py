"""What published benchmarks would measure on an emulated device: their procedure, our steps."""

from dataclasses import dataclass
from typing import Final

from sluice_accel.memory import cache_bytes, plan_memory
from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.published import MODELS, Measure, Row
from sluice_accel.timing import StepWork, time_work

CACHE_SHARE: Final = 0.95
"""Of memory that weights and runtime leave, used for KV cache (published, perf-overview.md)."""
MOST_SEQUENCES: Final = 4096
LEAST_TOKENS: Final = 2048
MOST_TOKENS: Final = 32768
"""Bounds of batch and of tokens a step (published, tensorrt_llm/bench/build/tuning.py)."""
LOAD_TOKENS: Final = 8192
"""Tokens a step while clients are served (assumed)."""


def predict(profile: AcceleratorProfile, row: Row) -> float:
    """Return what the row's benchmark would say of the profile, in the row's unit."""
    model = MODELS[row.model]
    if row.measure is Measure.MOST_TOKENS:
        return _predict_most(profile, model, row)
    context = row.prompt + row.output / 2
    decode = time_work(
        profile, model, row.devices, StepWork(row.sequences, row.sequences * context)
    )
    if row.measure is Measure.DECODE_TOKENS:
        return row.sequences / decode
    tokens = row.sequences * row.prompt
    prompts = StepWork(0, 0, row.sequences, tokens, tokens, tokens * row.prompt / 2)
    first = time_work(profile, model, row.devices, prompts)
    if row.measure is Measure.FIRST_TOKEN:
        return first
    return row.sequences * row.output / (first + (row.output - 1) * decode)


def _predict_most(profile: AcceleratorProfile, model: NominalModel, row: Row) -> float:
    """Return output tokens/s when all requests are sent at once and have the same lengths.

    The engine keeps as many sequences as have their whole length reserved in the cache. Since all
    are of one length they turn over together: a round of steps that take in prompts, as many
    tokens a step as the benchmark's tuning allows, and steps that only decode. The last round is
    a smaller one.
    """
    at_once = count_reserved(profile, model, row.devices, row.prompt + row.output)
    rounds = int(row.sequences / at_once)
    seconds = rounds * _time_round(profile, model, row, at_once, at_once)
    if (left := row.sequences - rounds * at_once) >= 1:
        seconds += _time_round(profile, model, row, left, at_once)
    return row.sequences * row.output / seconds


def count_reserved(
    profile: AcceleratorProfile, model: NominalModel, devices: int, length: int
) -> float:
    """Return how many sequences of this length the benchmark's cache holds."""
    plan = plan_memory(profile, model, devices)
    free = devices * (profile.memory.value - profile.memory_reserve.value) - plan.weights
    fit = CACHE_SHARE * free / (length * cache_bytes(profile, model, devices))
    return max(1.0, min(MOST_SEQUENCES, fit))


def _time_round(
    profile: AcceleratorProfile, model: NominalModel, row: Row, sequences: float, at_once: float
) -> float:
    """Return seconds in which so many sequences are prefilled and decoded to their end."""
    ratio = row.prompt / row.output
    budget = min(MOST_TOKENS, max(LEAST_TOKENS, at_once * (1 + ratio)))
    decoding = min(sequences, budget / (1 + ratio))
    mixed = max(1.0, sequences * row.prompt / (budget - decoding))
    new = sequences * row.prompt / mixed
    context = row.prompt + row.output / 2
    chunks = max(1.0, new / row.prompt)
    ends = new if new >= row.prompt else (row.prompt + new) / 2
    both = StepWork(decoding, decoding * context, chunks, new, ends, new * row.prompt / 2)
    seconds = mixed * time_work(profile, model, row.devices, both)
    if mixed < row.output:
        alone = StepWork(sequences, sequences * context)
        seconds += (row.output - mixed) * time_work(profile, model, row.devices, alone)
    return seconds


@dataclass(frozen=True, slots=True)
class Load:
    """What clients feel: s to the first token, s from token to token, output tokens/s."""

    first: float
    between: float
    rate: float


@dataclass(slots=True)
class _Client:
    sent: float
    done: int = 0
    out: int = 0
    first: float = 0.0


def simulate_load(
    profile: AcceleratorProfile,
    model: NominalModel,
    devices: int,
    clients: int,
    lengths: tuple[int, int],
) -> Load:
    """Return what clients feel that each send a request, wait for its end and send the next.

    All begin at once and send three requests each; means are over the last two of three parts.
    Sequences beyond what the cache holds wait.
    """
    prompt, output = lengths
    at_once = int(count_reserved(profile, model, devices, prompt + output))
    waiting = [_Client(0.0) for _ in range(clients)]
    running: list[_Client] = []
    ended: list[tuple[_Client, float]] = []
    now = 0.0
    while len(ended) < 3 * clients:
        while waiting and len(running) < at_once:
            running.append(waiting.pop(0))
        now += _run_step(profile, model, devices, running, prompt)
        for each in running:
            if each.done == prompt:
                each.out += 1
                each.first = each.first or now
        for each in [one for one in running if one.out == output]:
            running.remove(each)
            ended.append((each, now))
            waiting.append(_Client(now))
    counted = ended[clients:]
    first = sum(each.first - each.sent for each, _ in counted) / len(counted)
    between = sum(end - each.first for each, end in counted) / len(counted) / (output - 1)
    span = ended[-1][1] - ended[clients - 1][1]
    return Load(first, between, len(counted) * output / span)


def _run_step(
    profile: AcceleratorProfile,
    model: NominalModel,
    devices: int,
    running: list[_Client],
    prompt: int,
) -> float:
    """Prefill what the step's tokens allow, in order of arrival, and decode the rest."""
    decoding = [each for each in running if each.done == prompt]
    budget = LOAD_TOKENS - len(decoding)
    chunks, new, ends, pairs = 0, 0, 0, 0.0
    for each in running:
        if each.done < prompt and budget > 0:
            take = min(budget, prompt - each.done)
            pairs += take * (each.done + take / 2)
            each.done += take
            budget -= take
            chunks, new, ends = chunks + 1, new + take, ends + each.done
    context = sum(prompt + each.out for each in decoding)
    return time_work(
        profile, model, devices, StepWork(len(decoding), context, chunks, new, ends, pairs)
    )
