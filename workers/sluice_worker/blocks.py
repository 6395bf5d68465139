"""Who holds which block of the KV cache, and which prefixes are in it.

A block that is full may be shared: it is known by the hash of its tokens and of all tokens before
it, so that a later sequence that begins with the same tokens takes it as it is. Decoding does not
depend on company (`decoder`), so what it finds there are the bits that it would compute itself. A
pool belongs to one model in one numerics; the hashes need not name either.

Blocks that nobody holds keep their content until somebody needs the room; those that were let go
first are the first to be taken.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from sluice_worker.steplayout import BLOCK


def hash_block(before: bytes, tokens: Sequence[int]) -> bytes:
    """Return the hash of a block's tokens after a prefix with the hash `before` (b"" for none)."""
    content = np.asarray(tokens, np.int64).tobytes()
    return blake2b(before + content, digest_size=16).digest()


class BlockStore:
    """Hands out blocks by number; one thread at a time.

    Args:
        size: number of blocks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = [0] * size
        # From the first to be taken to the last; values mean nothing.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(size))
        self._by_hash: dict[bytes, int] = {}
        self._hashes: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def count_free_without(self, blocks: Sequence[int]) -> int:
        """Return how many blocks would be free if these were held."""
        return len(self._free) - sum(block in self._free for block in blocks)

    def take(self, count: int) -> list[int] | None:
        """Return so many blocks, held once, or None if fewer are free; what was in them is lost."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._forget(block)
            self._holders[block] = 1
        return taken

    def find(self, tokens: Sequence[int], hashes: list[bytes]) -> list[int]:
        """Return the blocks that hold the beginning of these tokens; nobody holds them for it yet.

        Args:
            tokens: all of a sequence; its last is never found, as its logits are wanted.
            hashes: of the sequence's blocks; gets those of the blocks that were found.
        """
        found = []
        before = b""
        for start in range(0, len(tokens) - BLOCK, BLOCK):
            before = hash_block(before, tokens[start : start + BLOCK])
            block = self._by_hash.get(before)
            if block is None:
                break
            found.append(block)
            hashes.append(before)
        return found

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold blocks that were found."""
        for block in blocks:
            self._free.pop(block, None)
            self._holders[block] += 1

    def publish(self, block: int, known_by: bytes) -> None:
        """Let a full block be found; if another one is known by the same hash, that one stays."""
        if known_by not in self._by_hash:
            self._by_hash[known_by] = block
            self._hashes[block] = known_by

    def release(self, blocks: Sequence[int]) -> None:
        """Let blocks go, in their order; a prefix is kept for longer than what came after it."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free[block] = None
                if block not in self._hashes:  # nobody can find it: it is the first to be taken
                    self._free.move_to_end(block, last=False)

    def _forget(self, block: int) -> None:
        known_by = self._hashes.pop(block, None)
        if known_by is not None:
            del self._by_hash[known_by]
