"""The append-only log: one write per group of records, in segments `log-<16 hex>.dynr`.

    append ─► frames written ──────────────► position          with the OS: survives the process
                └─ the disk is full ─► cut back ─► AppendFailedError(cut_back=True)
                                        └─ cannot: close the segment for good, start another
    sync ───► everything up to position is durable             survives the machine

A segment is never appended to again by a later run, and a new one says the position of its first
frame: so whatever a failed write left at the end of the one before is void, and a reader knows it.
The old segment is synced before a new one begins: a crash takes frames from the very end only.

One caller at a time, but `sync` may run beside `append` in another thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from dynamo_ray.storage.codec import Columns, encode_columns, part_of
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import (
    AppendFailedError,
    MissingFileError,
    ReadFailedError,
    RecordTooLargeError,
    WriteFailedError,
)
from dynamo_ray.storage.frames import BATCH, CLOSED, SEGMENT_BYTES, Owner, frame, segment_header
from dynamo_ray.storage.sealed import replace_file

SEGMENT_BYTES_MAX = 64 << 20
# A frame is decoded whole, and one damaged frame is one damaged unit: keep it small.
PAYLOAD_BYTES_MAX = 16 << 20
# How far the log has come, so that what is gone from its end is missed.
REACHED = "REACHED"
NAME = re.compile(r"log-([0-9a-f]{16})\.dynr")


class Reached(NamedTuple):
    """The log has a segment of that number, and once ended, closed, with that position (or 0)."""

    segment: int
    position: int = 0


def segment_path(number: int) -> str:
    return f"log-{number:016x}.dynr"


def segments_on(disk: Disk) -> list[int]:
    """The numbers of the segments that are there, oldest first."""
    found = map(NAME.fullmatch, disk.names(""))
    return sorted(int(match[1], 16) for match in found if match)


def payloads(columns: Columns) -> Iterator[tuple[Sequence[int], bytes]]:
    """The records as payloads of bounded size, each with its distinct partitions."""
    rows = len(columns.partitions)
    try:
        payload = encode_columns(columns)
    except RecordTooLargeError:
        if rows == 1:
            raise
        payload = None
    if payload is not None and (rows == 1 or len(payload) <= PAYLOAD_BYTES_MAX):
        yield sorted(set(columns.partitions)), payload
        return
    half = rows // 2
    yield from payloads(part_of(columns, 0, half))
    yield from payloads(part_of(columns, half, rows))


class Log:
    """The end of a node's log. `segments`: number and first position of each, oldest first."""

    def __init__(
        self,
        disk: Disk,
        owner: Owner,
        position: int,
        number: int,
        *,
        segments: list[tuple[int, int]],
        on_segment: Callable[[int], None],
        segment_bytes: int = SEGMENT_BYTES_MAX,
        size: int = 0,
    ) -> None:
        self.position = position
        self.segments = segments
        self.size_since_rotation = size
        self._disk = disk
        self._owner = owner
        self._seed = owner.seed
        self._number = number
        self._on_segment = on_segment
        self._segment_bytes = segment_bytes
        self._path = ""
        self._size = 0
        self._first = 0
        # What an earlier run appended may not be synced either. Path and position are read as one,
        # because `sync` may run in another thread.
        self._tail = (segment_path(segments[-1][0]) if segments else "", position)
        self._synced = -1 if segments else position

    @property
    def number(self) -> int:
        """The number of the newest segment."""
        return self._number

    @property
    def starts_segment(self) -> bool:
        """Whether the next append starts one."""
        return not self._path or self._size >= self._segment_bytes

    def append(self, columns: Columns) -> int:
        """Write the records with the OS, all or none; the position of the last frame.

        Raises AppendFailedError, RecordTooLargeError, or SyncFailedError where a segment ended.
        """
        if len(columns.partitions) == 1:
            return self._write(iter([(columns.partitions, encode_columns(columns))]), BATCH)
        return self._write(payloads(columns), BATCH)

    def mark_closed(self) -> None:
        """Say that nothing comes after this: a log that ends so, and is synced, is complete."""
        self._write(iter([([], b"")]), CLOSED)

    def sync(self) -> int:
        """Make all that was appended durable; the position up to which it is. SyncFailedError."""
        path, position = self._tail
        if position > self._synced:
            self._disk.sync(path)
            self._synced = max(self._synced, position)
        return position

    def rewrite_tail(self) -> None:
        """Write the newest segment anew, after a run that ended with a failed fsync.

        What that fsync dropped may still be read back from the page cache, and would be dropped
        with it: another fsync of the same file succeeds and says nothing. Older segments were
        synced before this one began. WriteFailedError, SyncFailedError.
        """
        path = self._tail[0]
        with suppress(MissingFileError, ReadFailedError):  # then nothing of it was recovered either
            content = self._disk.read(path) if path else b""
            if content:
                replace_file(self._disk, path, content)

    def rotate(self) -> int:
        """End the segment, synced; the position it ends with. SyncFailedError."""
        self.sync()
        if self.position >= self._first:
            self._path = ""
        self.size_since_rotation = 0
        return self.position

    def cut(self, through: int) -> int:
        """Remove segments that end at `through` or before; how many. WriteFailedError.

        The newest stays. Oldest first, so that what is left after a crash has no hole.
        """
        removed = 0
        while len(self.segments) > 1 and self.segments[1][1] <= through + 1:
            self._disk.remove(segment_path(self.segments[0][0]))
            del self.segments[0]
            removed += 1
        return removed

    def _write(self, groups: Iterator[tuple[Sequence[int], bytes]], kind: int) -> int:
        if self.starts_segment:
            self._start()
        position, offset, frames = self.position, self._size, []
        for partitions, payload in groups:
            position += 1
            made = frame(self._seed, self._number, offset, position, partitions, payload, kind)
            frames.append(made)
            offset += len(made)
        try:
            self._disk.append(self._path, frames[0] if len(frames) == 1 else b"".join(frames))
        except WriteFailedError as error:
            raise self._cut_back(error) from error
        self.size_since_rotation += offset - self._size
        self._size = offset
        self.position = position
        self._tail = (self._path, position)
        return position

    def _cut_back(self, error: WriteFailedError) -> AppendFailedError:
        """Remove what a failed write left; a segment where that fails is never used again."""
        try:
            self._disk.truncate(self._path, self._size)
        except WriteFailedError:
            self._path = ""
            return AppendFailedError(False, str(error))
        return AppendFailedError(True, str(error))

    def _start(self) -> None:
        """A new segment, durable with its name before anything is appended to it."""
        self.sync()
        number, first = self._number + 1, self.position + 1
        path = segment_path(number)
        try:
            self._disk.write(path, [segment_header(self._owner, number, first)])
            self._disk.sync(path)
            self._disk.sync_dir("")
            self._on_segment(number)
        except WriteFailedError as error:
            self._path = ""
            raise AppendFailedError(True, str(error)) from error
        self._number, self._path, self._size, self._first = number, path, SEGMENT_BYTES, first
        self.segments.append((number, first))
