"""What a volume holds, and how it gets to disk so that readers never see half of a change."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

Content = dict[str, bytes]
"""Relative path → bytes."""

_CURRENT = "..data"


class VolumeError(Exception):
    """A volume cannot be filled as the spec says; the message says why."""


def choose_items(files: Content, source: Mapping[str, Any]) -> Content:
    """Apply the `items` of a config map or Secret: which keys, and where they go.

    Raises:
        VolumeError: A key does not exist.
    """
    items = source.get("items")
    if not items:
        return files
    chosen: Content = {}
    for item in items:
        if item["key"] in files:
            chosen[item["path"]] = files[item["key"]]
        elif not source.get("optional"):
            raise VolumeError(f"references non-existent config key: {item['key']}")
    return chosen


def write_content(directory: Path, content: Content) -> bool:
    """Make a directory hold exactly this; return whether that changed anything.

    As the kubelet does: files lie in a hidden directory, names outside lead through the link
    `..data`, and replacing that link changes all of them at once.
    """
    current = directory / _CURRENT
    if current.is_symlink() and _read_content(current) == content:
        return False
    before = current.readlink().name if current.is_symlink() else None
    fresh = directory / f"..{int((before or '..0')[2:]) + 1}"
    shutil.rmtree(fresh, ignore_errors=True)  # left by an agent that was killed here
    fresh.mkdir()
    for path, data in content.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    pending = directory / "..data_tmp"
    pending.unlink(missing_ok=True)
    pending.symlink_to(fresh.name)
    pending.rename(current)
    _link_names(directory, {PurePosixPath(path).parts[0] for path in content})
    if before is not None:
        shutil.rmtree(directory / before, ignore_errors=True)
    return True


def _read_content(root: Path) -> Content:
    found: Content = {}
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder) / name
            found[file.relative_to(root).as_posix()] = file.read_bytes()
    return found


def _link_names(directory: Path, names: set[str]) -> None:
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    for name in names:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"{_CURRENT}/{name}")
