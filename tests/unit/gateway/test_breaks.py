"""A request that may be what ends workers is not tried on all of them; others are not taken for it.

In virtual time.
"""

import asyncio
from dataclasses import replace

import pytest

from sluice_gateway.answers import Answer, Refusal
from sluice_gateway.attempts import Exchange
from sluice_gateway.faults import tell_lost
from sluice_gateway.settings import Relaying

from .simworld import CALL, NoClient, SimGateway, run_virtually

WORKERS = ("gpu",) * 6
PAUSE = Relaying().loss_pause


class Breaking:
    """Loses one worker after the other, and answers at last.

    Attributes:
        began: When each attempt did.
    """

    def __init__(self, codes, *, after, lose_another=None):
        self.began = []
        self._codes = list(codes)
        self._after = after
        self._lose_another = lose_another

    async def carry(self, attempt, *_arguments):
        self.began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._after)
        if self._lose_another is not None and len(self.began) > 1:
            self._lose_another(attempt.worker)
        if self._codes:
            raise tell_lost(self._codes.pop(0), "the connection broke")
        return Answer(200, b"{}")


def ask(codes, *, after=0.0, streaming=False, storm=False):
    """Return what becomes of a request whose workers are lost with such codes."""

    async def run():
        door = SimGateway({}, WORKERS, seed=1)
        pool = door.fleet.pools["default/chat"]

        def lose_another(worker):
            other = next(one for one in pool.workers.values() if one is not worker)
            pool.note_loss(other, asyncio.get_running_loop().time(), counts=True)

        upstream = door.relay._upstream = Breaking(
            codes, after=after, lose_another=lose_another if storm else None
        )
        exchange = Exchange("r", CALL.path, 0.0, 0.0)
        try:
            call = replace(CALL, streaming=streaming)
            status = (await door.relay.serve(exchange, call, NoClient())).status
        except Refusal as refusal:
            status = refusal.outcome
        return status, upstream.began, exchange

    return run_virtually(run())


def test_a_request_is_given_up_after_three_and_waits_before_the_third():
    status, began, exchange = ask(["reset", "truncated", "reset", "reset"])
    assert (status, len(began)) == ("broke_workers", 3)
    assert began[1] - began[0] < 0.1
    assert 0.5 * PAUSE <= began[2] - began[1] <= 1.5 * PAUSE
    assert exchange.waited >= 0.5 * PAUSE


@pytest.mark.parametrize("code", ["connect", "probes_failed", "fenced", "misdirected"])
def test_only_workers_that_had_the_request_count(code):
    status, began, _ = ask([code] * 5)
    assert (status, len(began)) == (200, 6)
    assert began[-1] < 0.1  # and nobody waits


def test_an_answer_in_one_piece_that_ran_long_was_being_computed():
    status, began, _ = ask(["reset"] * 5, after=3.0)
    assert (status, len(began)) == (200, 6)


def test_of_a_stream_a_token_is_what_shows_that():
    status, began, _ = ask(["reset"] * 5, after=3.0, streaming=True)
    assert (status, len(began)) == ("broke_workers", 3)


def test_where_workers_are_lost_without_it_no_request_is_to_blame():
    status, began, _ = ask(["reset"] * 5, after=2.0, streaming=True, storm=True)
    assert len(began) == 6
    assert status == 200


def test_two_requests_that_end_workers_are_little_of_an_excuse_for_each_other():
    async def run():
        door = SimGateway({}, ("gpu",) * 12, seed=1)
        upstream = door.relay._upstream = Breaking(["reset"] * 99, after=0.3)

        async def serve(number):
            with pytest.raises(Refusal) as caught:
                await door.relay.serve(Exchange(str(number), CALL.path, 0.0, 0.0), CALL, NoClient())
            return caught.value.outcome

        told = await asyncio.gather(*(serve(number) for number in range(2)))
        return told, len(upstream.began)

    told, attempts = run_virtually(run())
    assert told == ["broke_workers"] * 2
    assert attempts <= 8
