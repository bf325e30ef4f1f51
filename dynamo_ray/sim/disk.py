"""A disk in memory that forgets what was not synced and tears the last write.

It keeps two pictures: what a process reads back (the page cache), and what is durable. The end of a
process loses nothing. A power loss keeps of every file what was synced and any part of what was
added since, cut at any byte; of every directory a first part of the changes to its names. A full
disk takes a part of a write; a jammed one cannot even cut it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from dynamo_ray.storage.errors import DirectoryInUseError, MissingFileError, WriteFailedError


class _File:
    """Bytes as they are read back, and the bytes that are durable."""

    __slots__ = ("content", "durable")

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = b""

    def lose_power(self, chance: Random) -> None:
        """Keep what was synced and any part of what was added since, or an older whole."""
        kept, durable = bytes(self.content), self.durable
        if kept.startswith(durable):
            kept = kept[: chance.randint(len(durable), len(kept))]
        elif chance.random() < 0.5:
            kept = durable
        else:
            kept = kept[: chance.randint(0, len(kept))]
        self.content, self.durable = bytearray(kept), kept


Names = dict[str, _File | None]  # None: a directory
Change = tuple[str, str, _File | None]  # "link" or "unlink", path, what


class SimulatedDisk:
    """`storage.disk.Disk` for one node; all of its directories are one table of paths."""

    def __init__(self, name: str, chance: Random) -> None:
        self.name = name
        self.full = False
        self.jammed = False
        self._chance = chance
        self._names: Names = {}
        self._durable: Names = {}
        self._changes: list[list[Change]] = []
        self._is_locked = False

    # ---- what happens to it

    def end_process(self) -> None:
        """The process that used it is gone, and its lock with it; every byte stays."""
        self._is_locked = False

    def lose_power(self) -> None:
        """Names and bytes that were not synced are lost, or not, or torn."""
        self._is_locked = False
        names = dict(self._durable)
        for changes in self._changes[: self._chance.randint(0, len(self._changes))]:
            _apply(names, changes)
        self._names, self._durable, self._changes = names, dict(names), []
        for file in names.values():
            if file is not None:
                file.lose_power(self._chance)

    # ---- the calls of storage.disk.Disk

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """The file's bytes."""
        content = self._file(path).content
        return bytes(content[start:] if size is None else content[start : start + size])

    def size(self, path: str) -> int:
        """The file's length."""
        return len(self._file(path).content)

    def exists(self, path: str) -> bool:
        """Whether there is something of that name."""
        return path in self._names

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted."""
        return sorted(p.rpartition("/")[2] for p in self._names if p.rpartition("/")[0] == path)

    def make_dir(self, path: str) -> None:
        """Make a directory unless it is there."""
        if path not in self._names:
            self._refuse_if_full(path)
            self._change([("link", path, None)])

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        """A whole file, new or instead of what was there."""
        self._refuse_if_full(path)
        file = self._names.get(path)
        if file is None:
            file = _File()
            self._change([("link", path, file)])
        file.content = bytearray(b"".join(parts))

    def append(self, path: str, content: bytes) -> None:
        """Add to the end of a file; a full disk takes a part of it."""
        file = self._file(path)
        if self.full:
            taken = self._chance.randint(0, max(0, len(content) - 1))
            file.content += content[:taken]
            raise WriteFailedError(path, taken, "No space left on device")
        file.content += content

    def truncate(self, path: str, size: int) -> None:
        """Cut the file."""
        if self.jammed:
            raise WriteFailedError(path, 0, "Input/output error")
        del self._file(path).content[size:]

    def sync(self, path: str) -> None:
        """The file's bytes are durable; its name is not thereby."""
        file = self._names.get(path)
        if file is not None:
            file.durable = bytes(file.content)

    def sync_dir(self, path: str) -> None:
        """All changes of names so far are durable (one journal, as file systems have)."""
        for changes in self._changes:
            _apply(self._durable, changes)
        self._changes = []

    def rename(self, before: str, after: str) -> None:
        """Atomic; a directory takes along what is in it."""
        moved = [p for p in self._names if p == before or p.startswith(f"{before}/")]
        changes: list[Change] = []
        for path in moved:
            changes.append(("unlink", path, None))
            changes.append(("link", after + path[len(before) :], self._names[path]))
        self._change(changes)

    def remove(self, path: str) -> None:
        """Remove a file or an empty directory, if it is there."""
        if path in self._names:
            self._change([("unlink", path, None)])

    def lock(self, path: str) -> None:
        """Hold the directory until `close`, or the process's end."""
        if self._is_locked:
            raise DirectoryInUseError(f"{self.name} is in use")
        self._is_locked = True

    def close(self) -> None:
        """Let go of the lock."""
        self._is_locked = False

    # ---- inside

    def _file(self, path: str) -> _File:
        file = self._names.get(path)
        if file is None:
            raise MissingFileError(path)
        return file

    def _refuse_if_full(self, path: str) -> None:
        if self.full:
            raise WriteFailedError(path, 0, "No space left on device")

    def _change(self, changes: list[Change]) -> None:
        _apply(self._names, changes)
        self._changes.append(changes)


def _apply(names: Names, changes: list[Change]) -> None:
    for act, path, file in changes:
        if act == "link":
            names[path] = file
        else:
            names.pop(path, None)
