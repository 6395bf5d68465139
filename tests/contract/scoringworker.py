"""Fake workers that score tokens, as ours and vLLM do with `prompt_logprobs`."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
import math

from aiohttp import web

from ..unit.gateway.fakeworker import UID_HEADER, FakeWorker, make_words


class ScoringWorker(FakeWorker):
    """Streams with token ids, ends its streams, and expects what it is told to expect.

    Attributes:
        likeliest: What it holds for the likeliest token in each place.
        belief: The probability that it gives it.
        digest: Of its model.
        scored: Bodies of the scorings that it was asked for.
        delay: Seconds that a scoring takes.
    """

    def __init__(self, name, **more):
        super().__init__(name, **more)
        self.likeliest = 7
        self.belief = 0.99
        self.digest = "model-1"
        self.scored = []
        self.delay = 0.0

    async def _do_serve(self, request, document, count):
        headers = {
            UID_HEADER: self.uid,
            "X-Sluice-Numerics": self.variant,
            "X-Sluice-Model-Digest": self.digest,
        }
        if request.path == "/tokenize":
            tokens = list(json.dumps(document.get("messages") or document["prompt"]).encode())
            return web.json_response({"tokens": tokens[:40]}, headers=headers)
        if "prompt_logprobs" in document:
            self.scored.append(document)
            await asyncio.sleep(self.delay)
            return web.json_response(self._score(document["prompt"]), headers=headers)
        if not document.get("stream"):
            return await super()._do_serve(request, document, count)
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        words = make_words(document)
        for number, word in enumerate(words):
            last = number == len(words) - 1
            choice = {
                "index": 0,
                "text": word,
                "logprobs": None,
                "finish_reason": "length" if last else None,
                "token_ids": [100 + number],
            } | ({} if number else {"prompt_token_ids": [7, 8, 9]})
            await self._send(response, {"choices": [choice]})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _score(self, tokens):
        place = {
            str(self.likeliest): {"logprob": math.log(self.belief), "rank": 1},
            "0": {"logprob": math.log((1 - self.belief) / 2), "rank": 2},
        }
        choice = {"index": 0, "text": "", "prompt_logprobs": [None, *[place] * (len(tokens) - 1)]}
        return {"id": "x", "created": 1, "model": "m", "choices": [choice]}


async def add_scoring(world, name, variant, **more):
    """Add such a worker to a world and return it; it serves when `until_usable` says so."""
    worker = world.workers[name] = ScoringWorker(name, variant=variant)
    await worker.start()
    world._stack.push_async_callback(worker.close)
    await world.publish(worker, **more)
    return worker
