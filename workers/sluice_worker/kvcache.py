"""Memory of keys and values, in blocks of `steplayout.BLOCK` positions.

A pool is one piece of memory; sequences hold blocks of it in their order, and no block knows its
neighbours. A block has, for each layer, the keys of all heads (heads, head width, positions) and
then their values (heads, positions, head width padded to whole vectors): the orders in which the
kernels read them. `blocks` decides who holds which block.
"""

from collections.abc import Sequence

import numpy as np

from sluice_worker.checkpoint import Array, ModelConfig
from sluice_worker.steplayout import BLOCK, LANES

_LINE = 64
"""Bytes of a cache line: vectors that lie across two of them take twice as long."""


def count_blocks(positions: int) -> int:
    """Return how many blocks hold so many positions."""
    return -(-positions // BLOCK)


def align_zeros(*shape: int) -> Array:
    """Return zeros that begin with a cache line; memory is taken when it is first written."""
    size = int(np.prod(shape))
    room = np.zeros(size + _LINE // 4, np.float32)
    skip = -room.ctypes.data % _LINE // 4
    return room[skip : skip + size].reshape(shape)


class KeyValuePool:
    """Blocks of one piece of memory, float32.

    Attributes:
        size: number of blocks.
        data: (blocks, layers, keys and values, heads × padded width × positions).
    """

    def __init__(self, config: ModelConfig, size: int) -> None:
        self.size = size
        self.heads, self.width = config.num_key_value_heads, config.head_dim
        self.room = -(-config.head_dim // LANES) * LANES
        part = self.heads * self.room * BLOCK
        self.data = align_zeros(size, config.num_hidden_layers, 2, part)
        first = self.data.ctypes.data
        self.addresses = first + np.arange(size, dtype=np.int64) * self.data.strides[0]
        keys = self.heads * self.width * BLOCK
        blocks, layers = self.data.shape[:2]
        self.keys = self.data[:, :, 0, :keys].reshape(blocks, layers, self.heads, self.width, BLOCK)
        values = self.data[:, :, 1].reshape(blocks, layers, self.heads, BLOCK, self.room)
        self.values = values[..., : self.width]


class KeyValueCache:
    """Keys and values of one sequence: blocks of a pool, in the order of positions.

    Without a pool it has one of its own that holds `positions`.
    """

    def __init__(
        self, config: ModelConfig, positions: int, pool: KeyValuePool | None = None
    ) -> None:
        most = count_blocks(positions)
        self.pool = pool or KeyValuePool(config, most)
        self.blocks: list[int] = []
        self._table = np.zeros(most, np.int64)
        self.table = self._table.ctypes.data
        """Address of the addresses of the blocks; it stays."""
        if pool is None:
            self.extend(range(most))

    def extend(self, blocks: Sequence[int]) -> None:
        """Hold these blocks of the pool, too."""
        start = len(self.blocks)
        self.blocks += blocks
        self._table[start : len(self.blocks)] = self.pool.addresses[self.blocks[start:]]

    def clear(self) -> list[int]:
        """Hold nothing any more; return what was held."""
        held, self.blocks = self.blocks, []
        return held

    def write(self, layer: int, place: int, keys: Array, values: Array) -> None:
        """Write one position's keys and values (heads, head width) of a layer."""
        block, inside = self.blocks[place // BLOCK], place % BLOCK
        self.pool.keys[block, layer, :, :, inside] = keys
        self.pool.values[block, layer, :, inside] = values

    def read(self, layer: int, count: int) -> tuple[Array, Array]:
        """Return copies of a layer's first keys and values, (heads, count, head width) each.

        They always lie in memory in the same way, or NumPy would now and then multiply in another.
        """
        held = np.array(self.blocks[: count_blocks(count)], np.int64)
        pool = self.pool
        keys = pool.keys[held, layer].transpose(1, 0, 3, 2)
        values = pool.values[held, layer].transpose(1, 0, 2, 3)
        joined = [np.ascontiguousarray(one) for one in (keys, values)]
        keys, values = (one.reshape(pool.heads, -1, pool.width)[:, :count] for one in joined)
        return keys, values
