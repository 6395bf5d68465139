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
from http import HTTPStatus
from typing import Annotated, Any, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from sluice.decide import limits
from sluice.model.clock import Clock
from sluice.model.snapshot import KnownAnswers
from sluice.observe.probes import UID_HEADER
from sluice.observe.rounds import Round
from sluice.observe.text import clean_text

PATH = "/internal/known-answers"
PER_SECOND = 4.0
"""Rounds a second over all targets: 40 workers, each every 10 s."""

BODY_LIMIT = 1 << 20
"""Bytes; the lists are a few kilobytes."""

LISTS_KEPT = 64
"""Lists of different models or numerics that are remembered; beyond, those nobody uses go."""

_BUSY = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.MISDIRECTED_REQUEST,  # another pod at the address: a matter of liveness
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}


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


class _Wire(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, frozen=True, strict=True, protected_namespaces=()
    )


_Token = Annotated[int, Field(ge=0, lt=1 << 31)]
_Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
_Logprob = Annotated[float, Field(le=0, allow_inf_nan=False)]
_Tolerance = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Pair(_Wire):
    prompt: Annotated[list[_Token], Field(min_length=1, max_length=8192)]
    output: Annotated[list[_Token], Field(min_length=1, max_length=1024)]
    logprobs: list[_Logprob] | None = None


class _Ruling(_Wire):
    """What is compared with: without scores, as of other workers than ours, tokens alone."""

    tolerance: _Tolerance | None = None
    answers: Annotated[list[_Pair], Field(max_length=256)]


class _List(_Ruling):
    model_digest: _Name
    numerics: _Name

    @model_validator(mode="after")
    def _check_scores(self) -> Self:
        for number, pair in enumerate(self.answers, 1):
            if (pair.logprobs is None) != (self.tolerance is None):
                raise ValueError(f"answer {number} has scores or the list a tolerance, not both")
            if pair.logprobs is not None and len(pair.logprobs) != len(pair.prompt) - 1:
                raise ValueError(
                    f"answer {number} has {len(pair.logprobs)} scores of {len(pair.prompt)} tokens;"
                    " all after the first have one"
                )
        return self

    def rule(self) -> _Ruling:
        """Return what rules for the model."""
        return _Ruling.model_construct(tolerance=self.tolerance, answers=self.answers)


class _Answer(_Wire):
    output: Annotated[list[_Token], Field(max_length=8192)]
    logprobs: Annotated[list[float | None], Field(max_length=8192)] | None = None
    model_digest: _Name
    numerics: _Name


class _Message(_Wire):
    message: str


class _Refusal(_Wire):
    error: _Message


_Kind = tuple[str, str]
_Parsed = TypeVar("_Parsed", bound=_Wire)


class _NoVerdictError(Exception):
    """Nobody answered in time: the round does not count."""


class _SilentError(_NoVerdictError):
    """It did not come in time."""


class _UnavailableError(Exception):
    """Nothing can be judged; the message says why."""


class AnswerProber:
    """One task a target; results by the target's key.

    The first list seen of a model and its numerics rules for as long as this process lives: a
    worker that brings another one cannot lower the bar, neither for itself nor for others.

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
        self._lists: dict[_Kind, _Ruling] = {}
        self._kinds: dict[str, _Kind] = {}
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
            self._kinds.pop(key, None)
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
            except _NoVerdictError as error:
                self.unanswered += 1
                self._note_no_verdict(target.key, timed_out=isinstance(error, _SilentError))
            except _UnavailableError as why:
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
            body = {"prompt": pair.prompt, "maxTokens": len(pair.output)}
            answer = _parse(_Answer, await self._call(target, body), f"answer to prompt {number}")
            if (answer.model_digest, answer.numerics) != kind:
                raise _UnavailableError(
                    f"the answer to prompt {number} is of {_name(answer)}, the list of known"
                    f" answers of model {kind[0]} in {kind[1]}: both must be of what is loaded"
                )
            # What was wrong stays wrong, also if the worker hangs at the next prompt.
            if wrong := judged.judge(answer.output, answer.logprobs):
                return wrong
        return ""

    async def _fetch_list(self, target: AnswerTarget) -> tuple[_Kind, _Ruling]:
        given = _parse(_List, await self._call(target), "list of known answers")
        if not given.answers:
            raise _UnavailableError(
                f"its list of known answers for {_name(given)} is empty; record one with"
                " 'sluice model record'"
            )
        kind = (given.model_digest, given.numerics)
        if self._kinds.get(target.key) != kind:
            # Rounds of another model prove nothing of this one.
            before = self._results.get(target.key)
            if before is not None and before.right:
                self._results[target.key] = replace(before, right=0, right_at=())
            self._kinds[target.key] = kind
        own = given.rule()
        ruling = self._remember(kind, own)
        if ruling != own:
            raise _UnavailableError(
                f"its list of known answers for {_name(given)} contradicts the one that was seen"
                f" first ({_describe(own)}, first seen {_describe(ruling)}): probes.json must be"
                " the same beside all copies of a model; restart the operator if it was recorded"
                " again"
            )
        return kind, ruling

    def _remember(self, kind: _Kind, ruling: _Ruling) -> _Ruling:
        if kind not in self._lists:
            if len(self._lists) >= LISTS_KEPT:
                used = set(self._kinds.values())
                self._lists = {k: known for k, known in self._lists.items() if k in used}
            if len(self._lists) >= LISTS_KEPT:
                raise _UnavailableError(
                    f"known answers of {LISTS_KEPT} models are in use; no more are remembered"
                )
            self._lists[kind] = ruling
        return self._lists[kind]

    async def _call(self, target: AnswerTarget, body: dict[str, Any] | None = None) -> bytes:
        """Send one request and return the body of its 200.

        Raises:
            _NoVerdictError: no answer in time, or the worker is busy or broken.
            _UnavailableError: it answers that it cannot, or with too much.
        """
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                target.url + PATH,
                json=body,
                headers={UID_HEADER: target.uid, "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=target.timeout),
                allow_redirects=False,  # a worker sends us nowhere
            ) as response:
                data = await _read_bounded(response)
                status = response.status
                other = response.headers.get(UID_HEADER, target.uid) != target.uid
        except TimeoutError as error:
            raise _SilentError from error
        except (aiohttp.ClientError, OSError) as error:
            raise _NoVerdictError from error
        if other or status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _NoVerdictError
        if status != HTTPStatus.OK:
            said = _find_message(data)
            raise _UnavailableError(said or f"the worker answers {status} without a reason")
        return data

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


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > BODY_LIMIT:
            response.close()
            raise _UnavailableError(
                f"the worker sends more than {BODY_LIMIT} bytes for a known answer"
            )
    return bytes(data)


def _parse(kind: type[_Parsed], data: bytes, what: str) -> _Parsed:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = clean_text(f"{place}: {first['msg']}" if place else first["msg"])
        raise _UnavailableError(f"the worker's {what} cannot be read: {said}") from error


def _find_message(data: bytes) -> str:
    """Return the message of an error body in OpenAI's form, cleaned, or ""."""
    try:
        found = _Refusal.model_validate_json(data)
    except ValidationError:
        return ""
    return clean_text(found.error.message)


def _name(wire: _List | _Answer) -> str:
    return f"model {wire.model_digest} in {wire.numerics}"


def _describe(ruling: _Ruling) -> str:
    within = "no scores" if ruling.tolerance is None else f"scores within {ruling.tolerance:.3g}"
    return f"{len(ruling.answers)} answers, {within}"
