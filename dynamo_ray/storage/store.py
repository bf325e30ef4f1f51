"""One node's directory: identity, log and snapshots, as the one class that a node uses.

    open ─► recover ─► new_incarnation ─► append, sync, ... ─► close
                            ▲                  │
                            └── append failed ─┘          sync failed: the end, start again

    begin_snapshot ─► write(partition) ... ─► finish ─► cut_log

The store offers two acts, `append` (with the OS) and `sync` (durable); which of them comes before
an acknowledgement is the durability level's business, and so its caller's. Nothing here waits,
reads a clock or draws a random number. Calls come from one thread at a time, but `sync`, one of
`new_incarnation`, `proved`, `doubt` and `grant`, and a snapshot's `write` and `finish` may run
beside `append`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from dynamo_ray.storage import identity as identities
from dynamo_ray.storage.codec import Columns, Record, columns_of
from dynamo_ray.storage.damage import Judge
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import (
    AppendFailedError,
    StorageError,
    SyncFailedError,
    WriteFailedError,
)
from dynamo_ray.storage.filling import Replaced
from dynamo_ray.storage.frames import Owner
from dynamo_ray.storage.identity import Identity
from dynamo_ray.storage.log import REACHED, SEGMENT_BYTES_MAX, Log, Reached
from dynamo_ray.storage.ownership import LOCK, Opening, check, created
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.recovery import Progress, Replay
from dynamo_ray.storage.sealed import read_sealed, write_sealed
from dynamo_ray.storage.snapshot import NewSnapshot, generations_on

# There from a failed fsync on until the next start has taken notice.
UNSYNCED = "UNSYNCED"
WRITTEN, SYNCED = "written", "synced"


class Store:
    """See above. All that it raises on purpose is a StorageError."""

    def __init__(
        self, disk: Disk, opening: Opening, identity: Identity, segment_bytes: int
    ) -> None:
        self.identity = identity
        self.owner = Owner(identity.cluster_id, identity.node_id)
        self._disk = disk
        self._opening = opening
        self._segment_bytes = segment_bytes
        self._log: Log | None = None
        self._is_renewed = False
        self._closed_at = -1
        self._covered = 0
        self._taking: NewSnapshot | None = None
        self._failure: SyncFailedError | None = None

    @classmethod
    def open(cls, disk: Disk, opening: Opening, *, segment_bytes: int = SEGMENT_BYTES_MAX) -> Store:
        """Lock the directory and make sure whose it is. Raises a DirectoryRefusedError."""
        disk.lock(LOCK)
        try:
            identity = identities.load(disk)
            if identity is None:
                identity = created(disk, opening)
            check(disk, opening, identity)
        except BaseException:
            disk.close()
            raise
        return cls(disk, opening, identity, segment_bytes)

    @property
    def position(self) -> int:
        """The position of the last frame that was appended."""
        return self._ready.position

    @property
    def bytes_since_snapshot(self) -> int:
        """About how much log a start would have to replay; a reason to take a snapshot."""
        return self._ready.size_since_rotation

    @property
    def starts_segment(self) -> bool:
        """Whether the next append starts a segment, and so waits for the disk several times."""
        return self._ready.starts_segment

    @property
    def doubted(self) -> frozenset[int]:
        """The partitions that cannot be proved complete (rule 9)."""
        return self.identity.doubted

    def recover(
        self,
        on_replaced: Replaced | None = None,
        on_progress: Progress | None = None,
        judge: Judge | None = None,
    ) -> Recovery:
        """Read everything there is; damage raises nothing. Once, before all that follows here.

        `on_replaced` is told of every state that a replayed record replaces, in their order;
        `on_progress`, now and then, of records, bytes, and bytes in all. What `judge` objects to
        is quarantined as if it were damaged.
        """
        assert self._log is None
        identity, boot_id = self.identity, self._opening.boot_id
        is_same_boot = bool(boot_id) and identity.boot_id == boot_id
        replay = Replay(
            self._disk,
            self.owner,
            identity.partitions,
            reached=self._reached(),
            is_same_boot=is_same_boot,
            on_replaced=on_replaced,
            judge=judge,
            on_progress=on_progress,
        )
        replay.run()
        found = replay.found
        doubted = identity.doubted | found.quarantined
        if found.suspect or not self._is_proved(replay, is_same_boot):
            doubted = frozenset(range(identity.partitions))
        found.doubted = doubted
        self.identity = replace(identity, doubted=doubted)
        self._closed_at = found.position if replay.ends_closed else -1
        self._covered = replay.covered
        self._log = Log(
            self._disk,
            self.owner,
            found.position,
            replay.segment,
            segments=replay.segments,
            on_segment=self._on_segment,
            segment_bytes=self._segment_bytes,
            size=replay.size,
        )
        return found

    def new_incarnation(self, now_ms: int, random8: bytes) -> bytes:
        """14 bytes that no writer id had before (rule 2), durable before they are returned.

        What was recovered or appended is durable then, too. WriteFailedError, SyncFailedError.
        """
        opening = self._opening
        incarnation = identities.next_incarnation(self.identity.incarnation, now_ms, random8)
        renewed = replace(
            self.identity,
            incarnation=incarnation,
            boot_id=opening.boot_id,
            durability=opening.durability,
        )
        with self._watching():
            if self._disk.exists(UNSYNCED):
                self._ready.rewrite_tail()
            self._ready.sync()
            identities.save(self._disk, renewed)
            # What it said is said by IDENTITY now.
            self._disk.remove(UNSYNCED)
        self.identity = renewed
        self._is_renewed = True
        return renewed.incarnation

    def append(self, records: Sequence[Record]) -> int:
        """Write the records with the OS, all of them or none; the position of the last frame.

        AppendFailedError: the caller undoes its map changes and asks for a new incarnation (rule
        1); later appends may succeed again. RecordTooLargeError. SyncFailedError: see `sync`.
        """
        return self.append_columns(columns_of(records)) if records else self.position

    def append_columns(self, columns: Columns) -> int:
        """`append` of at least one record, column by column."""
        assert self._is_renewed
        if self._failure is not None:
            raise self._failure
        try:
            return self._ready.append(columns)
        except AppendFailedError:
            if self._taking is not None:
                self._taking.is_void = True
            raise
        except SyncFailedError as error:
            self._give_up(error)
            raise

    def sync(self) -> int:
        """Make what was appended durable; the position up to which it is.

        SyncFailedError ends this store: all is doubted, every later call raises it, start again.
        """
        with self._watching():
            return self._ready.sync()

    def begin_snapshot(self) -> NewSnapshot:
        """Start a snapshot of all that was appended; one that is under way becomes void.

        SnapshotFailedError, SyncFailedError.
        """
        if self._taking is not None:
            self._taking.is_void = True
        with self._watching():
            position = self._ready.rotate()
        number = max([0, *generations_on(self._disk)]) + 1
        self._taking = NewSnapshot(
            self._disk,
            self.owner,
            self.identity.partitions,
            number=number,
            position=position,
            segment=self._ready.number,
        )
        self._taking.begin()
        return self._taking

    def cut_log(self, through: int | None = None) -> int:
        """Remove the segments that the last finished snapshot holds; how many. WriteFailedError.

        `through` keeps frames after that position: put ids are remembered from the log (rule 7).
        """
        if self._taking is not None and self._taking.is_finished:
            self._covered = self._taking.position
        limit = self._covered if through is None else min(through, self._covered)
        return self._ready.cut(limit)

    def proved(self, partitions: Iterable[int]) -> None:
        """Compared with enough other owners: these are complete again, durably (rule 9)."""
        self._identify(doubted=self.identity.doubted - frozenset(partitions))

    def doubt(self, partitions: Iterable[int]) -> None:
        """Of these something may be missing here, until they are proved: that outlives a start."""
        if not self.identity.doubted.issuperset(partitions):
            self._identify(doubted=self.identity.doubted.union(partitions))

    @property
    def granted(self) -> Mapping[int, tuple[int, int]]:
        """What was promised to givers of partitions, as partition -> (slot, generation)."""
        return self.identity.granted

    def grant(self, partition: int, slot: int, generation: int) -> None:
        """Promise, durably, to keep what was given: it is complete as of now (rule 17)."""
        known = self.identity
        granted = {**known.granted, partition: (slot, generation)}
        self._identify(doubted=known.doubted - {partition}, granted=granted)

    def close(self) -> None:
        """Leave a log that is provably complete, and the directory to others. Idempotent."""
        log, self._log = self._log, None
        try:
            if log is not None and self._is_renewed and self._failure is None:
                with self._watching(), suppress(AppendFailedError, WriteFailedError):
                    if log.position != self._closed_at:
                        log.mark_closed()
                        log.sync()
                    self._save_reached(Reached(log.number, log.position))
        finally:
            self._disk.close()

    @property
    def _ready(self) -> Log:
        assert self._log is not None
        return self._log

    def _identify(self, **changes: Any) -> None:
        identity = replace(self.identity, **changes)
        with self._watching():
            identities.save(self._disk, identity)
        self.identity = identity

    def _on_segment(self, number: int) -> None:
        self._save_reached(Reached(number))

    def _save_reached(self, reached: Reached) -> None:
        # Not in IDENTITY: another thread may be writing that just now.
        write_sealed(self._disk, REACHED, reached._asdict())

    def _reached(self) -> Reached | None:
        """How far the log had come; None if that is not known any more."""
        try:
            said = read_sealed(self._disk, REACHED)
            reached = Reached(said["segment"], said.get("position", 0))
        except (StorageError, KeyError):
            return None
        return reached if all(type(one) is int and one >= 0 for one in reached) else None

    def _is_proved(self, replay: Replay, is_same_boot: bool) -> bool:
        """Whether nothing that was acknowledged can be missing at the log's end."""
        if self._disk.exists(UNSYNCED):
            return False
        durability = self.identity.durability
        if replay.ends_closed or not self.identity.incarnation:
            return True
        if durability == SYNCED:
            return not replay.ends_unclear
        was_used = replay.found.position or replay.segment
        return durability == WRITTEN and (is_same_boot or not was_used)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except SyncFailedError as error:
            self._give_up(error)
            raise

    def _give_up(self, error: SyncFailedError) -> None:
        """Bytes that were with the OS may be gone, so the next start must doubt them (rule 9)."""
        self._failure = error
        with suppress(StorageError):
            self._disk.write(UNSYNCED, [str(error).encode()])
            self._disk.sync_dir("")
