"""What undisturbed workers answer, by accelerator class: what answers under load are held against.

Greedy answers depend on what a worker computes in, so each class has its own. A worker of the same
engine and the same weights, alone on this machine and in the class's numerics, gives them; batches
change nothing (docs/numerics.md), so that one other token in the cluster is a fault.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import aiohttp

from sluice.api.accelerator import AcceleratorClass
from sluice.api.numerics import choose_numerics
from sluice.api.pool import InferencePoolSpec
from sluice.cli.demo.load import Load
from sluice.cli.demo.prompts import LONGEST_OUTPUT, Question
from sluice.cli.errors import CommandError
from sluice.devcluster.networks import choose_port
from sluice.model.names import WORKER_PORT

Answers = Mapping[str, str]
"""By prompt."""

AT_ONCE = 8
"""Questions; as many as a worker runs at once."""
START_SECONDS = 60.0
LOOK_EVERY = 0.1
UNSAID = "float32"
"""What a worker computes in that is told nothing."""


def read_numerics(kubectl: Callable[..., str], pool: str) -> dict[str, str]:
    """Return what the workers of a pool's variants compute in, by class, as the cluster says.

    Args:
        kubectl: runs kubectl with some arguments and returns what it printed.
        pool: name, in namespace default.
    """
    listed = json.loads(kubectl("get", "accel", "-o", "json"))["items"]
    classes = {one["metadata"]["name"]: AcceleratorClass.model_validate(one) for one in listed}
    found = json.loads(kubectl("get", "ipool", pool, "-o", "json"))["spec"]
    return {
        variant.accelerator_class: choose_numerics(variant, classes[variant.accelerator_class].spec)
        or UNSAID
        for variant in InferencePoolSpec.model_validate(found).variants
    }


async def answer_questions(
    models: Path,
    questions: Sequence[Question],
    numerics: Mapping[str, str],
    max_tokens: int = LONGEST_OUTPUT,
) -> dict[str, Answers]:
    """Return the undisturbed answers by class; classes that compute alike share theirs.

    Args:
        models: directory of the compact model's.
        questions: what to ask.
        numerics: of each class.
        max_tokens: of each answer.

    Raises:
        CommandError: a worker does not start, or does not answer.
    """
    names = set(numerics.values())
    answers = {name: await _ask(models, questions, name, max_tokens) for name in names}
    return {one: answers[name] for one, name in numerics.items()}


async def _ask(
    models: Path, questions: Sequence[Question], numerics: str, max_tokens: int
) -> Answers:
    from openai import AsyncOpenAI  # noqa: PLC0415

    async with run_worker(models / "compact", numerics) as url:
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        load = Load(client, "compact", questions, iter(()), [1.0])
        try:
            asked = await load.ask_all(AT_ONCE, max_tokens)
        finally:
            await client.close()
    broken = [one.error for one in asked if one.error]
    if broken:
        raise CommandError(f"A worker in {numerics} does not answer: {broken[0]}")
    return {one.question.prompt: one.text for one in asked}


@asynccontextmanager
async def run_worker(model: Path, numerics: str) -> AsyncIterator[str]:
    """Run a worker on loopback, as fast as it can be; yield its URL."""
    port = choose_port("127.0.0.1", WORKER_PORT)
    command = [
        *("-P", "-m", "sluice_worker", f"--model-path={model}", "--served-model-name=compact"),
        *("--host=127.0.0.1", f"--port={port}", f"--numerics={numerics}"),
        f"--max-num-seqs={AT_ONCE}",
    ]
    with tempfile.TemporaryFile("w+") as said:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await _await_ready(worker, url, numerics, said)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()


async def _await_ready(worker: Any, url: str, numerics: str, said: IO[str]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        while worker.returncode is None and loop.time() < deadline:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{url}/readyz") as answer:
                    if answer.ok:
                        return
            await asyncio.sleep(LOOK_EVERY)
    said.seek(0)
    lines = said.read().strip().splitlines() or [f"not ready after {START_SECONDS:.0f} s"]
    raise CommandError(f"A worker in {numerics} does not start: {lines[-1]}")


def find_different(answers: Mapping[str, Answers]) -> list[str]:
    """Return the prompts that not all classes answer alike."""
    prompts = dict.fromkeys(prompt for each in answers.values() for prompt in each)
    return [one for one in prompts if len({each.get(one) for each in answers.values()}) > 1]


def measure_accuracy(answers: Answers, questions: Sequence[Question]) -> float:
    """Return the share of questions that are answered rightly, 0 to 1."""
    return sum(answers.get(one.prompt) == one.answer for one in questions) / len(questions)
