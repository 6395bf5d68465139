"""A real worker process on devices that may fail: what it is asked, and what shows of it."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package
# ruff: noqa: S310 - the only URL opened is the worker's

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import openai

from sluice.observe.rounds import Round

from ..unit.worker.workerprocess import DEADLINE

COMPACT = Path(__file__).parents[2] / "workers" / "models" / "compact"
EMULATED = ("--profile=maia-200", "--nominal=llama-3.3-70b", "--token-scale=96")
ASKED = {"model": "compact", "prompt": "some text", "seed": 7, "extra_body": {"ignore_eos": True}}
KNOWN = "/internal/known-answers"


def connect(worker):
    return openai.OpenAI(
        base_url=f"{worker.url}/v1", api_key="unused", max_retries=0, timeout=DEADLINE
    )


def ask_known(worker, one, headers=()):
    """Return status and document of a known prompt's answer."""
    body = json.dumps({"prompt": one["prompt"], "maxTokens": len(one["output"])}).encode()
    request = urllib.request.Request(worker.url + KNOWN, body, dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def list_known(worker):
    return json.loads(worker.get(KNOWN)[1])["answers"]


def are_right(worker):
    """Run a round of known answers; tell after each whether all was right, as the operator does."""
    known = json.loads(worker.get(KNOWN)[1])
    judged = Round([SimpleNamespace(**one) for one in known["answers"]], known["tolerance"])
    right = []
    for one in known["answers"]:
        given = ask_known(worker, one)[1]
        right.append(judged.judge(given["output"], given["logprobs"]) == "")
    return right


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begin_stream(client, **over):
    """Return a stream that has begun."""
    stream = client.completions.create(**(ASKED | {"max_tokens": 150, "stream": True} | over))
    next(iter(stream))
    return stream


def count_tokens(worker):
    return worker.metric("vllm:generation_tokens_total")
