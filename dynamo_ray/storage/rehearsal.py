"""A disk that takes writes for show: what would become of a directory, without touching it.

    read ─► what was written here ─► or else what is there
    write, append, truncate, rename, remove ─► remembered, and listed in `acts`

What would change a directory runs on it unchanged, so its own code says what it would do. The
directory is neither made nor locked; whoever has it must see to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import MissingFileError, ReadFailedError, WriteFailedError

# A longer file is remembered by its length only: a snapshot of all there is need not fit twice.
KEPT_BYTES = 16 << 20


class Act(NamedTuple):
    """A change: `verb` is make, write, add, cut, move (to `to`) or remove. `size`: bytes then."""

    verb: str
    path: str
    size: int = 0
    to: str = ""


class Shown(NamedTuple):
    """A file as it would be: the first `kept` bytes of `base`, then `more`, then `unkept` bytes."""

    base: str
    kept: int | None
    more: bytes
    unkept: int = 0


class Rehearsal:
    """`storage.disk.Disk` over another one, which is only read."""

    def __init__(self, disk: Disk) -> None:
        self.name = disk.name
        self.acts: list[Act] = []
        self._disk = disk
        self._files: dict[str, Shown | None] = {}  # None: it would be gone
        self._directories: set[str] = set()

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        shown = self._shown(path)
        stop = self.size(path) if size is None else start + size
        if shown.unkept:
            raise ReadFailedError(f"{self.name}/{path}", "it was written for show")
        kept = self._kept(shown)
        content = (
            self._disk.read(shown.base, start, min(stop, kept) - start) if start < kept else b""
        )
        return content + shown.more[max(0, start - kept) : max(0, stop - kept)]

    def size(self, path: str) -> int:
        shown = self._shown(path)
        return self._kept(shown) + len(shown.more) + shown.unkept

    def exists(self, path: str) -> bool:
        if path in self._files:
            return self._files[path] is not None
        return path in self._directories or self._disk.exists(path)

    def names(self, path: str) -> list[str]:
        known = [*self._files, *self._directories]
        here = {one.rpartition("/")[2] for one in known if one.rpartition("/")[0] == path}
        before = f"{path}/" if path else ""
        return sorted(
            name for name in {*self._disk.names(path), *here} if self.exists(before + name)
        )

    def make_dir(self, path: str) -> None:
        if not self.exists(path):
            self._directories.add(path)
            self.acts.append(Act("make", path))

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        content, unkept = bytearray(), 0
        for part in parts:
            if unkept or len(content) + len(part) > KEPT_BYTES:
                unkept += len(part)
            else:
                content += part
        self._files[path] = Shown("", 0, bytes(content), unkept)
        self.acts.append(Act("write", path, len(content) + unkept))

    def append(self, path: str, content: bytes) -> None:
        shown = self._changing(path)
        self._files[path] = shown._replace(kept=self._kept(shown), more=shown.more + content)
        self.acts.append(Act("add", path, self.size(path)))

    def truncate(self, path: str, size: int) -> None:
        shown = self._changing(path)
        kept = self._kept(shown)
        more = shown.more[: max(0, size - kept)]
        self._files[path] = Shown(shown.base, min(kept, size), more)
        self.acts.append(Act("cut", path, size))

    def sync(self, path: str) -> None:
        """Nothing is written, so nothing need be durable."""

    def sync_dir(self, path: str) -> None:
        """As `sync`."""

    def rename(self, before: str, after: str) -> None:
        self._files[after] = self._changing(before)
        self._files[before] = None
        self.acts.append(Act("move", before, to=after))

    def remove(self, path: str) -> None:
        if self.exists(path):
            self._directories.discard(path)
            self._files[path] = None
            self.acts.append(Act("remove", path))

    def lock(self, path: str) -> None:
        """Whoever gave the disk has it locked, or need not."""

    def close(self) -> None:
        """What is behind belongs to whoever gave it."""

    def _shown(self, path: str) -> Shown:
        if path not in self._files:
            return Shown(path, None, b"")
        shown = self._files[path]
        if shown is None:
            raise MissingFileError(f"{self.name}/{path}")
        return shown

    def _changing(self, path: str) -> Shown:
        if not self.exists(path):
            raise WriteFailedError(f"{self.name}/{path}", 0, "there is no such file")
        return self._shown(path)

    def _kept(self, shown: Shown) -> int:
        return self._disk.size(shown.base) if shown.kept is None else shown.kept
