"""Known answers: what a worker must say to prompts whose answers were recorded beside its weights.

The worker gives the list and answers the prompts; the comparison is ours (`rounds`), for a device
that computes wrongly cannot be asked whether it does. Answers do not age: one that we read late,
because our own loop was, counts like any other, and one that did not come says nothing of the
device. Whether anybody is there at all is for the liveness probes.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import aiohttp
from pydantic import Field

from sluice.decide import limits
from sluice.model.clock import Clock
from sluice.model.snapshot import KnownAnswers
from sluice.observe.asking import (
    NoVerdictError,
    Reply,
    SilentError,
    UnavailableError,
    UnreadableError,
    ask,
    parse,
)
from sluice.observe.knownlists import Kind, KnownList, ListBook, Named, Pair, Ruling, Token
from sluice.observe.rounds import Round

PER_SECOND = 4.0
"""Rounds a second over all targets: 40 workers, each every 10 s."""


@dataclass(frozen=True, slots=True)
class AnswerTarget:
    """Whom to ask.

    Attributes:
        key: worker's pod uid, or `uid/slot` for a container of a probation pod.
        uid: the pod's, for the fence.
        url: base URL, without a slash at its end.
        period: seconds from the start of a round to that of the next, at least.
        timeout: seconds for one prompt.
        proving: it is on a node that has to prove itself within a time, however large the fleet.
    """

    key: str
    uid: str
    url: str
    period: float
    timeout: float = 5.0
    proving: bool = False


class _Answer(Named):
    output: Annotated[list[Token], Field(max_length=8192)]
    logprobs: Annotated[list[float | None], Field(max_length=8192)] | None = None


class AnswerProber:
    """One task a target; results by the target's key.

    A worker whose list is not the one that rules (`ListBook`) is not judged, and says so: it cannot
    lower the bar, neither for itself nor for others.

    Args:
        session: HTTP client for all rounds.
        clock: steady clock of the operator.
        changed: called when a round was wrong, when a first one was right, and when it changes
            whether anything can be judged.
        per_second: rounds a second over all targets; new targets begin one after the other.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        clock: Clock,
        changed: Callable[[], None],
        per_second: float = PER_SECOND,
    ) -> None:
        self._session = session
        self._clock = clock
        self._changed = changed
        self._gap = 1.0 / per_second
        # First come, first served; of those that prove themselves and the others, turn about.
        self._turn = asyncio.Lock()
        self._lines = {proving: asyncio.Lock() for proving in (True, False)}
        self._free_at = 0.0
        self._tasks: dict[str, tuple[AnswerTarget, asyncio.Task[None]]] = {}
        self._results: dict[str, KnownAnswers] = {}
        self._book = ListBook()
        self.unanswered = 0

    def results(self) -> dict[str, KnownAnswers]:
        """Return what is known, by key."""
        return dict(self._results)

    def set_targets(self, targets: list[AnswerTarget]) -> None:
        """Ask exactly these from now on."""
        wanted = {target.key: target for target in targets}
        for key in [key for key in self._tasks if key not in wanted]:
            self._tasks.pop(key)[1].cancel()
            self._results.pop(key, None)
            self._book.drop(key)
        for key, target in wanted.items():
            running = self._tasks.get(key)
            # As with liveness: a task that ended by a mistake of ours is begun again.
            if running is not None and running[0] == target and not running[1].done():
                continue
            if running is not None:
                running[1].cancel()
            self._tasks[key] = (target, asyncio.create_task(self._follow(target)))

    def stop(self) -> None:
        """End all asking."""
        self.set_targets([])

    async def _follow(self, target: AnswerTarget) -> None:
        while True:
            await self._wait_for_turn(target)
            began = time.monotonic()
            try:
                wrong = await self._run_round(target)
            except NoVerdictError as error:
                self.unanswered += 1
                self._note_no_verdict(target.key, timed_out=isinstance(error, SilentError))
            except UnavailableError as why:
                self._note_unavailable(target.key, str(why))
            else:
                self._note(target.key, wrong)
            await asyncio.sleep(max(0.0, began + target.period - time.monotonic()))

    async def _wait_for_turn(self, target: AnswerTarget) -> None:
        async with self._lines[target.proving], self._turn:
            await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))
            self._free_at = time.monotonic() + self._gap

    async def _run_round(self, target: AnswerTarget) -> str:
        """Ask the prompts until something is wrong; return what, or ""."""
        kind, ruling = await self._fetch_list(target)
        judged = Round(ruling.answers, ruling.tolerance)
        for number, pair in enumerate(ruling.answers, 1):
            # What was wrong stays wrong, also if the worker hangs at the next prompt.
            if wrong := await self._ask_one(target, kind, number, pair, judged):
                return wrong
        return ""

    async def _ask_one(
        self, target: AnswerTarget, kind: Kind, number: int, pair: Pair, judged: Round
    ) -> str:
        """Ask one prompt; return what is wrong with the round so far, or ""."""
        body = {"prompt": pair.prompt, "maxTokens": len(pair.output)}
        reply = await ask(self._session, target.url, target.uid, target.timeout, body)
        try:
            answer = _read_answer(reply, kind, number)
        except UnreadableError as error:
            if reply.signed:
                return f"prompt {number}: the answer cannot be read: {error}"
            raise UnavailableError(
                f"the answer to prompt {number} cannot be read, and names no worker that gave it:"
                f" {error}"
            ) from error
        return judged.judge(answer.output, answer.logprobs)

    async def _fetch_list(self, target: AnswerTarget) -> tuple[Kind, Ruling]:
        try:
            given = await self._read_list(target)
        except UnavailableError:
            self._book.drop(target.key)
            raise
        own = given.rule()
        if not self._book.has(target.key, given.kind, own):
            # Rounds of another model prove nothing of this one, nor do those by another list.
            before = self._results.get(target.key)
            if before is not None and before.right:
                self._results[target.key] = replace(before, right=0, right_at=())
        ruling = self._book.take(target.key, target.uid, given.kind, own)
        if ruling != own:
            raise UnavailableError(
                f"its list of known answers for {_name(given)} contradicts that of most workers,"
                f" or a stricter one of as many ({_describe(own)}, the other {_describe(ruling)}):"
                " probes.json must be the same beside all copies of a model"
            )
        return given.kind, ruling

    async def _read_list(self, target: AnswerTarget) -> KnownList:
        reply = await ask(self._session, target.url, target.uid, target.timeout)
        try:
            given = parse(KnownList, reply.data)
        except UnreadableError as error:
            raise UnavailableError(
                f"the worker's list of known answers cannot be read: {error}"
            ) from error
        if not given.answers:
            raise UnavailableError(
                f"its list of known answers for {_name(given)} is empty; record one with"
                " 'sluice model record'"
            )
        return given

    def _note(self, key: str, wrong: str) -> None:
        before = self._results.get(key, KnownAnswers())
        if wrong:
            at = self._clock()
            after = KnownAnswers(0, before.wrong + 1, at, wrong, wrong_at=at)
        else:
            after = _add_right(before, self._clock())
        self._results[key] = after
        if wrong or after.right == 1 or before.unavailable:
            self._changed()

    def _note_no_verdict(self, key: str, *, timed_out: bool) -> None:
        # A hung worker is busy with the prompt of the round before: that it says so is no answer.
        if timed_out:
            before = self._results.get(key, KnownAnswers())
            self._results[key] = replace(before, silent=before.silent + 1)

    def _note_unavailable(self, key: str, why: str) -> None:
        before = self._results.get(key, KnownAnswers())
        if why != before.unavailable or before.right:
            self._results[key] = replace(before, right=0, right_at=(), unavailable=why, silent=0)
            self._changed()


def _add_right(before: KnownAnswers, at: float) -> KnownAnswers:
    """Return what is known after one more round answered right."""
    right, when = before.right + 1, (*before.right_at, at)[-limits.PROOF_ROUNDS :]
    if right >= limits.PROOF_ROUNDS:
        return KnownAnswers(right, at=at, right_at=when)
    return KnownAnswers(
        right, before.wrong, at, before.detail, right_at=when, wrong_at=before.wrong_at
    )


def _read_answer(reply: Reply, kind: Kind, number: int) -> _Answer:
    """Return the answer to a prompt.

    Raises:
        UnavailableError: it is of another model or other numerics.
        UnreadableError: it is no answer.
    """
    named = parse(Named, reply.data)
    if named.kind != kind:
        raise UnavailableError(
            f"the answer to prompt {number} is of {_name(named)}, the list of known answers of"
            f" model {kind[0]} in {kind[1]}: both must be of what is loaded"
        )
    return parse(_Answer, reply.data)


def _name(wire: Named) -> str:
    return f"model {wire.model_digest} in {wire.numerics}"


def _describe(ruling: Ruling) -> str:
    within = "no scores" if ruling.tolerance is None else f"scores within {ruling.tolerance:.3g}"
    return f"{len(ruling.answers)} answers, {within}"
