"""A worker that knows its answers, and answers as it is told; and what tests do with it."""

import asyncio

from aiohttp import web

from sluice.model.snapshot import KnownAnswers
from sluice.observe.answers import AnswerTarget
from sluice.observe.probes import UID_HEADER

ANSWERS = [
    {"prompt": [1, 2, 3], "output": [4, 5]},
    {"prompt": [9], "output": [4, 17, 9]},
]
SCORED = [
    {"prompt": [1, 2, 3], "output": [4, 5], "logprobs": [-1.5, -0.25]},
    {"prompt": [9], "output": [4, 17, 9], "logprobs": []},
    {"prompt": [9, 8, 7], "output": [6], "logprobs": [-4, 0.0]},
]
TOLERANCE = 0.1


class FakeWorker:
    """Knows its answers, and answers as told."""

    def __init__(self):
        self.digest, self.numerics, self.answers = "sha256:ab", "float32", list(ANSWERS)
        self.outputs = {tuple(a["prompt"]): a["output"] for a in ANSWERS}
        self.tolerance, self.scores = None, {}
        self.spoken_digest = None
        self.refusal, self.said, self.body, self.given = None, {}, None, None
        self.heard, self.asked, self.listed = asyncio.Event(), 0, 0
        self.heard.set()
        self.uid, self.limits, self.times = None, [], []
        self.signed = True  # or not, as what a proxy says

    def know_scores(self):
        """Know the scores of the prompts, too, and give them."""
        self.tolerance, self.answers = TOLERANCE, list(SCORED)
        self.outputs = {tuple(a["prompt"]): a["output"] for a in SCORED}
        self.scores = {tuple(a["prompt"]): list(a["logprobs"]) for a in SCORED}

    def _respond(self, request, document):
        uid = self.uid or request.headers[UID_HEADER]
        if self.refusal:
            return web.json_response(
                self.said, status=self.refusal, headers={UID_HEADER: uid, "Location": "/elsewhere"}
            )
        return web.json_response(document, headers={UID_HEADER: uid})

    async def list(self, request):
        self.listed += 1
        self.times.append(asyncio.get_running_loop().time())
        if self.given is not None:
            return web.Response(body=self.given)
        document = {
            "modelDigest": self.digest,
            "numerics": self.numerics,
            "answers": self.answers,
        }
        if self.tolerance is not None:
            document["tolerance"] = self.tolerance
        return self._respond(request, document)

    async def answer(self, request):
        self.asked += 1
        question = await request.json()
        self.limits.append(question["maxTokens"])
        await self.heard.wait()
        if self.body is not None:
            signed = {UID_HEADER: self.uid or request.headers[UID_HEADER]}
            return web.Response(body=self.body, headers=signed if self.signed else {})
        document = {
            "output": self.outputs[tuple(question["prompt"])],
            "modelDigest": self.spoken_digest or self.digest,
            "numerics": self.numerics,
        }
        if (scores := self.scores.get(tuple(question["prompt"]))) is not None:
            document["logprobs"] = scores
        return self._respond(request, document)


def target(worker, key="w", period=0.01, timeout=5.0, **more):
    return AnswerTarget(key, key.split("/")[0], worker.url, period, timeout, **more)


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def find(prober, key="w"):
    return prober.results().get(key, KnownAnswers())
