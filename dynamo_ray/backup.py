"""Backups of a whole cluster: written while it serves, listed, verified (storage/archive.py).

A backup promises what a Reader does (dynamo_ray/sweep.py): it holds every write that was
acknowledged by W nodes before it began, or there is none. Restoring is in restoring.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.sweep import Rows
from dynamo_ray.errors import BackupError, BackupNotFoundError, BackupRefusedError
from dynamo_ray.session import Session
from dynamo_ray.storage import archive
from dynamo_ray.storage.archive import Backup, NewBackup, Origin
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.disk import Folder
from dynamo_ray.storage.errors import MissingFileError, NewerFormatError, StorageError
from dynamo_ray.storage.places import open_place
from dynamo_ray.sweep import Reader, reading
from dynamo_ray.wire.keys import Credentials

PARTITIONS_AT_ONCE = 4
WHOLE, UNFINISHED, NEWER, DAMAGED = "whole", "unfinished", "newer format", "damaged"

# Called with how many of so many steps are done, and how many keys and bytes that were.
OnProgress = Callable[[int, int, int, int], None]


__all__ = ["Backup", "Listed", "OnProgress", "create", "listing", "opened", "verify"]


class Listed(NamedTuple):
    """A backup in a place. `backup` is None unless its manifest can be read; then see `problem`."""

    name: str
    state: str
    backup: Backup | None = None
    problem: str = ""


async def create(
    session: Session, credentials: Credentials, where: str, version: str, on_progress: OnProgress
) -> Backup:
    """Write a backup of the session's cluster below a path or URI.

    Raises UnavailableError where too few nodes answer, BackupError where it cannot be written; what
    was written then is unfinished, and never used.
    """
    with _explained():
        folder = await asyncio.to_thread(open_place, where, new=True)
        async with reading(session, credentials) as reader:
            name = archive.free_name(folder, reader.charter.name, _stamp(time.time()))
            created_ms = time.time_ns() // 1_000_000
            new = await asyncio.to_thread(NewBackup, folder, name)
            await _Writing(reader, new, on_progress).run()
            origin = _origin(reader, created_ms, version)
        return await asyncio.to_thread(new.finish, origin)


def listing(where: str) -> list[Listed]:
    """The backups at a path or URI, by name. Raises BackupError, BackupNotFoundError."""
    with _explained():
        folder = open_place(where)
        return [_listed(folder, name) for name in archive.names_of(folder)]


def opened(where: str) -> tuple[Folder, Backup]:
    """The backup at a path or URI. BackupError, BackupNotFoundError, BackupRefusedError."""
    place, name = _parted(where)
    with _explained():
        folder = open_place(place)
        if not folder.exists(name):
            raise BackupNotFoundError(f"there is no backup {name!r} in {folder.name}")
        if not archive.is_finished(folder, name):
            raise BackupRefusedError(
                f"{folder.name}/{name} has no {archive.MANIFEST}: it was never finished"
            )
    try:
        return folder, archive.read_backup(folder, name)
    except StorageError as error:
        raise BackupRefusedError(str(error), {archive.MANIFEST: str(error)}) from error


def verify(folder: Folder, backup: Backup, on_progress: OnProgress) -> dict[str, str]:
    """Read all of a backup; what is wrong with it, by file. Nothing if it is sound."""
    damaged, done, keys, size = {}, 0, 0, 0
    for partition, problem in archive.verify(folder, backup):
        seal = backup.files[partition]
        done, keys, size = done + 1, keys + seal.records, size + seal.size
        on_progress(done, len(backup.files), keys, size)
        if problem:
            damaged[backup.path(partition)] = problem
    return damaged


class _Stopped(Exception):
    """Carries an error of the reading through the writing, which must not take it for its own."""


class _Writing:
    """Some partitions at a time are read by the loop and written by threads."""

    def __init__(self, reader: Reader, new: NewBackup, on_progress: OnProgress) -> None:
        self._reader, self._new, self._on_progress = reader, new, on_progress
        self._total = reader.charter.settings.partitions
        self._left = iter(range(self._total))
        self._done = self._keys = self._bytes = 0
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        workers = [asyncio.create_task(self._work()) for _ in range(PARTITIONS_AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()

    async def _work(self) -> None:
        for partition in self._left:
            records = self._records(partition, self._reader.states(partition))
            try:
                await asyncio.to_thread(self._new.write, partition, records)
            except _Stopped as stopped:
                raise stopped.args[0] from None
            self._done += 1
            self._on_progress(self._done, self._total, self._keys, self._bytes)

    def _records(self, partition: int, pages: AsyncIterator[Rows]) -> Iterator[Record]:
        """Called in a thread: the partition's records, each page when it is wanted."""
        while True:
            asked = asyncio.run_coroutine_threadsafe(self._next(pages), self._loop)
            page = asked.result()
            if isinstance(page, Exception):
                raise _Stopped(page)
            if page is None:
                return
            for key, state in zip(page.keys, page.states, strict=True):
                yield Record(partition, key, state, b"")

    async def _next(self, pages: AsyncIterator[Rows]) -> Rows | Exception | None:
        try:
            page = await anext(pages, None)
        except Exception as error:
            return error
        if page is not None:
            self._keys += len(page.keys)
            self._bytes += sum(map(len, page.states))
            self._on_progress(self._done, self._total, self._keys, self._bytes)
        return page


def _origin(reader: Reader, created_ms: int, version: str) -> Origin:
    charter: Charter = reader.charter
    has, missing = charter.settings, reader.missing
    return Origin(
        charter.name,
        charter.cluster_id.hex(),
        has.n,
        has.r,
        has.w,
        has.partitions,
        created_ms,
        version,
        [member.name for member in reader.members if member.node not in missing],
        [member.name for member in reader.members if member.node in missing],
    )


def _listed(folder: Folder, name: str) -> Listed:
    try:
        if not archive.is_finished(folder, name):
            return Listed(name, UNFINISHED, None, f"it has no {archive.MANIFEST}")
        return Listed(name, WHOLE, archive.read_backup(folder, name))
    except NewerFormatError as error:
        return Listed(name, NEWER, None, str(error))
    except StorageError as error:
        return Listed(name, DAMAGED, None, str(error))


def _parted(where: str) -> tuple[str, str]:
    """A backup's place and its name; what follows a `?` in a URI belongs to the place."""
    path, mark, options = where.partition("?") if "://" in where else (where, "", "")
    place, slash, name = path.rstrip("/").rpartition("/")
    if not archive.NAME.fullmatch(name):
        raise BackupNotFoundError(f"{where} names no backup; `backup list` shows what there is")
    return (place or slash or ".") + mark + options, name


def _stamp(at: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what storage raises into errors for users."""
    try:
        yield
    except MissingFileError as error:
        raise BackupNotFoundError(f"{error}: there is no backup") from error
    except StorageError as error:
        raise BackupError(str(error)) from error
