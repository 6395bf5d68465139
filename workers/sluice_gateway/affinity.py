"""Remembers which workers have computed the beginning of a prompt, or served a session, lately.

Workers keep what they have computed and find it again by blocks of tokens. Which blocks those are
cannot be seen from here, so prompts are cut into blocks of text, and the hash of each goes over all
before it. What is remembered only says where less may have to be computed; whether that makes up
for a longer queue there, the forecast tells. Pure but for its own memory, which is bounded.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

BLOCK_BYTES: Final = 64
_BLOCKS_MOST: Final = 64
"""Blocks of a prompt that are looked at: the first 4 KiB."""
_WORKERS_MOST: Final = 3
"""Workers that are remembered for a block: who has it last."""


def read_lead(prompt: object) -> bytes:
    """Return the beginning of a prompt: a text, a list of texts or tokens, or messages."""
    lead: list[bytes] = []
    room = _BLOCKS_MOST * BLOCK_BYTES
    parts = [prompt]
    while parts and room > 0:
        part = parts.pop()
        if isinstance(part, list):
            parts += reversed(part[: room + 1])
            continue
        if isinstance(part, dict):  # a message, or a part of its content
            parts += (part.get("content") or part.get("text"), part.get("role"))
            continue
        piece = str(part)[:room].encode(errors="replace")
        lead.append(piece)
        room -= len(piece) + 1
    return b"\0".join(lead)


def cut_prompt(lead: bytes) -> tuple[int, ...]:
    """Return the hashes of a prompt's leading whole blocks, each over all before it."""
    end = min(len(lead) // BLOCK_BYTES, _BLOCKS_MOST) * BLOCK_BYTES
    found: list[int] = []
    before = 0
    for start in range(0, end, BLOCK_BYTES):
        before = hash((before, lead[start : start + BLOCK_BYTES]))
        found.append(before)
    return tuple(found)


class PrefixIndex:
    """Blocks of prompts, and the workers that had them last; the oldest are forgotten.

    Args:
        most: Blocks that are remembered, and sessions; each takes a few hundred bytes.
    """

    def __init__(self, *, most: int = 8192) -> None:
        self._most = most
        self._blocks: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self._sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks) + len(self._sessions)

    def find(self, blocks: Sequence[int]) -> dict[str, int]:
        """Return how many leading blocks each worker is remembered to have."""
        found: dict[str, int] = {}
        for place, block in enumerate(blocks):
            workers = self._blocks.get(block)
            if workers is None:
                break
            for uid in workers:
                if found.get(uid, 0) == place:
                    found[uid] = place + 1
        return found

    def find_session(self, session: str) -> tuple[str, float]:
        """Return who served a session last, and how many tokens it then had; ("", 0) if unknown."""
        return self._sessions.get(session, ("", 0.0))

    def note_session(self, session: str, uid: str, tokens: float) -> None:
        """Remember who serves a session, and how many tokens of it there are."""
        self._sessions[session] = (uid, tokens)
        self._sessions.move_to_end(session)
        if len(self._sessions) > self._most:
            self._sessions.popitem(last=False)

    def note(self, blocks: Sequence[int], uid: str) -> None:
        """Remember that a worker computes a prompt."""
        for block in blocks:
            others = tuple(other for other in self._blocks.get(block, ()) if other != uid)
            self._blocks[block] = (uid, *others)[:_WORKERS_MOST]
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
