"""API keys as a Secret's entries: what they hold, and what is said of broken ones."""

import pytest

from sluice_gateway.apikeys import EntryError, parse_entry
from sluice_gateway.keystore import KeyStore, load_keys
from sluice_gateway.mounted import MountError, find_version

from .secrets import MountedFiles, entry_of

DIGEST = "ab" * 32


def test_an_entry_may_have_limits():
    limits = parse_entry(
        "team",
        f"sha256:{DIGEST}\n"
        '{"concurrency": 4, "requestsPerMinute": 60, "tokensPerMinute": 9000,\n'
        ' "models": ["compact"], "pools": ["default/chat"]}\n',
    ).limits
    assert (limits.concurrency, limits.requests_per_minute) == (4, 60)
    assert limits.tokens_per_minute == 9000
    assert (limits.models, limits.pools) == ({"compact"}, {"default/chat"})


@pytest.mark.parametrize(
    ("limits", "pool", "model", "allowed"),
    [
        ("", "a/chat", "m", True),
        ('{"models": ["m"]}', "a/chat", "m", True),
        ('{"models": ["m"]}', "a/chat", "other", False),
        ('{"models": []}', "a/chat", "m", False),
        ('{"pools": ["a/chat"], "models": ["m"]}', "a/chat", "m", True),
        ('{"pools": ["a/other"], "models": ["m"]}', "a/chat", "m", False),
    ],
)
def test_a_key_may_use_what_its_lists_name(limits, pool, model, allowed):
    assert parse_entry("team", entry_of("k", limits)).allows(pool, model) is allowed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not sha256:HEX"),
        ("sk-a-real-key", "is not sha256:HEX"),
        (f"sha256:{DIGEST[:-1]}", "is not sha256:HEX"),
        (f"sha256:{DIGEST} 5", "is not sha256:HEX"),
        (f"sha256:{DIGEST} {{", "is not sha256:HEX"),
        (f"sha256:{DIGEST} {{x}}", "has limits that are not a JSON object"),
        (f'sha256:{DIGEST} {{"rpm": 5}}', "known: concurrency, requestsPerMinute"),
        (f'sha256:{DIGEST} {{"concurrency": 0}}', "a concurrency that is not a number from 1 on"),
        (f'sha256:{DIGEST} {{"concurrency": true}}', "a concurrency that is not a number"),
        (f'sha256:{DIGEST} {{"tokensPerMinute": 1.5}}', "a tokensPerMinute that is not a number"),
        (f'sha256:{DIGEST} {{"models": "m"}}', "has models that are not a list of names"),
    ],
)
def test_a_broken_entry_gets_a_sentence_without_what_stands_in_it(text, sentence):
    with pytest.raises(EntryError) as raised:
        parse_entry("team", text)
    assert sentence in str(raised.value)
    assert "sk-a-real-key" not in str(raised.value)
    assert DIGEST not in str(raised.value)


def test_broken_entries_do_not_harm_the_others(tmp_path):
    files = MountedFiles(
        tmp_path / "keys",
        good=entry_of("one"),
        plain="sk-a-real-key",
        binary=b"\xff\xfe",
        long="x" * 100_000,
        same=entry_of("one"),
    )
    found = load_keys(files.path)
    assert [key.name for key in found.keys] == ["good"]
    assert found.broken.keys() == {"plain", "binary", "long", "same"}
    assert found.broken["same"] == "is the same key as good"
    assert "UTF-8" in found.broken["binary"]


class Silent:
    def bind(self, **_more):
        return self

    def error(self, *_said, **_more):
        pass


def test_only_the_very_key_is_found(tmp_path):
    files = MountedFiles(tmp_path / "keys", one=entry_of("first"), two=entry_of("second"))
    store = KeyStore(files.path, period=1.0, log=Silent())
    store.take(load_keys(files.path))
    assert store.find("first").name == "one"
    assert store.find("second").name == "two"
    for token in ("", "firs", "first ", "First", "x" * 10_000, "sch\udcffl", entry_of("first")):
        assert store.find(token) is None


def test_a_swap_is_seen_and_so_is_a_change_in_a_plain_directory(tmp_path):
    files = MountedFiles(tmp_path / "keys", one=entry_of("first"))
    before = find_version(files.path)
    assert find_version(files.path) == before
    files.put(one=entry_of("other"))
    assert find_version(files.path) != before
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "one").write_text(entry_of("first"))
    before = find_version(plain)
    (plain / "two").write_text(entry_of("second"))
    assert find_version(plain) != before


def test_a_directory_that_is_not_there_is_named(tmp_path):
    assert find_version(tmp_path / "none") is None
    with pytest.raises(MountError, match=r"cannot read the directory .*none .*mount the Secret"):
        load_keys(tmp_path / "none")
