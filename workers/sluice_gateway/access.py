"""Who may ask for what, and how much of it: the first thing that a request meets.

Without keys everybody may do everything. With keys, a request shows one before its body is read;
what it asks for is then held against the limits of that key, at this gateway.
"""

import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, NoReturn, Self

from sluice_gateway.allowances import Allowance
from sluice_gateway.answers import (
    Answer,
    Refusal,
    refuse_model,
    refuse_request,
    render_error,
)
from sluice_gateway.apikeys import ApiKey
from sluice_gateway.attempts import Exchange
from sluice_gateway.calls import Call
from sluice_gateway.fleet import Fleet
from sluice_gateway.keystore import KeyStore
from sluice_gateway.members import Pool
from sluice_gateway.usage import UsageLog

_BYTES_PER_TOKEN: Final = 4
"""Of text, as OpenAI's rate limits estimate it. Only until the worker has counted."""
_OUTPUT_GUESS: Final = 256
"""Tokens that are reserved for an answer whose request names no bound."""


class Access:
    """Checks keys and their limits.

    Args:
        store: The valid keys; None if everybody may do everything.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: KeyStore | None,
        fleet: Fleet,
        usage: UsageLog,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._usage = usage
        self._clock = clock
        self._allowances: dict[str, Allowance] = {}

    def identify(self, headers: Mapping[str, str], exchange: Exchange) -> ApiKey | None:
        """Return the key of a request, and note its name; None if none is needed.

        Raises:
            Refusal: With a 401, if there is none, or it is not known.
        """
        if self._store is None:
            return None
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            _refuse_stranger(
                exchange, "no API key: send it as the header `Authorization: Bearer KEY`"
            )
        key = self._store.find(token)
        if key is None:
            _refuse_stranger(exchange, "the API key is not known here")
        exchange.key = key.name
        return key

    def visit(self, headers: Mapping[str, str], exchange: Exchange) -> "Visit":
        """Return a completion request's visit; it lasts while its context does.

        Raises:
            Refusal: With a 401 or a 429, if it may not come in.
        """
        key = self.identify(headers, exchange)
        if key is None:
            return Visit(None, exchange, self)
        now = self._clock()
        allowance = self._find_allowance(key, now)
        limit = key.limits.concurrency
        if limit is not None and allowance.running >= limit:
            self.refuse(key, "concurrency", f"{limit} requests at a time", wait=1.0)
        if allowance.requests is not None:
            wait = allowance.requests.find_wait(1, now)
            if wait > 0:
                exchange.headers |= allowance.render_headers(now)
                most = allowance.requests.most
                self.refuse(key, "requests", f"{most} requests a minute", wait=wait)
            allowance.requests.take(1, now)
        return Visit(key, exchange, self, allowance)

    def list_pools(self, key: ApiKey | None) -> list[Pool]:
        """Return the pools whose models a key may use, by model name."""
        pools = self._fleet.list_models()
        return [p for p in pools if key is None or key.allows(p.spec.key, p.spec.model)]

    def find_pool(self, key: ApiKey | None, model: str) -> Pool:
        """Return the pool of a model that a key may use.

        Raises:
            Refusal: With a 404, if there is none; it names the models that the key may use.
        """
        pool = self._fleet.find_pool(model)
        if pool is None or (key is not None and not key.allows(pool.spec.key, model)):
            if key is not None and pool is not None:
                self._usage.note_refusal(key.name, "model")
            served = [known.spec.model for known in self.list_pools(key)]
            raise Refusal(refuse_model(model, served), "unknown_model")
        return pool

    def refuse(self, key: ApiKey, limit: str, said: str, *, wait: float) -> NoReturn:
        """Refuse what is beyond a limit.

        Raises:
            Refusal: With a 429, always.
        """
        self._usage.note_refusal(key.name, limit)
        after = max(1, math.ceil(wait))
        message = f"rate limit of the API key {key.name}: {said}; try again in {after} s"
        kind = "tokens" if limit == "tokens" else "requests"
        body = render_error(message, kind=kind, code="rate_limit_exceeded")
        raise Refusal(Answer(429, body, retry_after=after), "key_limit")

    def reserve_tokens(self, key: ApiKey, allowance: Allowance, call: Call) -> int:
        """Take the tokens that a request may use out of its key's limit; return how many.

        Raises:
            Refusal: With a 429, if so many are not left.
        """
        level = allowance.tokens
        if level is None:
            return 0
        now = self._clock()
        prompt = estimate_prompt(call)
        if call.tokens_most is None:
            needed = min(level.most, prompt + _OUTPUT_GUESS * call.sequences)
        else:
            needed = prompt + call.tokens_most * call.sequences
        said = f"{level.most} tokens a minute; this request may use {needed}"
        if needed > level.most:
            self.refuse(key, "tokens", f"{said}, more than ever: lower max_tokens", wait=60.0)
        wait = level.find_wait(needed, now)
        if wait > 0:
            self.refuse(key, "tokens", said, wait=wait)
        level.take(needed, now)
        return needed

    def settle(self, visit: "Visit", tokens: tuple[int, int]) -> None:
        """Put what was used in the place of what was reserved, and count it."""
        exchange, key = visit.exchange, visit.key
        if visit.allowance.tokens is not None:
            visit.allowance.tokens.take(sum(tokens) - visit.reserved, self._clock())
        if key is None or exchange.pool is None:
            return
        spec = exchange.pool.spec
        worker = exchange.worker
        variant = worker.variant if worker else ""
        self._usage.note(key.name, pool=spec.key, model=spec.model, variant=variant, tokens=tokens)

    def note_limits(self, visit: "Visit") -> None:
        """Tell the client what is left of its limits."""
        visit.exchange.headers |= visit.allowance.render_headers(self._clock())

    def forget_departed(self) -> None:
        """Drop what is known of keys that are gone."""
        known = self._store.keys if self._store else {}
        gone = self._allowances.keys() - known.keys()
        for name in gone:
            del self._allowances[name]
        self._usage.forget_keys(gone)

    def _find_allowance(self, key: ApiKey, now: float) -> Allowance:
        allowance = self._allowances.get(key.name)
        if allowance is None:
            allowance = self._allowances[key.name] = Allowance()
        allowance.adopt(key.limits, now)
        return allowance


class Visit:
    """One completion request, from its key to its end.

    Attributes:
        key: None if none is needed.
        reserved: Tokens taken out of its key's limit.
    """

    def __init__(
        self,
        key: ApiKey | None,
        exchange: Exchange,
        access: Access,
        allowance: Allowance | None = None,
    ) -> None:
        self._access = access
        self._call: Call | None = None
        self.key = key
        self.exchange = exchange
        self.allowance = allowance or Allowance()
        self.reserved = 0

    def __enter__(self) -> Self:
        self.allowance.running += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.allowance.running -= 1
        if self._call is not None:
            gone = error is not None and not isinstance(error, Refusal)
            self._access.settle(self, count_tokens(self.exchange, self._call, gone=gone))

    def claim(self, call: Call) -> None:
        """Hold what the request asks for against its key.

        Raises:
            Refusal: With a 404 or a 429, if it may not have it.
        """
        if self.key is None:
            return
        self._access.find_pool(self.key, call.model)
        try:
            self.reserved = self._access.reserve_tokens(self.key, self.allowance, call)
        finally:
            self._access.note_limits(self)
        self._call = call


def count_tokens(exchange: Exchange, call: Call, *, gone: bool) -> tuple[int, int]:
    """Return the tokens of prompt and output that count for a key.

    What the worker has counted, where it has. Of an answer that broke off, the prompt is estimated;
    so it is if the client went away (`gone`). An error costs nothing.
    """
    if any(exchange.tokens):
        return exchange.tokens
    source = exchange.transcript or (exchange.attempts[-1] if exchange.attempts else None)
    prompt, output = source.count_tokens() if source else (0, 0)
    if output or (gone and exchange.attempts):
        return prompt or estimate_prompt(call), output
    return prompt, output


def estimate_prompt(call: Call) -> int:
    """Return about how many tokens a prompt has."""
    return -(-call.prompt_size // _BYTES_PER_TOKEN)


def _refuse_stranger(exchange: Exchange, message: str) -> NoReturn:
    exchange.headers["WWW-Authenticate"] = "Bearer"
    answer = refuse_request(message, code="invalid_api_key", status=401)
    raise Refusal(answer, "unauthorized")
