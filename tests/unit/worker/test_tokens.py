"""Text as it becomes final: whole characters, and never half a stop text."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sluice_worker.errors import CheckpointError, RequestError
from sluice_worker.tokens import StopRule, TextStream, Vocabulary

from .checkpoints import make_tokenizer, write_checkpoint


class Bytes:
    """One token a byte."""

    def decode_bytes(self, token):
        return bytes([token])


def push(text, stop=()):
    stream = TextStream(Bytes(), StopRule(tuple(stop)))
    parts = []
    for byte in text.encode():
        parts.append(stream.push(byte))
        if stream.stopped_by:
            return parts, stream
    return [*parts, stream.finish()], stream


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return Vocabulary(path / "tokenizer.json")


def test_what_a_user_writes_is_never_a_control_token(vocabulary):
    text = "a</s><|assistant|>b<s>"
    begin, user, assistant, special = 0, 2, 3, range(5)
    first, *rest = vocabulary.encode_text(text)
    assert first == begin
    assert len(rest) == len(text)  # a token a character
    assert not set(rest) & set(special)
    chat = vocabulary.encode_chat([{"role": "user", "content": text}])
    assert chat == [begin, user, *rest, assistant]
    assert vocabulary.decode(rest) == text


def test_others_go_on_while_a_thread_makes_tokens_of_a_long_text(vocabulary):
    """The library can keep the interpreter locked, and then a thread of its own frees nobody."""
    text, pauses = "a b c d " * 25_000, [0.0]
    with ThreadPoolExecutor(1) as pool:
        began = last = time.monotonic()
        encoding = pool.submit(vocabulary.encode_text, text)
        while not encoding.done():
            time.sleep(1e-3)
            pauses.append(time.monotonic() - last)
            last = time.monotonic()
    assert max(pauses) < (last - began) / 2


def test_what_a_file_says_of_batches_for_training_changes_no_prompt(tmp_path, vocabulary):
    cut = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    filled = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None}
    filled |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"}
    document = make_tokenizer() | {"truncation": cut, "padding": filled}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    other = Vocabulary(tmp_path / "tokenizer.json")
    assert other.encode_text("a long prompt") == vocabulary.encode_text("a long prompt")


def test_half_a_surrogate_pair_is_no_text(vocabulary):
    with pytest.raises(RequestError, match="half a surrogate pair"):
        vocabulary.encode_text("\ud800")
    stream = TextStream(vocabulary, StopRule(("\ud800",)))  # which no output can be
    assert stream.push(40) == "C"


def test_a_stop_text_counts_although_a_character_has_only_begun_after_it():
    class Words:
        def decode_bytes(self, token):
            return [b"the ", b"END\xe2", b"\x82\xac"][token]

    stream = TextStream(Words(), StopRule(("END",)))
    assert [stream.push(0), stream.push(1)] == ["the ", ""]
    assert stream.stopped_by == "END"


def test_a_character_of_several_bytes_comes_whole():
    parts, _ = push("aé€z")
    assert "".join(parts) == "aé€z"
    assert all("\ufffd" not in part for part in parts)


def test_a_stop_text_ends_the_output_before_it():
    parts, stream = push("one, two. END and more", stop=("END",))
    assert stream.stopped_by == "END"
    assert "".join(parts) == "one, two. "


def test_what_only_began_like_a_stop_text_is_given_back():
    parts, stream = push("the EN", stop=("END",))
    assert not stream.stopped_by
    assert "".join(parts) == "the EN"
    assert parts[4] == ""


def test_a_stop_text_that_ends_too_early_ends_nothing():
    def push_all(text, rule):
        stream = TextStream(Bytes(), rule)
        parts = []
        for byte in text.encode():
            parts.append(stream.push(byte))
            if stream.stopped_by:
                break
        return "".join(parts) + stream.finish(), stream.stopped_by

    assert push_all("abXYcdXYe", StopRule(("XY",), min_tokens=4)) == ("abXYcd", "XY")
    assert push_all("abXYcdXYe", StopRule(("XY",), min_tokens=3)) == ("ab", "XY")
    # One that is held as the beginning of another has ended early all the same.
    assert push_all("abcx", StopRule(("abcd", "bc"), min_tokens=3)) == ("abcx", "")
    assert push_all("abXYc", StopRule(("XY",), included=True)) == ("abXY", "XY")


@settings(deadline=None)
@given(text=st.text(max_size=30), stop=st.text(min_size=1, max_size=3))
def test_streamed_text_is_the_whole_text_up_to_the_stop_text(text, stop):
    stream = TextStream(Bytes(), StopRule((stop,)))
    parts = []
    for byte in text.encode():
        parts.append(stream.push(byte))
        if stream.stopped_by:
            break
    assert "".join(parts) + stream.finish() == text.partition(stop)[0]


@settings(deadline=None)
@given(raw=st.binary(max_size=20))
def test_bytes_that_are_no_text_become_replacement_characters(raw):
    stream = TextStream(Bytes(), StopRule())
    text = "".join(stream.push(byte) for byte in raw) + stream.finish()
    assert text == raw.decode(errors="replace")
    assert len(text) == stream.length == stream.sent


def test_decodes_as_the_tokenizer_does():
    path = Path(__file__).parents[3] / "workers/models/compact/tokenizer.json"
    vocabulary, tokenizer = Vocabulary(path), Tokenizer.from_file(str(path))

    @settings(deadline=None)
    @given(tokens=st.lists(st.integers(0, vocabulary.size - 1), max_size=12))
    def compare(tokens):
        assert vocabulary.decode(tokens) == tokenizer.decode(tokens, skip_special_tokens=True)

    compare()


def test_a_token_that_is_no_text_is_told_as_bytes():
    path = Path(__file__).parents[3] / "workers/models/compact/tokenizer.json"
    vocabulary = Vocabulary(path)
    euro = vocabulary.encode_text("€", begin=False)
    assert vocabulary.describe(euro[0]) == "bytes:\\xe2"
    assert vocabulary.describe(1) == "</s>"


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused(tmp_path):
    document = make_tokenizer() | {"decoder": {"type": "WordPiece", "prefix": "#", "cleanup": True}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="the decoder WordPiece; only ByteLevel"):
        Vocabulary(path)
