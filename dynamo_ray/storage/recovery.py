"""What a node knows after a start: the newest snapshot, the log on top of it, and what is in doubt.

    newest generation whose manifest fits ─► maps        a damaged file costs its partition
      └─ segments in order ─► frames ─► maps             last wins per key
           ├─ a gap at the end of the last segment   torn: cut and said, if a crash can have left it
           ├─ a frame with a damaged payload         its partitions are quarantined
           └─ positions that nobody accounts for     the whole node is suspect

The positions of frames rise by one, so what was lost is known from what is there: bytes that are no
frame matter only if a position is missing. Recovery raises nothing for damage. It cuts a torn tail.
To `quarantine/`, for people, it copies the damaged bytes of a segment, and moves whole files of
which nothing is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from dynamo_ray.storage import quarantine
from dynamo_ray.storage.codec import Columns, decode_columns, without
from dynamo_ray.storage.damage import NODE, NOTHING, PARTITIONS, Damage, Judge
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import MalformedBatchError, MissingFileError, StorageError
from dynamo_ray.storage.filling import Filling, Replaced
from dynamo_ray.storage.frames import (
    CLOSED,
    SEGMENT_BYTES,
    Frame,
    Gap,
    Owner,
    first_position,
    scan,
)
from dynamo_ray.storage.log import REACHED, Reached, segment_path, segments_on
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.singles import singles
from dynamo_ray.storage.snapshot import (
    MANIFEST,
    Generation,
    directory,
    file_path,
    generations_on,
    read_manifest,
    read_partition,
)

# Longer than any segment gets: what is longer has grown by an accident, and may not fit in memory.
SEGMENT_BYTES_READ = 1 << 30
# How many records, of how many bytes of how many, were read so far.
Progress = Callable[[int, int, int], None]
# Progress is told about once in so many bytes.
BYTES_A_WORD = 4 << 20
SINGLES_A_RUN = 4096


class Replay:
    """One recovery. `found` is its result; the rest is what the log goes on from.

    `reached`: how far the log had come for sure; None if that is not known any more.
    """

    def __init__(
        self,
        disk: Disk,
        owner: Owner,
        partitions: int,
        *,
        reached: Reached | None,
        is_same_boot: bool,
        on_replaced: Replaced | None = None,
        judge: Judge | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self._filling = Filling(partitions, on_replaced)
        self.found = Recovery(self._filling.maps, self._filling.hints)
        self.segments: list[tuple[int, int]] = []
        self.segment = 0
        self.covered = 0
        self.size = 0
        self.ends_closed = False
        self.ends_unclear = False
        self._disk = disk
        self._owner = owner
        self._reached = reached
        self._is_same_boot = is_same_boot
        self._judge = judge
        self._on_progress = on_progress
        self._bytes_in_all = 0
        self._quarantined: set[int] = set()
        self._came_to = 0  # the log, by its files, covered by the snapshot or not

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
        self._compare(self._reached)
        self._filling.leave_covered()
        self.found.quarantined = frozenset(self._quarantined)

    def _compare(self, reached: Reached | None) -> None:
        """The end of a log has nothing after it that would miss it."""
        if reached is None:
            self._hurt(REACHED, (0, 0), "how far the log had come cannot be read", NODE)
        elif self.segment < reached.segment:
            text = f"log segments up to number {reached.segment} are gone"
            self._hurt(segment_path(reached.segment), (0, 0), text, NODE)
        elif self.found.position < reached.position:
            missing = reached.position - self.found.position
            text = f"{missing} frames at the end of the log, which was closed, are lost"
            self._hurt(segment_path(reached.segment), (0, 0), text, NODE)

    # ---- the snapshot

    def _load_snapshot(self) -> None:
        numbers = generations_on(self._disk)
        for number in reversed(numbers):
            try:
                partitions = len(self.found.maps)
                generation = read_manifest(self._disk, self._owner, partitions, number)
            except MissingFileError:
                self._note(f"snapshot {number} is unfinished and was not used")
                continue
            except StorageError as error:
                text = f"snapshot {number} is damaged and was not used ({error})"
                self._hurt(f"{directory(number)}/{MANIFEST}", (0, 0), text, NOTHING)
                quarantine.move_generation(self._disk, number)
                continue
            self.covered = self.found.position = generation.position
            self.segment = generation.segment
            self.found.generation = generation
            self._bytes_in_all += sum(seal.size for seal in generation.files.values())
            for partition in generation.files:
                self._load_partition(generation, partition)
            return

    def _load_partition(self, generation: Generation, partition: int) -> None:
        path = file_path(generation.number, partition)
        try:
            columns = read_partition(self._disk, generation, partition)
        except StorageError as error:
            text = f"partition {partition} is quarantined: {error}"
            self._hurt(path, (0, 0), text, PARTITIONS, [partition])
            quarantine.move(self._disk, path)
            return
        finally:
            self._tell_progress(generation.files[partition].size)
        fitting = self._judged(columns, path, (0, 0))
        if fitting is not columns:
            with suppress(StorageError):
                quarantine.copy(self._disk, path, self._disk.read(path))
        self.found.records += len(fitting.keys)
        if not self._filling.take_whole(partition, fitting):
            self._filling.apply(fitting)

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
        path = segment_path(number)
        self.ends_closed = False
        if self._content(number) is None:
            self._miss_segment(number)
            return
        self.segments.append((number, self.found.position + 1))
        if self._reached is None or number <= self._reached.segment:
            text = f"nothing of log segment {number} can be read"
            self._hurt(path, (0, 0), text, NODE)
        elif self._length(number) > SEGMENT_BYTES:
            # A segment's name is durable, and said in REACHED, before its first frame is written.
            self._hurt(path, (0, 0), f"log segment {number} is none of this node's", NOTHING)
        else:
            self._note(f"log segment {number} was torn in its making; nothing was in it")

    def _read_segment(
        self, number: int, first: int | None, stop: int | None, is_last: bool
    ) -> None:
        """`stop`: where the next segment begins; frames from there on are void here."""
        path, frames = segment_path(number), 0
        self.ends_closed = False
        content = self._content(number)
        if content is None:
            self._miss_segment(number)
            return
        self.segments.append((number, self.found.position + 1 if first is None else first))
        self.size += len(content)
        if first is not None:
            self._expect(first, number)
        # The position that the segment is known to have come to.
        came_to = 0 if first is None else first - 1
        told, at = 0, SEGMENT_BYTES
        while at < len(content):
            taken = self.found.position
            at = self._take_singles(content, at, number, stop)
            if self.found.position > taken:
                frames += self.found.position - taken
                came_to = max(came_to, self.found.position)
            piece = next(scan(content, self._owner.seed, number, at), None)
            if isinstance(piece, Frame):
                at = piece.end
                frames += 1
                if stop is None or piece.position < stop:
                    came_to = max(came_to, piece.position)
                    self._take(piece, content, number)
            elif piece is not None:
                at = piece.end
                if at == len(content) and is_last:
                    self._end_with(piece, content, number)
                else:
                    ends_whole = at == len(content) and stop is not None and came_to + 1 >= stop
                    self._pass_gap(piece, content, number, ends_whole)
            if at - told >= BYTES_A_WORD:
                self._tell_progress(at - told)
                told = at
        if told < len(content):
            self._tell_progress(len(content) - told)
        self._came_to = max(self._came_to, came_to)
        if first is None:
            is_void = not frames and stop is not None and self._came_to + 1 >= stop
            self._miss_header(number, is_void, len(content))
        if self._length(number) > len(content):
            text = f"log segment {number} is longer than any, and was not read to its end"
            self._hurt(path, (len(content), self._length(number)), text, NODE)

    def _miss_segment(self, number: int) -> None:
        """No segment to go on from, then: its bytes cannot even be synced."""
        text = f"log segment {number} cannot be read"
        self._hurt(segment_path(number), (0, 0), text, NODE)
        quarantine.move(self._disk, segment_path(number))

    def _pass_gap(self, gap: Gap, content: bytes, number: int, is_void: bool) -> None:
        """Bytes that are no frame: left by a write that failed (void), or damaged since."""
        text = f"{_bytes(gap)} of log segment {number} are no frame"
        if is_void:
            self._note(f"{text}: left by a crash or a failed write, and void")
        else:
            self._hurt(segment_path(number), gap[:2], text, NOTHING)
        self._keep_aside(number, content, gap)

    def _miss_header(self, number: int, is_void: bool, size: int) -> None:
        text = f"the header of log segment {number} is damaged"
        if is_void and size <= SEGMENT_BYTES:
            self._note(f"{text}; nothing was in it")
        else:
            self._hurt(segment_path(number), (0, min(size, SEGMENT_BYTES)), text, NOTHING)

    def _content(self, number: int) -> bytes | None:
        """The segment; None if the disk does not give all of it, which is no torn tail."""
        path = segment_path(number)
        with suppress(StorageError):
            content = self._disk.read(path, 0, SEGMENT_BYTES_READ)
            whole = min(self._disk.size(path), SEGMENT_BYTES_READ)
            return content if len(content) == whole else None
        return None

    def _length(self, number: int) -> int:
        with suppress(StorageError):
            return self._disk.size(segment_path(number))
        return 0

    def _take(self, frame: Frame, content: bytes, number: int) -> None:
        found = self.found
        self.ends_closed = frame.kind == CLOSED
        is_covered = frame.position <= self.covered
        if not is_covered:
            if frame.position != found.position + 1:
                self._expect(frame.position, number)
            found.position = frame.position
        if frame.kind == CLOSED:
            return
        columns = self._columns(frame)
        if columns is None:
            self._lose(frame, content, number, is_covered)
            return
        path = segment_path(number)
        fitting = self._judged(columns, path, frame[:2], is_covered)
        if fitting is not columns:
            self._keep_aside(number, content, frame)
        if is_covered:
            self._filling.look_at(fitting)
            return
        if frame.partitions is None:
            text = f"{_bytes(frame)} of log segment {number} are damaged, but not its records"
            self._hurt(path, frame[:2], text, NOTHING)
        found.frames += 1
        found.records += len(fitting.keys)
        self._filling.apply(fitting)

    def _lose(self, frame: Frame, content: bytes, number: int, is_covered: bool) -> None:
        """A frame whose records cannot be read."""
        path, places = segment_path(number), frame.partitions
        text = f"{_bytes(frame)} of log segment {number} are damaged"
        if is_covered:
            text += "; the snapshot has what they held, except for put ids"
            self._hurt(path, frame[:2], text, NOTHING)
        elif places is not None and max(places, default=0) < len(self.found.maps):
            self._hurt(path, frame[:2], f"{text}: quarantined", PARTITIONS, places)
        else:
            self._hurt(path, frame[:2], text, NODE)
        self._keep_aside(number, content, frame)

    def _take_singles(self, content: bytes, at: int, number: int, stop: int | None) -> int:
        """The lean way through frames of one plain record each, from `at` on; where they end."""
        if self._judge is not None:
            return at
        found = self.found
        most = SINGLES_A_RUN if stop is None else min(SINGLES_A_RUN, stop - found.position - 1)
        run = singles(content, at, self._owner.seed, number, found.position)
        taken, end = self._filling.take_singles(islice(run, max(0, most)))
        if not taken:
            return at
        self.ends_closed = False
        found.frames += taken
        found.records += taken
        found.position += taken
        return end

    def _columns(self, frame: Frame) -> Columns | None:
        """The frame's records; None if it is damaged, or says what no frame of this node can."""
        if frame.payload is None:
            return None
        try:
            columns = decode_columns(frame.payload)
        except MalformedBatchError:
            return None
        return columns if max(columns.partitions) < len(self.found.maps) else None

    def _judged(
        self, columns: Columns, path: str, place: tuple[int, int], is_covered: bool = False
    ) -> Columns:
        """The columns, without those rows that no node can have written."""
        misfits = list(self._judge(columns)) if self._judge is not None else []
        if not misfits:
            return columns
        for why, count in Counter(one.why for one in misfits).items():
            places = sorted({p for one in misfits if one.why == why for p in one.partitions})
            cost = NOTHING if is_covered else PARTITIONS
            self._hurt(path, place, f"{path} holds {count} records {why}", cost, places)
        return without(columns, {one.row for one in misfits})

    def _end_with(self, gap: Gap, content: bytes, number: int) -> None:
        """The log ends in bytes that are no frame: torn, or damaged?

        The end of a process leaves the beginning of a frame, the end of a machine anything. If the
        machine has not stopped since, anything else is damage to what was once written whole; if it
        has, what is neither a beginning nor zeros may be that, and the node is not sure (rule 9).
        """
        self.ends_closed = False
        if not gap.is_cut and self._is_same_boot:
            text = f"{_bytes(gap)} at the end of log segment {number} are damaged"
            self._hurt(segment_path(number), gap[:2], text, NODE)
            self._keep_aside(number, content, gap)
            return
        self.ends_unclear = not gap.is_cut and any(content[gap.start : gap.end])
        self._note(f"{_bytes(gap)} of log segment {number} were torn off by a crash: cut")
        self.found.torn_bytes += gap.end - gap.start
        # Where they stay they are void: the next segment says at which position it begins. They do
        # if this fails, or if they are a reason to doubt, which is not noted durably yet.
        if not self.ends_unclear:
            with suppress(StorageError):
                self._disk.truncate(segment_path(number), gap.start)

    def _expect(self, position: int, number: int) -> None:
        """Nothing may be missing before `position`."""
        missing = position - self.found.position - 1
        if missing > 0:
            text = f"{missing} frames before or in log segment {number} are lost"
            self._hurt(segment_path(number), (0, 0), text, NODE)
            self.found.position = position - 1

    # ---- what is said and kept

    def _tell_progress(self, size: int) -> None:
        self.found.bytes += size
        if self._on_progress is not None:
            self._on_progress(self.found.records, self.found.bytes, self._bytes_in_all)

    def _note(self, text: str) -> None:
        self.found.notes.append(text)

    def _hurt(
        self,
        path: str,
        place: tuple[int, int],
        text: str,
        cost: str,
        partitions: Iterable[int] = (),
    ) -> None:
        self._note(text)
        self.found.damages.append(Damage(path, *place, text, cost, tuple(partitions)))
        if cost == PARTITIONS:
            self._quarantined.update(partitions)
        self.found.suspect |= cost == NODE

    def _keep_aside(self, number: int, content: bytes, piece: Frame | Gap) -> None:
        name = f"{segment_path(number)}-{piece.start:x}"
        quarantine.copy(self._disk, name, content[piece.start : piece.end])


def _bytes(piece: Frame | Gap) -> str:
    return f"{piece.end - piece.start} bytes at {piece.start}"
