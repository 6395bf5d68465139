import os
from pathlib import Path

from sluice.devcluster.locks import acquire_lock, is_locked


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lock"
    assert not is_locked(path)
    assert not path.parent.exists()
    held = acquire_lock(path)
    assert held is not None
    assert is_locked(path)
    assert acquire_lock(path, wait_seconds=0.05) is None
    os.close(held)
    assert not is_locked(path)
    again = acquire_lock(path)
    assert again is not None
    os.close(again)


def test_a_lock_on_a_removed_file_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    old = acquire_lock(path)
    assert old is not None
    path.unlink()
    new = acquire_lock(path)
    assert new is not None
    assert os.fstat(new).st_ino == path.stat().st_ino
    assert is_locked(path)
    os.close(old)
    os.close(new)
