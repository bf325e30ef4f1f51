"""A disk in memory that breaks whatever a disk does not promise: what tests put under a store.

It has two pictures of each file and of the names: what is read back, and what is durable. A test
can stop it at its k-th change, fill it, make it refuse to cut or to sync, and then take what a
killed process or a machine without power leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dynamo_ray.storage.errors import (
    DirectoryInUseError,
    MissingFileError,
    SyncFailedError,
    WriteFailedError,
)

BYTES_LEFT = ("synced", "written", "half", "zeros", "garbage")
NAMES_LEFT = ("synced", "written", "newest", "even", "odd")
GARBAGE = bytes(range(256)) * 64


class Stopped(BaseException):
    """The process is gone; nothing that it has still to say counts."""


@dataclass(eq=False)
class File:
    """The bytes that are read back, and the bytes that are durable."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""

    def left(self, how: str) -> bytes:
        """What a power loss leaves of it."""
        kept, content = len(self.durable), bytes(self.content)
        if how == "synced":
            return self.durable
        if how == "written" or not content.startswith(self.durable):
            return content
        if how == "half":
            return content[: (kept + len(content)) // 2]
        size = len(content) - kept
        return self.durable + (bytes(size) if how == "zeros" else GARBAGE[:size])


class Gone:
    """What a name stands for after it was removed."""


GONE = Gone()


class MemoryDisk:
    """`storage.disk.Disk`, with switches."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.now: dict[str, File | None] = {}  # None: a directory
        self.durable: dict[str, File | None] = {}
        self.pending: list[dict[str, File | Gone | None]] = []  # changes of names, not synced
        self.changes = 0
        self.stop_at = -1
        self.room: int | None = None
        self.refuses_to_cut = False
        self.refuses_to_sync = False
        self.locked = False
        self.calls: list[str] = []

    # ---- what is left of it

    def killed(self) -> MemoryDisk:
        """What the next process finds: everything. (All names count as durable then.)"""
        left = MemoryDisk(self.name)
        for path, file in self.now.items():
            left.now[path] = file and File(bytearray(file.content), file.durable)
        left.durable = dict(left.now)
        return left

    def unplugged(self, names: str, how: str) -> MemoryDisk:
        """What the next process finds after a power loss.

        Of the changes of names that were not synced it finds none, all, the newest or every second.
        """
        parts = {
            "synced": slice(0, 0),
            "written": slice(None),
            "newest": slice(-1, None),
            "even": slice(0, None, 2),
            "odd": slice(1, None, 2),
        }
        found = dict(self.durable)
        for change in self.pending[parts[names]]:
            _apply(found, change)
        left = MemoryDisk(self.name)
        for path, file in found.items():
            if path.rpartition("/")[0] in ("", *found):
                kept = file and file.left(how)
                left.now[path] = None if kept is None else File(bytearray(kept), kept)
        left.durable = dict(left.now)
        return left

    def contents(self) -> dict[str, bytes]:
        """All files."""
        return {path: bytes(file.content) for path, file in self.now.items() if file}

    # ---- the calls of Disk

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        content = self._file(path).content
        return bytes(content[start : None if size is None else start + size])

    def size(self, path: str) -> int:
        return len(self._file(path).content)

    def exists(self, path: str) -> bool:
        return path in self.now

    def names(self, path: str) -> list[str]:
        return sorted(one.rpartition("/")[2] for one in self.now if one.rpartition("/")[0] == path)

    def make_dir(self, path: str) -> None:
        self._count("make_dir", path)
        if path not in self.now:
            self._change({path: None})

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        stops = self._stops("write", path)
        parent = path.rpartition("/")[0]
        if parent and parent not in self.now:
            raise WriteFailedError(path, 0, "no such directory")
        file = self.now.get(path)
        if file is None:
            file = File()
            self._change({path: file})
        file.content = bytearray()
        for part in parts:
            self._add(path, file, part, stops)

    def append(self, path: str, content: bytes) -> None:
        stops = self._stops("append", path)
        self._add(path, self._file(path), content, stops)

    def truncate(self, path: str, size: int) -> None:
        self._count("truncate", path)
        if self.refuses_to_cut:
            raise WriteFailedError(path, 0, "input/output error")
        file = self._file(path)
        if self.room is not None:
            self.room += len(file.content) - size
        del file.content[size:]

    def sync(self, path: str) -> None:
        self._count("sync", path)
        if self.refuses_to_sync:
            raise SyncFailedError(path, "input/output error")
        file = self._file(path)
        file.durable = bytes(file.content)

    def sync_dir(self, path: str) -> None:
        self._count("sync_dir", path)
        if self.refuses_to_sync:
            raise SyncFailedError(path, "input/output error")
        here = [one for one in self.pending if next(iter(one)).rpartition("/")[0] == path]
        for change in here:
            _apply(self.durable, change)
            self.pending.remove(change)

    def rename(self, before: str, after: str) -> None:
        self._count("rename", after)
        self._change({after: self._file(before), before: GONE})

    def remove(self, path: str) -> None:
        self._count("remove", path)
        assert not self.names(path) or not path, f"{path} is not empty"
        if path in self.now:
            self._change({path: GONE})

    def lock(self, path: str) -> None:
        if self.locked:
            raise DirectoryInUseError(f"{self.name} is in use")
        self.locked = True

    def close(self) -> None:
        self.locked = False

    # ---- inside

    def _file(self, path: str) -> File:
        file = self.now.get(path)
        if file is None:
            raise MissingFileError(path)
        return file

    def _change(self, change: dict[str, File | Gone | None]) -> None:
        _apply(self.now, change)
        self.pending.append(change)

    def _add(self, path: str, file: File, part: bytes, stops: bool) -> None:
        if stops:
            file.content += part[: len(part) // 2]
            raise Stopped
        if self.room is not None and len(part) > self.room:
            taken, self.room = self.room, 0
            file.content += part[:taken]
            raise WriteFailedError(path, taken, "no space left on device")
        if self.room is not None:
            self.room -= len(part)
        file.content += part

    def _stops(self, call: str, path: str) -> bool:
        if self.stop_at == 0:
            raise Stopped
        self.changes += 1
        self.calls.append(f"{call} {path}")
        self.stop_at -= 1
        return self.stop_at == 0

    def _count(self, call: str, path: str) -> None:
        if self._stops(call, path):
            raise Stopped


def _apply(names: dict[str, File | None], change: dict[str, File | Gone | None]) -> None:
    for path, what in change.items():
        if isinstance(what, Gone):
            names.pop(path, None)
        else:
            names[path] = what
