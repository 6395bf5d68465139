"""Foresees requests on a fleet's workers, and learns from what came of them.

Puts together what is known of a worker (its engine or its pace, what runs on it, how far off
predictions for it and its class were) and of a pool's requests (how long they are), so that the
fleet can rank by it. Times are passed in.
"""

import math
from dataclasses import replace
from typing import Final

from sluice_gateway.answerlengths import Spread
from sluice_gateway.calls import Call
from sluice_gateway.engines import LearntSteps, Steps
from sluice_gateway.forecast import (
    Forecast,
    Need,
    count_sequences,
    expect_left,
    predict,
    weigh_load,
)
from sluice_gateway.goals import Goal, RequestClass
from sluice_gateway.members import Pool, Running, Weight, Worker
from sluice_gateway.settings import Patience
from sluice_gateway.transcript import Transcript

_PER_BYTE: Final = 0.3
"""Tokens a byte of a prompt, until a pool's own requests have told."""
_OUTPUT: Final = 64.0
"""Tokens of an answer, likewise."""
_SEQUENCES_MOST: Final = 256
"""Beyond these none is reckoned with: no worker takes a request for so many."""
_LEAST_SIZE: Final = 4
_EVERY: Final = 8
"""Tokens after which a worker's steps are compared with what was predicted of them."""
_FRESH: Final = 0.1
"""Seconds for which the weight of what runs is believed, if nothing begins or ends: a few steps."""
_TOLD: Final = 5
"""Observations after which a worker's own pace says enough."""


def assess(pool: Pool, call: Call, goal: Goal, *, waited: float) -> Need:
    """Return what a request asks of a worker, after it has waited so many seconds."""
    lengths = pool.lengths
    per_byte = lengths.per_byte.value if lengths.per_byte.count else _PER_BYTE
    most = float(call.tokens_most or math.inf)
    answers = lengths.answers.spread
    output = min(most, lengths.output.value if lengths.output.count else _OUTPUT)
    if answers is not None:
        output = answers.expect_left(0.0, most)
    return Need(
        prompt=max(1.0, per_byte * max(_LEAST_SIZE, call.prompt_size)),
        output=max(1.0, output),
        goal=goal,
        ttft=max(0.0, goal.ttft - waited),
        output_most=most,
        choices=min(_SEQUENCES_MOST, call.sequences),
        finish=goal.strict and not call.streaming,
        answers=answers,
        prompts=min(call.prompts, _SEQUENCES_MOST),
        batch=goal.kind is RequestClass.BATCH,
    )


def assess_rest(whole: Need, transcript: Transcript) -> Need:
    """Return what is still asked of a worker that goes on with a stream.

    What was given has to be computed like a prompt, and may last as long as a new request's wait.
    Whatever its class, it passes those that wait in a worker, as the most urgent do.

    Args:
        whole: What the request asked for, as it began.
        transcript: What its client was given.
    """
    left = [choice for choice in transcript.choices if not choice.finished]
    given = [len(choice.tokens) + choice.untold for choice in left]
    numbers = {choice.index // transcript.per_prompt for choice in left}
    known = numbers <= transcript.prompts.keys()
    prompts = max(1, len(numbers))
    prompt = prompts * whole.prompt_each
    if known:
        prompt = sum(len(transcript.prompts[number]) for number in numbers)
    mean = sum(given) / max(1, len(given))
    most = max(1.0, whole.output_most - mean)
    answers = whole.answers and Spread(whole.answers.list_left(mean, whole.output_most))
    return replace(
        whole,
        prompt=max(1.0, prompt + sum(given)),
        output=min(most, expect_left(whole, mean)),
        ttft=whole.goal.ttft,
        goal=replace(whole.goal, kind=RequestClass.INTERACTIVE),
        output_most=most,
        choices=max(1, len(left)),
        prompts=prompts,
        answers=answers,
    )


def recall(pool: Pool, call: Call, session: str, need: Need) -> dict[str, float]:
    """Return how many tokens of its prompt workers may have computed already, by uid."""
    blocks = len(call.lead)
    found = {
        uid: need.prompt * have / (blocks + 1)  # what follows the last whole block is new
        for uid, have in (pool.prefixes.find(call.lead).items() if blocks else ())
    }
    if session:
        uid, tokens = pool.prefixes.find_session(session)
        if uid:
            found[uid] = max(found.get(uid, 0.0), min(tokens, need.prompt - 1))
    return found


def remember(pool: Pool, worker: Worker, call: Call, session: str, need: Need) -> None:
    """Note that a worker computes a prompt, and serves a session."""
    pool.prefixes.note(call.lead, worker.uid)
    if session:
        pool.prefixes.note_session(session, worker.uid, need.prompt + need.output)


class Foresight:
    """Predicts, and learns.

    Args:
        patience: Of workers whose engine nobody told, it says how large batch and chunk are.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    def foresee(
        self, pool: Pool, worker: Worker, need: Need, now: float, *, cached: float = 0.0
    ) -> Forecast:
        """Predict a request on a worker, that may have `cached` tokens of its prompt."""
        weight = worker.weight
        if weight is None or now - weight.at > _FRESH:
            weight = self._weigh(pool, worker, now)
        return predict(
            weight.load,
            need,
            worker.steps or self.find_steps(pool, worker),
            step_error=weight.step_error,
            first_error=weight.first_error,
            cached=cached,
        )

    def find_steps(self, pool: Pool, worker: Worker) -> Steps:
        """Return how long a worker's steps take: as its engine's do, or as they were seen to."""
        if worker.steps is not None:
            return worker.steps
        pace, told = worker.pace, self._patience
        token, prefill = pace.token.value, pace.prefill.value
        if pace.token.count < _TOLD or pace.prefill.count < _TOLD:
            outlook = pool.find_outlook(worker, told.chunk_bytes)
            token, prefill = outlook.token, outlook.prefill
        per_byte = pool.lengths.per_byte.value if pool.lengths.per_byte.count else _PER_BYTE
        return LearntSteps(told.slots, told.chunk_bytes, token, prefill / max(per_byte, 1e-3))

    def _weigh(self, pool: Pool, worker: Worker, now: float) -> Weight:
        """Find what runs on a worker, and keep it: some tokens more or less change little."""
        steps = self.find_steps(pool, worker)
        load = weigh_load(worker.running, steps, first_at=worker.first_at, now=now)
        common = pool.errors[worker.variant]
        worker.weight = Weight(
            now,
            load,
            step_error=worker.errors.step.read(now) * common.step.read(now),
            first_error=worker.errors.first.read(now) * common.first.read(now),
        )
        return worker.weight

    def note_tokens(self, pool: Pool, worker: Worker, now: float) -> None:
        """Compare a worker's steps with what was predicted of them, every few tokens."""
        count = worker.pace.token.count
        if count - worker.judged < _EVERY:
            return
        worker.judged = count
        if worker.steps is None or any(count_sequences(r) > 1 for r in worker.running):
            return  # its pace is all that is known of it; and several choices blur it
        weight = self._weigh(pool, worker, now)
        load = weight.load
        if not load.decoding:
            return
        mixed = load.pending[-1] > 0
        running = min(load.decoding + mixed, worker.steps.slots)
        expected = worker.steps.find_time(running, load.context, mixed=mixed)
        expected *= weight.step_error
        if expected > 0 and worker.pace.token.value > 0:
            ratio = worker.pace.token.value / expected
            worker.errors.step.learn(ratio, now)
            pool.errors[worker.variant].step.learn(ratio, now)
            worker.weight = None

    def note_first(self, pool: Pool, worker: Worker, running: Running, now: float) -> None:
        """Learn from the first token of a stream."""
        worker.first_at = now
        worker.weight = None
        bid = running.bid
        if bid is None or bid.ttft <= 0:
            return
        ratio = max(now - running.dispatched, 1e-4) / bid.ttft
        worker.errors.first.learn(ratio, now)
        pool.errors[worker.variant].first.learn(ratio, now)

    @staticmethod
    def note_end(pool: Pool, running: Running) -> None:
        """Learn how long a pool's requests are, from one that was answered to its end."""
        if running.cause:
            return  # it gave a part
        prompt, output = running.count_tokens()
        choices = count_sequences(running)
        if choices >= _SEQUENCES_MOST:
            return  # there may have been more
        times = choices / running.need.prompts if running.need is not None else 1
        if prompt and output and running.size:  # the worker's own count comes with the end
            pool.lengths.per_byte.add(prompt * times / running.size)
            pool.lengths.output.add(output / choices)
            pool.lengths.answers.add(output / choices)
