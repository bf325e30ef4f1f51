"""What a node knows after a start: the newest snapshot, the log on top of it, and what is in doubt.

    newest generation whose manifest fits ─► maps        a damaged file costs its partition
      └─ segments in order ─► frames ─► maps             last wins per key
           ├─ a gap at the end of the last segment   torn: cut and said, if a crash can have left it
           ├─ a frame with a damaged payload         its partitions are quarantined
           └─ positions that nobody accounts for     the whole node is suspect

The positions of frames rise by one, so what was lost is known from what is there: bytes that are no
frame matter only if a position is missing. Recovery raises nothing for damage. It changes nothing
but a torn tail; damaged bytes are copied to `quarantine/`, for people.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

from dynamo_ray.storage.codec import Columns, decode_columns
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import MalformedBatchError, StorageError
from dynamo_ray.storage.frames import (
    CLOSED,
    SEGMENT_BYTES,
    Frame,
    Gap,
    Owner,
    first_position,
    scan,
)
from dynamo_ray.storage.log import segment_path, segments_on
from dynamo_ray.storage.singles import singles
from dynamo_ray.storage.snapshot import (
    Generation,
    file_path,
    generations_on,
    read_manifest,
    read_partition,
)

ASIDE = "quarantine"
# The key, its state before and its state after a replayed record (None: forgotten).
Replaced = Callable[[bytes, bytes, bytes | None], None]
# How many records, of how many bytes of how many, were read so far.
Progress = Callable[[int, int, int], None]
# Progress is told about once in so many bytes.
BYTES_A_WORD = 4 << 20
SINGLES_A_RUN = 4096


@dataclass
class Recovery:
    """What was found. `maps`: {key: state} per partition. `hints`: {key: node ids}.

    `quarantined`: partitions of which something is known to be damaged. `suspect`: something is
    lost and nobody can say of which partition. `doubted`: partitions that cannot be proved
    complete, now or since an earlier start, for these reasons or after a crash (DESIGN rule 9).
    """

    maps: list[dict[bytes, bytes]]
    hints: dict[bytes, bytes] = field(default_factory=dict)
    position: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    torn_bytes: int = 0
    quarantined: frozenset[int] = frozenset()
    suspect: bool = False
    doubted: frozenset[int] = frozenset()
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Nothing is doubted: the node's copies count towards R."""
        return not self.doubted


class Replay:
    """One recovery. `found` is its result; the rest is what the log goes on from.

    `reached`: the log came up to this segment, whose beginning is durable; None if unknown.
    """

    def __init__(
        self,
        disk: Disk,
        owner: Owner,
        partitions: int,
        *,
        reached: int | None,
        is_same_boot: bool,
        on_replaced: Replaced | None,
        on_progress: Progress | None = None,
    ) -> None:
        self.found = Recovery([{} for _ in range(partitions)])
        self.segments: list[tuple[int, int]] = []
        self.segment = 0
        self.covered = 0
        self.size = 0
        self.ends_closed = False
        self._disk = disk
        self._owner = owner
        self._reached = reached
        self._is_same_boot = is_same_boot
        self._on_replaced = on_replaced
        self._on_progress = on_progress
        self._bytes_in_all = 0
        self._quarantined: set[int] = set()
        # Put ids are remembered from records that the snapshot already covers, too (rule 7).
        self._older: dict[bytes, tuple[int, bytes]] = {}

    def run(self) -> None:
        """Read everything there is."""
        numbers = segments_on(self._disk)
        for number in numbers:
            with suppress(StorageError):
                self._bytes_in_all += self._disk.size(segment_path(number))
        self._load_snapshot()
        firsts = [self._first(number) for number in numbers]
        last = self._last_with_frames(numbers, firsts)
        for at, (number, first) in enumerate(zip(numbers, firsts, strict=True)):
            stop = firsts[at + 1] if at + 1 < len(firsts) else None
            if number <= last:
                self._read_segment(number, first, stop, number == last)
            else:
                self._pass_hollow(number)
        self.segment = max([self.segment, *numbers])
        if self._reached is None:
            self._suspect("how far the log had come cannot be read")
        elif self.segment < self._reached:
            self._suspect(f"log segments up to number {self._reached} are gone")
        self._leave_covered()
        self.found.quarantined = frozenset(self._quarantined)

    # ---- the snapshot

    def _load_snapshot(self) -> None:
        numbers = generations_on(self._disk)
        for number in reversed(numbers):
            try:
                partitions = len(self.found.maps)
                generation = read_manifest(self._disk, self._owner, partitions, number)
            except StorageError as error:
                self._note(f"snapshot {number} is unfinished or damaged and was not used ({error})")
                continue
            self.covered = self.found.position = generation.position
            self.segment = generation.segment
            self._bytes_in_all += sum(seal.size for seal in generation.files.values())
            for partition in generation.files:
                self._load_partition(generation, partition)
            return

    def _load_partition(self, generation: Generation, partition: int) -> None:
        try:
            columns = read_partition(self._disk, generation, partition)
        except StorageError as error:
            path = file_path(generation.number, partition)
            self._note(f"partition {partition} is quarantined: {error}")
            self._quarantined.add(partition)
            with suppress(StorageError):
                self._set_aside(path.replace("/", "-"), self._disk.read(path))
            return
        finally:
            self._tell_progress(generation.files[partition].size)
        self.found.records += len(columns.keys)
        if not self._take_whole(partition, columns):
            self._apply(columns)

    # ---- the log

    def _first(self, number: int) -> int | None:
        with suppress(StorageError):
            header = self._disk.read(segment_path(number), 0, SEGMENT_BYTES)
            return first_position(header, self._owner, number)
        return None

    def _last_with_frames(self, numbers: list[int], firsts: list[int | None]) -> int:
        """The segment that the log ends in: the newest whose header or any frame can be read."""
        for number, first in reversed(list(zip(numbers, firsts, strict=True))):
            if first is not None:
                return number
            pieces = scan(self._content(number) or b"", self._owner.seed, number)
            if any(isinstance(piece, Frame) for piece in pieces):
                return number
        return 0

    def _pass_hollow(self, number: int) -> None:
        """A newer segment without header and frames: torn in its making, or damaged since?"""
        self.segments.append((number, self.found.position + 1))
        self.ends_closed = False
        if self._reached is None or number <= self._reached:
            self._suspect(f"nothing of log segment {number} can be read")
        else:
            self._note(f"log segment {number} was torn in its making; nothing was in it")

    def _read_segment(
        self, number: int, first: int | None, stop: int | None, is_last: bool
    ) -> None:
        """`stop`: where the next segment begins; frames from there on are void here."""
        self.segments.append((number, self.found.position + 1 if first is None else first))
        self.ends_closed = False
        content = self._content(number)
        if content is None:
            self._suspect(f"log segment {number} cannot be read")
            return
        self.size += len(content)
        if first is None:
            self._note(f"the header of log segment {number} is damaged")
        else:
            self._expect(first, number)
        told, at = 0, SEGMENT_BYTES
        while at < len(content):
            at = self._take_singles(content, at, number, stop)
            piece = next(scan(content, self._owner.seed, number, at), None)
            if piece is not None:
                at = piece.end
                if isinstance(piece, Frame):
                    if stop is None or piece.position < stop:
                        self._take(piece, content, number)
                elif piece.end < len(content) or not is_last:
                    self._note(f"{_bytes(piece)} of log segment {number} are no frame")
                    self._keep_aside(number, content, piece)
                else:
                    self._end_with(piece, content, number)
            if at - told >= BYTES_A_WORD:
                self._tell_progress(at - told)
                told = at
        if told < len(content):
            self._tell_progress(len(content) - told)

    def _content(self, number: int) -> bytes | None:
        with suppress(StorageError):
            return self._disk.read(segment_path(number))
        return None

    def _take(self, frame: Frame, content: bytes, number: int) -> None:
        found = self.found
        self.ends_closed = frame.kind == CLOSED
        columns = self._columns(frame)
        if frame.position <= self.covered:
            if columns is not None and self._on_replaced is not None:
                self._look_at(columns)
            return
        if frame.position != found.position + 1:
            self._expect(frame.position, number)
        found.position = frame.position
        if frame.kind == CLOSED:
            return
        if columns is not None:
            found.frames += 1
            found.records += len(columns.keys)
            if frame.partitions is None:
                self._note(
                    f"{_bytes(frame)} of log segment {number} are damaged, but not its records"
                )
            self._apply(columns)
        elif frame.partitions is not None and max(frame.partitions, default=0) < len(found.maps):
            self._note(f"{_bytes(frame)} of log segment {number} are damaged: quarantined")
            self._quarantined.update(frame.partitions)
            self._keep_aside(number, content, frame)
        else:
            self._suspect(f"{_bytes(frame)} of log segment {number} are damaged")
            self._keep_aside(number, content, frame)

    def _take_singles(self, content: bytes, at: int, number: int, stop: int | None) -> int:
        """The lean way through frames of one plain record each, from `at` on; where they end."""
        found, older, on_replaced = self.found, self._older, self._on_replaced
        maps, hints, position = found.maps, found.hints, found.position
        run = singles(content, at, self._owner.seed, number, position)
        for partition, key, state, end in islice(run, SINGLES_A_RUN):
            if partition >= len(maps) or position + 1 == stop:
                break
            of = maps[partition]
            before = older.pop(key)[1] if key in older else of.get(key)
            of[key] = state
            if hints:
                hints.pop(key, None)
            if before is not None and on_replaced is not None and before != state:
                on_replaced(key, before, state)
            position += 1
            at = end
        if position > found.position:
            self.ends_closed = False
            found.frames += position - found.position
            found.records += position - found.position
            found.position = position
        return at

    def _columns(self, frame: Frame) -> Columns | None:
        """The frame's records; None if it is damaged, or says what no frame of this node can."""
        if frame.payload is None or frame.kind == CLOSED:
            return None
        try:
            columns = decode_columns(frame.payload)
        except MalformedBatchError:
            return None
        return columns if max(columns.partitions) < len(self.found.maps) else None

    def _end_with(self, gap: Gap, content: bytes, number: int) -> None:
        """The log ends in bytes that are no frame: torn, or damaged?

        The end of a process leaves the beginning of a frame, the end of a machine anything. If the
        machine has not stopped since, anything else is damage to what was once written whole.
        """
        self.ends_closed = False
        if not gap.is_cut and self._is_same_boot:
            self._suspect(f"{_bytes(gap)} at the end of log segment {number} are damaged")
            self._keep_aside(number, content, gap)
            return
        self._note(f"{_bytes(gap)} of log segment {number} were torn off by a crash: cut")
        self.found.torn_bytes += gap.end - gap.start
        # If this fails they stay, and are void: the next segment says at which position it begins.
        with suppress(StorageError):
            self._disk.truncate(segment_path(number), gap.start)

    def _expect(self, position: int, number: int) -> None:
        """Nothing may be missing before `position`."""
        missing = position - self.found.position - 1
        if missing > 0:
            self._suspect(f"{missing} frames before or in log segment {number} are lost")
            self.found.position = position - 1

    # ---- the maps

    def _apply(self, columns: Columns) -> None:
        maps, hints, on_replaced = self.found.maps, self.found.hints, self._on_replaced
        older = self._older
        for partition, key, state, kept in zip(*columns, strict=True):
            of = maps[partition]
            # The log's own word first: the snapshot may have seen what came later.
            before = older.pop(key)[1] if key in older else of.get(key)
            if state is None:
                of.pop(key, None)
            else:
                of[key] = state
            if kept:
                hints[key] = kept
            elif hints:
                hints.pop(key, None)
            if before is not None and on_replaced is not None and before != state:
                on_replaced(key, before, state)

    def _take_whole(self, partition: int, columns: Columns) -> bool:
        """A partition's file goes into its empty map at once, where `_apply` would do the same.

        That is: no key is there twice, none is forgotten, and there are no hints, now or earlier.
        """
        whole = dict(zip(columns.keys, columns.states, strict=True))
        found = self.found
        if len(whole) < len(columns.keys) or None in columns.states:
            return False
        if found.hints or any(columns.hints):
            return False
        found.maps[partition] = cast("dict[bytes, bytes]", whole)
        return True

    def _look_at(self, columns: Columns) -> None:
        """Records that the snapshot covers: only what they replaced is of interest."""
        assert self._on_replaced is not None
        for partition, key, state, _ in zip(*columns, strict=True):
            before = self._older.pop(key, None)
            if state is not None:
                self._older[key] = partition, state
            if before is not None and before[1] != state:
                self._on_replaced(key, before[1], state)

    def _leave_covered(self) -> None:
        """What was covered and not logged again: told if the snapshot knew of something newer."""
        for key, (partition, state) in self._older.items():
            now = self.found.maps[partition].get(key)
            if now != state and self._on_replaced is not None:
                self._on_replaced(key, state, now)
        self._older.clear()

    # ---- what is said and kept

    def _tell_progress(self, size: int) -> None:
        self.found.bytes += size
        if self._on_progress is not None:
            self._on_progress(self.found.records, self.found.bytes, self._bytes_in_all)

    def _note(self, text: str) -> None:
        self.found.notes.append(text)

    def _suspect(self, text: str) -> None:
        self.found.suspect = True
        self._note(text)

    def _keep_aside(self, number: int, content: bytes, piece: Frame | Gap) -> None:
        name = f"{segment_path(number)}-{piece.start:x}"
        self._set_aside(name, content[piece.start : piece.end])

    def _set_aside(self, name: str, content: bytes) -> None:
        # Best effort: a full disk is no reason not to start.
        with suppress(StorageError):
            self._disk.make_dir(ASIDE)
            self._disk.write(f"{ASIDE}/{name}", [content])


def _bytes(piece: Frame | Gap) -> str:
    return f"{piece.end - piece.start} bytes at {piece.start}"
