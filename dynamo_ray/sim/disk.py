"""A disk in memory that forgets what was not synced, tears the last write, rots, and fails.

It keeps two pictures: what a process reads back (the page cache), and what is durable. The end of a
process loses nothing. A power loss keeps of every file what was synced and any part of what was
added since, cut at any byte; of every directory a first part of the changes to its names.

    room         so many more bytes, then a part of a write and nothing any more (a full disk)
    jammed       nor can a part be cut back
    flip         a bit of a file changes at rest, in both pictures
    unreadable   a file that gives an error, or less than it holds
    failing      the next sync fails, and drops what it was to make durable: a second one "succeeds"
                 and those bytes are durable nowhere, though they may still be read back
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random

from dynamo_ray.storage.errors import (
    DirectoryInUseError,
    MissingFileError,
    ReadFailedError,
    SyncFailedError,
    WriteFailedError,
)

# What may be damaged at rest: the log, snapshots, their manifests. IDENTITY is not: a node whose
# own name cannot be trusted refuses to start, and is replaced by an operator.
DAMAGEABLE = re.compile(r"log-.*|snap-.*/.*|REACHED")


class _File:
    """Bytes as they are read back, the bytes that are durable, and what a failed sync dropped."""

    __slots__ = ("content", "dropped", "durable", "is_new")

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = b""
        self.dropped: list[tuple[int, int]] = []
        self.is_new = True

    def rewrite(self, content: bytes) -> None:
        """All of it anew."""
        self.content, self.dropped, self.is_new = bytearray(content), [], True

    def sync(self) -> None:
        """Make it durable, but what was dropped once: the system holds that for written."""
        self.durable = self._without_dropped()
        self.is_new = False

    def drop(self) -> None:
        """A sync failed: what is not durable never will be."""
        self.dropped.append((0 if self.is_new else len(self.durable), len(self.content)))

    def evict(self) -> None:
        """The page cache lets go of what was dropped: what is read back is what the disk has."""
        self.content, self.dropped = bytearray(self._without_dropped()), []

    def lose_power(self, chance: Random) -> None:
        """Keep what was synced and any part of what was added since, or an older whole."""
        kept, durable = self._without_dropped(), self.durable
        if not self.is_new and len(kept) >= len(durable):
            kept = durable + kept[len(durable) : chance.randint(len(durable), len(kept))]
        elif chance.random() < 0.5:
            kept = durable
        else:
            kept = kept[: chance.randint(0, len(kept))]
        self.rewrite(kept)
        self.durable, self.is_new = kept, False

    def flip(self, bit: int) -> None:
        """One bit is another, in whatever picture has it."""
        at, mask = bit // 8, 1 << bit % 8
        self.content[at] ^= mask
        if at < len(self.durable):
            durable = bytearray(self.durable)
            durable[at] ^= mask
            self.durable = bytes(durable)

    def _without_dropped(self) -> bytes:
        content = bytearray(self.content)
        for start, end in self.dropped:
            gap = len(content[start:end])
            content[start : start + gap] = bytes(gap)
        return bytes(content)


Names = dict[str, _File | None]  # None: a directory
Change = tuple[str, str, _File | None]  # "link" or "unlink", path, what


class SimulatedDisk:
    """`storage.disk.Disk` for one node; all of its directories are one table of paths."""

    def __init__(self, name: str, chance: Random) -> None:
        self.name = name
        self.room: int | None = None
        self.jammed = False
        self.failing = False
        self.unreadable: dict[str, bool] = {}  # True: it gives less than it holds
        self._chance = chance
        self._names: Names = {}
        self._durable: Names = {}
        self._changes: list[list[Change]] = []
        self._is_locked = False

    # ---- what happens to it

    def end_process(self) -> None:
        """The process that used it is gone, and its lock with it; every byte stays.

        But what a failed sync dropped may be read back, or not any more.
        """
        self._is_locked = False
        for _, file in self._files():
            if file.dropped and self._chance.random() < 0.5:
                file.evict()

    def lose_power(self) -> None:
        """Names and bytes that were not synced are lost, or not, or torn."""
        self._is_locked = False
        names = dict(self._durable)
        for changes in self._changes[: self._chance.randint(0, len(self._changes))]:
            _apply(names, changes)
        self._names, self._durable, self._changes = names, dict(names), []
        for _, file in self._files():
            file.lose_power(self._chance)

    def lose_all(self) -> None:
        """The disk is gone; there is an empty one in its place."""
        self._names, self._durable, self._changes = {}, {}, []
        self.unreadable.clear()

    def flip(self, where: str = "") -> None:
        """A bit of a file of the log or of a snapshot, whose path begins so, changes."""
        if damageable := self._damageable(where):
            file = self._chance.choice(damageable)[1]
            file.flip(self._chance.randrange(8 * len(file.content)))

    def spoil_reads(self, where: str = "") -> None:
        """Such a file cannot be read, or not to its end."""
        if damageable := self._damageable(where):
            path = self._chance.choice(damageable)[0]
            self.unreadable[path] = self._chance.random() < 0.5

    def _damageable(self, where: str) -> list[tuple[str, _File]]:
        return [
            (path, file)
            for path, file in self._files()
            if file.content and path.startswith(where) and DAMAGEABLE.fullmatch(path)
        ]

    def _files(self) -> list[tuple[str, _File]]:
        return [(path, file) for path, file in sorted(self._names.items()) if file is not None]

    # ---- the calls of storage.disk.Disk

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """The file's bytes."""
        content = self._file(path).content
        content = content[start:] if size is None else content[start : start + size]
        if path in self.unreadable:
            if not self.unreadable[path]:
                raise ReadFailedError(path, "Input/output error")
            content = content[: len(content) // 2]
        return bytes(content)

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
            self._take(path, b" ")
            self._change([("link", path, None)])

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        """A whole file, new or instead of what was there."""
        content = b"".join(parts)
        file = self._names.get(path)
        if file is None:
            self._take(path, b" ")
            file = _File()
            self._change([("link", path, file)])
        taken = self._fitting(content)
        file.rewrite(content[:taken])
        self.unreadable.pop(path, None)
        self._take(path, content)

    def append(self, path: str, content: bytes) -> None:
        """Add to the end of a file; a full disk takes a part of it."""
        file = self._file(path)
        file.content += content[: self._fitting(content)]
        self._take(path, content)

    def truncate(self, path: str, size: int) -> None:
        """Cut the file."""
        if self.jammed:
            raise WriteFailedError(path, 0, "Input/output error")
        file = self._file(path)
        self._give_back(len(file.content) - size)
        del file.content[size:]

    def sync(self, path: str) -> None:
        """The file's bytes are durable; its name is not thereby."""
        file = self._file(path)
        if self.failing:
            self.failing = False
            file.drop()
            raise SyncFailedError(path, "Input/output error")
        file.sync()

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
            self.unreadable.pop(after + path[len(before) :], None)
        self._change(changes)

    def remove(self, path: str) -> None:
        """Remove a file or an empty directory, if it is there."""
        if path in self._names:
            file = self._names[path]
            self._give_back(len(file.content) if file is not None else 0)
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

    def _fitting(self, content: bytes) -> int:
        """How much of it there is room for."""
        return len(content) if self.room is None else min(self.room, len(content))

    def _take(self, path: str, content: bytes) -> None:
        """The room that it needs is taken; WriteFailedError if that was not enough."""
        taken = self._fitting(content)
        if self.room is not None:
            self.room -= taken
        if taken < len(content):
            raise WriteFailedError(path, taken, "No space left on device")

    def _give_back(self, size: int) -> None:
        if self.room is not None:
            self.room += size

    def _change(self, changes: list[Change]) -> None:
        _apply(self._names, changes)
        self._changes.append(changes)


def _apply(names: Names, changes: list[Change]) -> None:
    for act, path, file in changes:
        if act == "link":
            names[path] = file
        else:
            names.pop(path, None)
