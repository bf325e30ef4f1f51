"""The few calls that storage makes to a file system, and the real one behind them.

Everything in this package goes through `Disk`, so the same code runs on a simulated disk that
forgets what was not synced and tears the last write. Paths are relative names inside one directory
("log-0000000000000001.dynr", "snap-…/MANIFEST"); "" is the directory itself.

What a disk promises is only this: `sync` makes a file's bytes durable, `sync_dir` the names in a
directory; a rename is atomic; bytes that were appended but not synced may be lost, torn, zeroed or
reordered by a power loss, but not by the end of the process alone.

Calls may come from several threads. A `sync` may run beside an `append` to the same path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from dynamo_ray.storage.errors import (
    DirectoryInUseError,
    MissingFileError,
    ReadFailedError,
    SyncFailedError,
    UnsafePathError,
    WriteFailedError,
)

SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
# O_NONBLOCK: opening a pipe that somebody put there must not hang; regular files ignore it.
FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# A file may claim more than it holds, and what it claims would be read into memory. No file of ours
# is that hollow: each value has some hundred bytes around it that no file system makes smaller.
CLAIMED_BYTES = 64 << 20
CLAIMED_RATIO = 4096
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# macOS: fsync leaves the bytes in the drive's own cache.
FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


class Folder(Protocol):
    """Whole files under one name. Raises the errors named below, and nothing else for its disk."""

    @property
    def name(self) -> str:
        """The directory, for messages."""

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """The file's bytes, fewer than `size` at its end. MissingFileError, ReadFailedError."""

    def size(self, path: str) -> int:
        """The file's length in bytes. MissingFileError, ReadFailedError."""

    def exists(self, path: str) -> bool:
        """Whether there is something of that name."""

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted; nothing if the directory is missing. ReadFailedError."""

    def make_dir(self, path: str) -> None:
        """Make a directory unless it is there. WriteFailedError."""

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        """A whole file, new or instead of what was there. WriteFailedError."""

    def sync(self, path: str) -> None:
        """The file's bytes and length are durable. SyncFailedError, never to be tried again."""

    def sync_dir(self, path: str) -> None:
        """The names in the directory are durable. SyncFailedError."""

    def rename(self, before: str, after: str) -> None:
        """Atomic; replaces `after`. WriteFailedError."""

    def remove(self, path: str) -> None:
        """Remove a file or an empty directory, if it is there. WriteFailedError."""


class Disk(Folder, Protocol):
    """One directory of a node, whose files also grow."""

    def append(self, path: str, content: bytes) -> None:
        """Add to the end of a file that is there. WriteFailedError says how much was added."""

    def truncate(self, path: str, size: int) -> None:
        """Cut the file to `size` bytes. WriteFailedError."""

    def lock(self, path: str) -> None:
        """Hold the directory for this process until `close`. DirectoryInUseError."""

    def close(self) -> None:
        """Let go of all files and of the lock. Idempotent."""


class Handle:
    """An open file, closed when its last user lets go of it.

    So a sync in one thread never meets a descriptor that another thread closed, or that the system
    has given to another file since.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self.fd)


class RealDisk:
    """A directory of the machine. Names are checked; no symbolic link inside is ever followed.

    It is made unless `create` is False; then looking at it leaves no trace.
    """

    def __init__(self, root: str | Path, *, create: bool = True) -> None:
        self.name = str(root)
        is_new = create and not os.path.isdir(root)
        try:
            if create:
                os.makedirs(root, mode=0o700, exist_ok=True)
            self._root = Handle(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            if not create:
                raise ReadFailedError(self.name, _reason(error)) from error
            raise WriteFailedError(self.name, 0, _reason(error)) from error
        if is_new:
            _sync_parent(self.name)
        self._open: dict[str, Handle] = {}
        self._lock: Handle | None = None

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        try:
            with self._opened(path, os.O_RDONLY) as fd:
                found = os.fstat(fd)
                end = found.st_size if size is None else min(start + size, found.st_size)
                _refuse_hollow(end - start, found)
                return _read_all(fd, start, end)
        except FileNotFoundError as error:
            raise MissingFileError(self._where(path)) from error
        except OSError as error:
            raise ReadFailedError(self._where(path), _reason(error)) from error

    def size(self, path: str) -> int:
        try:
            with self._opened(path, os.O_RDONLY) as fd:
                return os.fstat(fd).st_size
        except FileNotFoundError as error:
            raise MissingFileError(self._where(path)) from error
        except OSError as error:
            raise ReadFailedError(self._where(path), _reason(error)) from error

    def exists(self, path: str) -> bool:
        try:
            with self._parent(path) as (parent, name):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return False
        return True

    def names(self, path: str) -> list[str]:
        try:
            with self._directory(path) as fd:
                return sorted(os.listdir(fd))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReadFailedError(self._where(path), _reason(error)) from error

    def make_dir(self, path: str) -> None:
        with self._writing(path), self._parent(path) as (parent, name):
            with suppress(FileExistsError):
                os.mkdir(name, mode=0o700, dir_fd=parent)
        with self._writing(path), self._directory(path):
            pass

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        written = 0
        try:
            with self._opened(path, os.O_WRONLY | os.O_CREAT) as fd:
                os.ftruncate(fd, 0)
                for part in parts:
                    taken, failure = _write_all(fd, part)
                    written += taken
                    if failure is not None:
                        raise failure
        except OSError as error:
            raise WriteFailedError(self._where(path), written, _reason(error)) from error

    def append(self, path: str, content: bytes) -> None:
        try:
            handle = self._open.get(path) or self._keep_open(path)
        except OSError as error:
            raise WriteFailedError(self._where(path), 0, _reason(error)) from error
        taken, failure = _write_all(handle.fd, content)
        if failure is not None:
            raise WriteFailedError(self._where(path), taken, _reason(failure)) from failure

    def truncate(self, path: str, size: int) -> None:
        with self._writing(path):
            os.ftruncate((self._open.get(path) or self._keep_open(path)).fd, size)

    def sync(self, path: str) -> None:
        handle = self._open.get(path)
        try:
            if handle is not None:
                _sync(handle.fd)
            else:
                with self._opened(path, os.O_RDONLY) as fd:
                    _sync(fd)
        except OSError as error:
            raise SyncFailedError(self._where(path), _reason(error)) from error

    def sync_dir(self, path: str) -> None:
        try:
            with self._directory(path) as fd:
                os.fsync(fd)
        except OSError as error:
            raise SyncFailedError(self._where(path), _reason(error)) from error

    def rename(self, before: str, after: str) -> None:
        self._open.pop(before, None)
        self._open.pop(after, None)
        with (
            self._writing(after),
            self._parent(before) as (source, old),
            self._parent(after) as (target, new),
        ):
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)

    def remove(self, path: str) -> None:
        self._open.pop(path, None)
        with self._writing(path), suppress(FileNotFoundError):
            with self._parent(path) as (parent, name):
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    os.rmdir(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)

    def lock(self, path: str) -> None:
        with self._writing(path):
            handle = self._handle(path, os.O_RDWR | os.O_CREAT)
        self._hold(handle, fcntl.LOCK_EX)
        with suppress(OSError):  # the pid is for people only; the lock holds without it
            os.ftruncate(handle.fd, 0)
            os.pwrite(handle.fd, b"%d\n" % os.getpid(), 0)

    def share(self, path: str) -> None:
        """Keep others from locking the directory until `close`, and change nothing in it.

        Raises DirectoryInUseError, ReadFailedError.
        """
        try:
            self._hold(self._handle(path, os.O_RDONLY), fcntl.LOCK_SH)
        except FileNotFoundError:
            return  # nobody has ever locked it
        except OSError as error:
            raise ReadFailedError(self._where(path), _reason(error)) from error

    def changed_ms(self, path: str) -> int:
        """The wall time of the file's last change. MissingFileError, ReadFailedError."""
        try:
            with self._opened(path, os.O_RDONLY) as fd:
                return os.fstat(fd).st_mtime_ns // 1_000_000
        except FileNotFoundError as error:
            raise MissingFileError(self._where(path)) from error
        except OSError as error:
            raise ReadFailedError(self._where(path), _reason(error)) from error

    def close(self) -> None:
        self._open.clear()
        self._lock = None

    def _hold(self, handle: Handle, how: int) -> None:
        try:
            fcntl.flock(handle.fd, how | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle.fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise DirectoryInUseError(
                f"{self.name} is in use (pid {holder}); stop that node first, or give this one"
                " a directory of its own"
            ) from error
        self._lock = handle

    def _where(self, path: str) -> str:
        return os.path.join(self.name, path) if path else self.name

    def _keep_open(self, path: str) -> Handle:
        handle = self._handle(path, os.O_WRONLY | os.O_APPEND)
        self._open[path] = handle
        return handle

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        handle = self._handle(path, flags)
        yield handle.fd

    def _handle(self, path: str, flags: int) -> Handle:
        with self._parent(path) as (parent, name):
            try:
                handle = Handle(os.open(name, flags | FLAGS, 0o600, dir_fd=parent))
            except OSError as error:
                raise self._unsafe_or(path, error) from error
        if not stat.S_ISREG(os.fstat(handle.fd).st_mode):
            raise UnsafePathError(f"{self._where(path)} is no plain file; remove it")
        return handle

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        check_path(path)
        directory, _, name = path.rpartition("/")
        with self._directory(directory) as fd:
            yield fd, name

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        handle = self._root
        if path:
            check_path(path)
        for part in path.split("/") if path else ():
            try:
                handle = Handle(
                    os.open(part, os.O_RDONLY | os.O_DIRECTORY | FLAGS, dir_fd=handle.fd)
                )
            except OSError as error:
                raise self._unsafe_or(path, error) from error
        yield handle.fd

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteFailedError(self._where(path), 0, _reason(error)) from error

    def _unsafe_or(self, path: str, error: OSError) -> Exception:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.ENXIO):
            return UnsafePathError(f"{self._where(path)} is no plain file or directory; remove it")
        return error


def check_path(path: str) -> None:
    """Refuse a name that could lead elsewhere. Raises UnsafePathError."""
    if not all(map(SAFE_PART.match, path.split("/"))):
        raise UnsafePathError(f"{path!r} is no name that a data directory can have")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def boot_id() -> str:
    """What differs after every start of the machine; "" where the system does not tell."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _refuse_hollow(size: int, found: os.stat_result) -> None:
    held = found.st_blocks * 512
    if size > max(CLAIMED_BYTES, held * CLAIMED_RATIO):
        raise OSError(f"it claims {found.st_size:,} bytes and holds {held:,}")


def _read_all(fd: int, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        part = os.pread(fd, min(end - start, 1 << 30), start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_all(fd: int, content: bytes) -> tuple[int, OSError | None]:
    """How many bytes were taken, and why not all of them."""
    written, total = 0, len(content)
    try:
        written = os.write(fd, content)
        while written < total:
            taken = os.write(fd, memoryview(content)[written:])
            if not taken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            written += taken
    except OSError as error:
        return written, error
    return written, None


def _sync(fd: int) -> None:
    if FULL_SYNC is not None:
        fcntl.fcntl(fd, FULL_SYNC)
    else:
        os.fsync(fd)


def _sync_parent(path: str) -> None:
    handle = Handle(os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_CLOEXEC))
    try:
        os.fsync(handle.fd)
    except OSError as error:
        raise SyncFailedError(path, _reason(error)) from error
