"""A mounted Secret as the kubelet makes it: files behind a link that is swapped as a whole."""

import hashlib
import shutil


def entry_of(key, limits=""):
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {limits}".strip()


class MountedFiles:
    """A directory whose content changes in one step; `put` replaces all of it."""

    def __init__(self, directory, **files):
        self.path = directory
        self._version = 0
        directory.mkdir()
        self.put(**files)

    def put(self, **files):
        """Replace the content; `__` in a name stands for a dot."""
        names = {name.replace("__", "."): content for name, content in files.items()}
        self._version += 1
        fresh = self.path / f"..{self._version}"
        fresh.mkdir()
        for name, content in names.items():
            data = content if isinstance(content, bytes) else content.encode()
            (fresh / name).write_bytes(data)
        link = self.path / "..data"
        old = link.resolve() if link.is_symlink() else None
        swapped = self.path / "..data_tmp"
        swapped.symlink_to(fresh.name)
        swapped.replace(link)
        for name in names:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for path in self.path.iterdir():
            if not path.name.startswith("..") and path.name not in names:
                path.unlink()
        if old is not None:
            shutil.rmtree(old)
