"""Text of others, as far as it may stand in status, Events, annotations and on terminals."""

from typing import Final

LONGEST: Final = 200
"""Characters of a sentence that somebody else wrote."""


def clean_text(text: str, longest: int = LONGEST) -> str:
    """Return text of others as one printable line of bounded length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
