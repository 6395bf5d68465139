"""Text as it becomes final: whole characters, and never half a stop text."""

from sluice_worker.tokens import TextStream


class Bytes:
    """One token a byte."""

    def decode(self, tokens):
        return bytes(tokens).decode(errors="replace")


def push(text, stop=()):
    stream = TextStream(Bytes(), stop)
    parts = []
    for byte in text.encode():
        parts.append(stream.push(byte))
        if stream.stopped:
            return parts, stream
    return [*parts, stream.finish()], stream


def test_a_character_of_several_bytes_comes_whole():
    parts, _ = push("aé€z")
    assert "".join(parts) == "aé€z"
    assert all("\ufffd" not in part for part in parts)


def test_a_stop_text_ends_the_output_before_it():
    parts, stream = push("one, two. END and more", stop=("END",))
    assert stream.stopped
    assert "".join(parts) == "one, two. "


def test_what_only_began_like_a_stop_text_is_given_back():
    parts, stream = push("the EN", stop=("END",))
    assert not stream.stopped
    assert "".join(parts) == "the EN"
    assert parts[4] == ""
