"""Blocks of the KV cache: none is lost, none has two owners, and what is found is what was put."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sluice_worker.blocks import BlockStore, hash_block
from sluice_worker.steplayout import BLOCK

SIZE = 7


class Accounts(RuleBasedStateMachine):
    """Sequences take, publish, find and let go; a model of who holds what is kept beside."""

    def __init__(self):
        super().__init__()
        self.store = BlockStore(SIZE)
        self.held = []  # of each sequence: blocks, tokens, hashes
        self.content = {}  # what was last written to a block that is known by a hash

    @rule(words=st.lists(st.integers(0, 1), max_size=4), fresh=st.integers(0, 3))
    def begin(self, words, fresh):
        tokens = [word for word in words for _ in range(BLOCK)] + [9]
        hashes = []
        found = self.store.find(tokens, hashes)
        assert len(found) == len(hashes) <= len(words)
        for number, block in enumerate(found):
            assert self.content[block] == tokens[: (number + 1) * BLOCK]
        missing = len(words) + fresh - len(found)
        if self.store.count_free_without(found) < missing:
            return
        self.store.hold(found)
        blocks = [*found, *self.store.take(missing)]
        for number in range(len(found), len(words)):
            before = hashes[-1] if hashes else b""
            hashes.append(hash_block(before, tokens[number * BLOCK : (number + 1) * BLOCK]))
        for number, block in enumerate(blocks[len(found) :], len(found)):
            self.content[block] = tokens[: (number + 1) * BLOCK]
        self.held.append((blocks, hashes))

    @rule(more=st.integers(0, SIZE + 1))
    def take(self, more):
        free = self.store.free
        blocks = self.store.take(more)
        assert (blocks is None) == (more > free)
        if blocks:
            for block in blocks:
                self.content.pop(block, None)
            self.held.append((blocks, []))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def publish(self, data):
        blocks, hashes = data.draw(st.sampled_from(self.held))
        for block, known_by in zip(blocks, hashes, strict=False):
            self.store.publish(block, known_by)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data):
        blocks, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.store.release(blocks)

    @invariant()
    def every_block_is_free_or_held_as_often_as_it_is(self):
        held = [block for blocks, _ in self.held for block in blocks]
        assert self.store.free == SIZE - len(set(held))
        assert not set(held) & set(self.store._free)
        assert self.store._holders == [held.count(block) for block in range(SIZE)]

    @invariant()
    def one_hash_one_block(self):
        by_hash, hashes = self.store._by_hash, self.store._hashes
        assert {block: known for known, block in by_hash.items()} == hashes


Accounts.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_accounts = Accounts.TestCase


def fill(store, words):
    """Have a sequence of these blocks computed and let go; return its tokens."""
    tokens = [word for word in words for _ in range(BLOCK)]
    blocks, before = store.take(len(words)), b""
    for number, block in enumerate(blocks):
        before = hash_block(before, tokens[number * BLOCK : (number + 1) * BLOCK])
        store.publish(block, before)
    store.release(blocks)
    return tokens


def test_what_was_let_go_first_is_overwritten_first_and_a_prefix_after_its_end():
    store = BlockStore(5)
    old, young = fill(store, [1, 2]), fill(store, [3, 4])
    counts = []
    for _ in range(5):
        counts.append(tuple(len(store.find([*tokens, 9], [])) for tokens in (old, young)))
        store.take(1)
    assert counts == [(2, 2), (2, 2), (1, 2), (0, 2), (0, 1)]


@pytest.mark.parametrize(("more", "found"), [(0, 1), (1, 2)])
def test_the_last_token_is_never_taken_from_the_cache(more, found):
    store = BlockStore(4)
    tokens = fill(store, [1, 2])
    assert len(store.find([*tokens, *[9] * more], [])) == found


def test_the_same_tokens_after_others_are_something_else():
    store = BlockStore(4)
    fill(store, [1, 2])
    assert store.find([2] * BLOCK + [9], []) == []
