"""Chooses what a step computes: who runs, how much of each prompt, and who has to give way.

Lower numbers of `priority` come first, as in vLLM; within one, who arrived first. Every sequence
that decodes gets its token in every step; prompt tokens share a budget. When blocks run out, the
least important, youngest sequence gives its blocks back and waits again. It keeps what it has put
out: that is computed anew with its prompt, to the same bits, and the answer goes on from there.
"""

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluice_worker.blocks import BlockStore, hash_block
from sluice_worker.decoder import Chunk
from sluice_worker.kvcache import KeyValueCache, KeyValuePool, count_blocks
from sluice_worker.metrics import Metrics
from sluice_worker.steplayout import BLOCK

if TYPE_CHECKING:
    from sluice_worker.checkpoint import ModelConfig
    from sluice_worker.sequences import GenerationRequest


@dataclass(frozen=True, slots=True)
class Limits:
    """Sequences at once, prompt tokens a step, and requests that may wait.

    One sequence more, of at most `knownanswers.POSITIONS` tokens, can always run: a known answer.

    Attributes:
        cache_tokens: positions of the KV cache, in whole blocks; None for the context of all
            sequences, with which nobody ever has to give way.
        prefix_cache: whether prefixes are looked for in it.
    """

    sequences: int
    batched_tokens: int
    waiting: int
    cache_tokens: int | None = None
    prefix_cache: bool = True


class Scheduler:
    """Holds the queue, the running sequences and their blocks; the engine's lock guards it.

    Attributes:
        running: from the most important to the least.
        probe: the known prompt that is being answered; its blocks are its own, and it shares none.
    """

    def __init__(self, config: "ModelConfig", limits: Limits, metrics: Metrics) -> None:
        self._config = config
        self._limits = limits
        self._metrics = metrics
        context = config.max_position_embeddings
        size = count_blocks(limits.cache_tokens or limits.sequences * context)
        # One sequence must always be able to end.
        size = max(size, count_blocks(context))
        self._pool = KeyValuePool(config, size)
        self.store = BlockStore(size)
        self._queue: list[tuple[int, int, GenerationRequest]] = []
        self._arrivals = 0
        self._computing: set[GenerationRequest] = set()
        self.running: list[GenerationRequest] = []
        self.probe: GenerationRequest | None = None
        metrics.tell_cache_size(BLOCK, size)

    @property
    def waiting(self) -> int:
        """Sequences that wait."""
        return len(self._queue)

    @property
    def load(self) -> int:
        """Sequences that run or wait."""
        return len(self.running) + len(self._queue) + (self.probe is not None)

    def list_all(self) -> list["GenerationRequest"]:
        """Return everybody."""
        probe = [self.probe] if self.probe else []
        return [*self.running, *(entry[-1] for entry in self._queue), *probe]

    def add(self, sequence: "GenerationRequest") -> None:
        """Let a sequence wait for its turn."""
        self._arrivals += 1
        sequence.number = self._arrivals
        self._wait(sequence)

    def _wait(self, sequence: "GenerationRequest") -> None:
        heapq.heappush(self._queue, (sequence.priority, sequence.number, sequence))
        self._metrics.waiting.set(len(self._queue))

    def cancel(self, sequence: "GenerationRequest") -> None:
        """Forget a sequence; while a step computes it, it keeps its blocks until that is done."""
        sequence.cancelled = True
        if sequence not in self._computing:
            self.leave(sequence)

    def leave(self, sequence: "GenerationRequest") -> None:
        """Give back what a sequence has; nothing if it has left already."""
        if sequence is self.probe:
            self.probe = None
        elif sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        else:
            left = [entry for entry in self._queue if entry[-1] is not sequence]
            if len(left) < len(self._queue):
                heapq.heapify(left)
                self._queue = left
        self._publish_state()

    def leave_all(self) -> list["GenerationRequest"]:
        """Forget everybody; return who that was."""
        lost = self.list_all()
        self.running.clear()
        self._queue.clear()
        self.probe = None
        return lost

    def schedule(self) -> list[tuple["GenerationRequest", Chunk]]:
        """Choose what the next step computes: a token for all that decode, then prompt chunks.

        A known prompt comes first: it is short, and whoever asks tells a slow answer from none. Who
        waits is let in with what is left of the budget, and not while somebody has to give way.
        """
        chunks: list[tuple[GenerationRequest, Chunk]] = []
        budget = self._limits.batched_tokens
        probe = [self.probe] if self.probe else []
        everybody = len(self.running)
        for sequence in [*probe, *self.running]:
            budget -= self._add_chunk(chunks, sequence, budget)
        if len(self.running) == everybody:
            while budget > 0 and (admitted := self._admit()) is not None:
                budget -= self._add_chunk(chunks, admitted, budget)
        self._computing = {sequence for sequence, _ in chunks}
        self._publish_state()
        return chunks

    def _add_chunk(
        self, chunks: list[tuple["GenerationRequest", Chunk]], one: "GenerationRequest", budget: int
    ) -> int:
        """Add what a sequence computes next; return how much of the budget it takes."""
        size = 1 if one.decodes else min(one.pending, budget)
        if not size or one.cache is None or not self._make_room(one, one.done + size):
            return 0
        taken = 0 if one.decodes else size
        tokens = one.list_tokens(one.done, one.done + size)
        chunks.append((one, Chunk(tokens, one.done, one.cache, one.is_scored)))
        return taken

    def _make_room(self, sequence: "GenerationRequest", positions: int) -> bool:
        """Give a running sequence blocks for so many positions; False if it has to give way.

        Those that give way come after it in the order of the step, so none of them has a chunk.
        """
        if sequence is self.probe or sequence.cache is None:
            return True
        missing = count_blocks(positions) - len(sequence.cache.blocks)
        while missing > 0:
            blocks = self.store.take(missing)
            if blocks is not None:
                sequence.cache.extend(blocks)
                return True
            last = self.running.pop()
            self._give_back(last)
            last.preemptions += 1
            self._metrics.preemptions.inc()
            self._wait(last)
            if last is sequence:
                return False
        return True

    def _give_back(self, sequence: "GenerationRequest") -> None:
        assert sequence.cache is not None  # noqa: S101  # whoever runs has one
        self.store.release(sequence.cache.clear())
        sequence.cache = None
        sequence.done = 0

    def _admit(self) -> "GenerationRequest | None":
        """Let in who waits first, if there is a place and room for all that it has to compute.

        Beside others it leaves a block free, or the first one to need more would make it give way.
        """
        if not self._queue or len(self.running) >= self._limits.sequences:
            return None
        sequence = self._queue[0][-1]
        hashes: list[bytes] = []
        tokens = sequence.list_tokens(0, sequence.length)
        # A prompt that is to be scored needs the logits after each of its tokens.
        looked = self._limits.prefix_cache and not sequence.is_scored
        found = self.store.find(tokens, hashes) if looked else []
        needed = count_blocks(len(tokens)) - len(found) + bool(self.running)
        if self.store.count_free_without(found) < needed:
            return None
        # The cache first: without memory for it, the sequence is still among the waiting.
        cache = KeyValueCache(self._config, self._config.max_position_embeddings, self._pool)
        heapq.heappop(self._queue)
        self.store.hold(found)
        cache.extend(found)
        sequence.cache, sequence.hashes = cache, hashes
        sequence.done = len(found) * BLOCK
        bisect.insort(self.running, sequence, key=_rank)
        if looked and not sequence.preemptions:
            self._metrics.prefix_queries.inc(len(tokens))
            self._metrics.prefix_hits.inc(sequence.done)
        return sequence

    def note_computed(self, chunks: Sequence[tuple["GenerationRequest", Chunk]]) -> None:
        """Note that a step has been computed: full blocks can be found, the cancelled leave."""
        self._computing = set()
        for sequence, chunk in chunks:
            sequence.done += len(chunk.tokens)
            if sequence is not self.probe and self._limits.prefix_cache:
                self._publish_blocks(sequence, chunk.cache)
            if sequence.cancelled:
                self.leave(sequence)

    def _publish_blocks(self, sequence: "GenerationRequest", cache: KeyValueCache) -> None:
        hashes = sequence.hashes
        for number in range(len(hashes), sequence.done // BLOCK):
            tokens = sequence.list_tokens(number * BLOCK, (number + 1) * BLOCK)
            hashes.append(hash_block(hashes[-1] if hashes else b"", tokens))
            self.store.publish(cache.blocks[number], hashes[-1])

    def _publish_state(self) -> None:
        self._metrics.running.set(len(self.running))
        self._metrics.waiting.set(len(self._queue))
        self._metrics.cache.set(1 - self.store.free / self.store.size)


def _rank(sequence: "GenerationRequest") -> tuple[int, int]:
    """Return what orders sequences: importance, then arrival."""
    return sequence.priority, sequence.number
