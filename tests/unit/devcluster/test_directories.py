from pathlib import Path

import pytest

from sluice.devcluster.directories import (
    StateDirectory,
    find_cache_home,
    find_state_home,
    read_json,
    write_private,
)
from sluice.devcluster.errors import ClusterError, InvalidClusterError, StateFormatError


def test_homes_follow_xdg_and_ignore_relative_values() -> None:
    assert find_state_home({"XDG_STATE_HOME": "/s"}) == Path("/s/sluice/clusters")
    assert find_cache_home({"XDG_CACHE_HOME": "/c"}) == Path("/c/sluice")
    assert find_state_home({"XDG_STATE_HOME": "s"}) == (
        Path.home() / ".local/state/sluice/clusters"
    )
    assert find_cache_home({}) == Path.home() / ".cache/sluice"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a" * 41, "a b", "ä"])
def test_names_that_are_no_directory_or_context_are_refused(name: str) -> None:
    with pytest.raises(InvalidClusterError, match="cannot be the name of a cluster"):
        StateDirectory.of(name)


@pytest.mark.parametrize("name", ["a", "sluice", "test-1", "a" * 40])
def test_good_names(name: str, tmp_path: Path) -> None:
    assert StateDirectory.of(name, tmp_path).root == tmp_path / name


def test_a_missing_or_fresh_directory_has_a_readable_format(tmp_path: Path) -> None:
    state = StateDirectory.of("one", tmp_path)
    state.check_format()
    state.root.mkdir()
    state.lock.touch()
    state.check_format()
    state.prepare()
    state.check_format()
    assert state.root.stat().st_mode & 0o777 == 0o700


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    state = StateDirectory.of("one", tmp_path)
    state.root.mkdir()
    (state.root / "thesis.txt").write_text("years of work")
    with pytest.raises(StateFormatError, match="is not the state of a cluster"):
        state.check_format()


def test_what_is_no_directory_or_has_no_readable_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "format").mkdir(parents=True)
    for name in ("file", "folder"):
        with pytest.raises(StateFormatError, match="is not the state of a cluster"):
            StateDirectory.of(name, tmp_path).check_format()
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "format").write_bytes(b"\xff\xfe" * 1000)
    with pytest.raises(StateFormatError, match="another version of Sluice") as caught:
        StateDirectory.of("bytes", tmp_path).check_format()
    assert len(str(caught.value)) < 500


def test_remove_takes_everything_and_clear_can_keep_the_logs(tmp_path: Path) -> None:
    state = StateDirectory.of("one", tmp_path)
    state.prepare()
    state.lock.touch()
    state.log_of("etcd").write_text("why")
    (state.etcd / "member").mkdir(parents=True)
    state.clear(keep_logs=True)
    assert sorted(path.name for path in state.root.iterdir()) == ["format", "lock", "logs"]
    state.remove()
    assert not state.root.exists()
    state.remove()


def test_private_files_are_private_and_unfinished_json_is_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, "secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_json(path) is None
    assert read_json(tmp_path / "missing") is None
    write_private(path, '{"a": 1}')
    assert read_json(path) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_sockets_have_short_paths_and_go_with_the_cluster(tmp_path: Path) -> None:
    state = StateDirectory.of("one", tmp_path / ("long" * 30))
    state.prepare()
    state.prepare_device_sockets()
    sockets = state.device_sockets
    assert len(str(sockets / "maia-199" / "nvidia.com_gpu-15.sock")) <= 107
    assert sockets.stat().st_mode & 0o777 == 0o700
    (sockets / "maia-0").mkdir()
    (sockets / "maia-0" / "left").touch()
    state.prepare_device_sockets()  # what a killed supervisor left is no obstacle
    assert StateDirectory.of("one", tmp_path).device_sockets != sockets
    state.remove()
    assert not sockets.exists()


def test_sockets_in_the_place_of_somebody_else_are_refused(tmp_path: Path) -> None:
    state = StateDirectory.of("one", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    state.device_sockets.symlink_to(elsewhere)
    try:
        with pytest.raises(ClusterError, match="should be a directory of your own and is not"):
            state.prepare_device_sockets()
    finally:
        state.device_sockets.unlink()
