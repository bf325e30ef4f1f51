"""A node's log as the shell sees it: the real store on a simulated disk, or its dumb twin.

The twin is a list of records and a mark up to which they are durable. It does what the store
promises and nothing more, so most seeds run on it, fast. The others run on `storage` itself, and
there the twin goes along: after a process's end the store must find exactly what the twin holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, Protocol

from dynamo_ray.sim.disk import SimulatedDisk
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.errors import (
    AppendFailedError,
    SnapshotFailedError,
    StorageError,
    WriteFailedError,
)
from dynamo_ray.storage.ownership import Opening
from dynamo_ray.storage.snapshot import NewSnapshot
from dynamo_ray.storage.store import Store

SEGMENT_BYTES = 4096
# Of a nearly full disk: enough for a part of a snapshot, or for some appends.
ROOM = 8192


class Row(NamedTuple):
    """One record: a key's state (None: forgotten) and the owners that it is kept for."""

    partition: int
    key: bytes
    state: bytes | None
    hints: bytes


@dataclass(slots=True)
class Recovered:
    """What a start found: maps, hints, what each record replaced, and what is not provably all."""

    maps: list[dict[bytes, bytes]]
    hints: dict[bytes, bytes] = field(default_factory=dict)
    replaced: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    doubted: frozenset[int] = frozenset()
    granted: dict[int, tuple[int, int]] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        """Replay one record; the last one of a key wins."""
        of = self.maps[row.partition]
        before = of.pop(row.key, None)
        self.hints.pop(row.key, None)
        if row.state is not None:
            of[row.key] = row.state
            if row.hints:
                self.hints[row.key] = row.hints
        if before is not None and before != row.state:
            self.replaced.append((before, row.state))


class AppendRefusedError(Exception):
    """The log took nothing; with `unknown` part of it may be read again after a crash."""

    def __init__(self, unknown: bool = False) -> None:
        super().__init__("the disk is full")
        self.unknown = unknown


class Journal(Protocol):
    """What a node's shell needs of storage."""

    full: bool
    is_damaged: bool

    def join(self) -> None:
        """The node is a new one: of what it will be given it can prove nothing yet."""

    def append(self, rows: Sequence[Row]) -> None:
        """Give records to the log; raises AppendRefusedError."""

    def sync(self) -> None:
        """Make all that was appended durable. SyncFailedError, as from all that syncs: the end."""

    def new_incarnation(self, wall_ms: int) -> bytes | None:
        """A new incarnation, durable; None while the disk takes nothing."""

    def crash(self, power_loss: bool) -> None:
        """The process ends; with `power_loss` so does the machine."""

    def recover(self) -> Recovered:
        """Read back what is there, as a start does."""

    def proved(self, partitions: frozenset[int]) -> bool:
        """Note that these partitions were compared; False while the disk takes nothing."""

    def doubt(self, partitions: frozenset[int]) -> bool:
        """Note that these may lack something; False while the disk takes nothing."""

    def grant(self, partition: int, slot: int, generation: int) -> bool:
        """Note what was promised; False while the disk takes nothing."""

    def begin_snapshot(self) -> NewSnapshot | None:
        """Begin a snapshot, if this kind of log has any and the disk takes it."""

    def cut(self) -> None:
        """Let go of the log that a finished snapshot holds."""


class ListJournal:
    """The dumb twin. What was appended survives the process; what was synced, the machine."""

    def __init__(self, chance: Random, partitions: int, durability: str) -> None:
        self.full = False
        self.is_damaged = False
        self.rows: list[Row] = []
        self._partitions = partitions
        self._durability = durability
        self._durable = 0
        self._last_ms = 0
        self._doubted: frozenset[int] = frozenset()
        self._granted: dict[int, tuple[int, int]] = {}
        self._chance = chance

    def join(self) -> None:
        """The node is a new one: of what it will be given it can prove nothing yet."""
        self._doubted = frozenset(range(self._partitions))

    def append(self, rows: Sequence[Row]) -> None:
        """Give records to the log; raises AppendRefusedError."""
        if self.full:
            raise AppendRefusedError
        self.rows.extend(rows)

    def sync(self) -> None:
        """Make all that was appended durable."""
        self._durable = len(self.rows)

    def new_incarnation(self, wall_ms: int) -> bytes | None:
        """A new incarnation, durable; None while the disk takes nothing."""
        if self.full:
            return None
        self.sync()
        self._last_ms = max(self._last_ms + 1, wall_ms)
        return self._last_ms.to_bytes(6, "big") + self._chance.randbytes(8)

    def crash(self, power_loss: bool) -> None:
        """The process ends; a power loss keeps what was synced and any part of the rest."""
        if power_loss:
            kept = self._chance.randint(self._durable, len(self.rows))
            del self.rows[kept:]
        proves = ("written", "synced") if not power_loss else ("synced",)
        if self._durability not in proves:
            self._doubted = frozenset(range(self._partitions))

    def proved(self, partitions: frozenset[int]) -> bool:
        """Note that these partitions were compared; False while the disk takes nothing."""
        if not self.full:
            self._doubted -= partitions
        return not self.full

    def doubt(self, partitions: frozenset[int]) -> bool:
        """Note that these may lack something; False while the disk takes nothing."""
        if not self.full:
            self._doubted |= partitions
        return not self.full

    def grant(self, partition: int, slot: int, generation: int) -> bool:
        """Note what was promised; False while the disk takes nothing."""
        if not self.full:
            self._granted[partition] = slot, generation
            self._doubted -= {partition}
        return not self.full

    def begin_snapshot(self) -> NewSnapshot | None:
        """The twin has no snapshots."""
        return None

    def cut(self) -> None:
        """The twin keeps everything."""

    def recover(self) -> Recovered:
        """Read back what is there."""
        self._durable = len(self.rows)
        found = Recovered([{} for _ in range(self._partitions)])
        for row in self.rows:
            found.take(row)
        found.doubted, found.granted = self._doubted, dict(self._granted)
        return found


class StoreJournal:
    """The real store on a simulated disk, compared with the twin at every start."""

    def __init__(
        self, node_id: bytes, name: str, chance: Random, partitions: int, durability: str
    ) -> None:
        self.disk = SimulatedDisk(name, chance)
        self.on_difference: Callable[[str], None] = lambda text: None
        self._twin = ListJournal(Random(0), partitions, durability)
        self._is_comparable = self._knows_all = self._has_twin = True
        self._chance = chance
        self._boot = 0
        self._wall_ms = 0
        self._starts = 0
        self._joins = False
        self.is_damaged = False
        self._words = (node_id, name, partitions, durability)
        self._store: Store

    def join(self) -> None:
        """The node is a new one: of what it will be given it can prove nothing yet."""
        self._joins = True

    @property
    def full(self) -> bool:
        """True while the disk takes nothing."""
        return self.disk.room is not None

    @full.setter
    def full(self, full: bool) -> None:
        chance = self._chance
        room = chance.randint(0, ROOM) if full and chance.random() < 0.4 else 0
        self.disk.room = room if full else None
        self.disk.jammed = full and chance.random() < 0.2

    def damage(self, kind: str, where: str = "") -> None:
        """Something happens to the disk (sim/faults.py); what it does shows at the next start."""
        # A failed fsync takes nothing that was acknowledged at `synced`.
        self.is_damaged = self.is_damaged or kind != "fsync" or self._words[3] != "synced"
        self._has_twin = False  # what is damaged may come back at any later start
        if kind == "fsync":
            self.disk.failing = True
        elif kind == "wipe":
            self.disk.lose_all()
        else:
            act = self.disk.flip if kind == "flip" else self.disk.spoil_reads
            for _ in range(self._chance.randint(1, 3)):
                act(where)

    def append(self, rows: Sequence[Row]) -> None:
        """Give records to the log; raises AppendRefusedError."""
        try:
            self._store.append([Record(*row) for row in rows])
        except AppendFailedError as error:
            if not error.cut_back:
                self._is_comparable = False
            raise AppendRefusedError(not error.cut_back) from error
        self._twin.rows.extend(rows)

    def sync(self) -> None:
        """Make all that was appended durable."""
        self._store.sync()

    def new_incarnation(self, wall_ms: int) -> bytes | None:
        """A new incarnation, durable; None while the disk takes nothing."""
        self._wall_ms = wall_ms
        try:
            return self._store.new_incarnation(wall_ms, self._chance.randbytes(8))
        except WriteFailedError:
            return None

    def crash(self, power_loss: bool) -> None:
        """The process ends; with `power_loss` so does the machine."""
        self.disk.failing = False
        if power_loss:
            self._boot += 1
            self._is_comparable = False
            self.disk.lose_power()
        else:
            self.disk.end_process()

    def proved(self, partitions: frozenset[int]) -> bool:
        """Note that these partitions were compared; False while the disk takes nothing."""
        return self._noted(self._store.proved, partitions)

    def doubt(self, partitions: frozenset[int]) -> bool:
        """Note that these may lack something; False while the disk takes nothing."""
        return self._noted(self._store.doubt, partitions)

    def grant(self, partition: int, slot: int, generation: int) -> bool:
        """Note what was promised; False while the disk takes nothing."""
        return self._noted(self._store.grant, partition, slot, generation)

    def _noted(self, note: Callable[..., None], *what: Any) -> bool:
        try:
            note(*what)
        except WriteFailedError:
            return False
        return True

    def begin_snapshot(self) -> NewSnapshot | None:
        """Begin a snapshot; None if the disk takes none."""
        try:
            return self._store.begin_snapshot()
        except (WriteFailedError, SnapshotFailedError):
            return None

    def cut(self) -> None:
        """Let go of the log that a finished snapshot holds."""
        with suppress(StorageError):
            self._knows_all = self._knows_all and self._store.cut_log() == 0

    def recover(self) -> Recovered:
        """Open the directory and read back what is there."""
        node_id, name, partitions, durability = self._words
        opening = Opening(
            cluster_id=b"simulated run id",
            node_id=node_id,
            fresh_id=node_id,
            name=name,
            partitions=partitions,
            durability=durability,
            boot_id=f"boot {self._boot}",
            now_ms=self._wall_ms,
            first_start=not self._starts and not self._joins,
        )
        replaced: list[tuple[bytes, bytes | None]] = []
        self._store = Store.open(self.disk, opening, segment_bytes=SEGMENT_BYTES)
        found = self._store.recover(lambda key, before, after: replaced.append((before, after)))
        granted = dict(self._store.granted)
        recovered = Recovered(found.maps, found.hints, replaced, found.doubted, granted)
        self._starts += 1
        self._compare(recovered)
        if self._chance.random() < 0.5:
            self.disk.unreadable.clear()  # some files come back, and bring old states along
        return recovered

    def _compare(self, found: Recovered) -> None:
        twin = self._twin
        if not self._has_twin:
            return
        if self._is_comparable:
            due = twin.recover()
            if (found.maps, found.hints) != (due.maps, due.hints):
                self.on_difference(
                    f"{self.disk.name}: the store found other states than were logged"
                )
            elif self._knows_all and found.replaced != due.replaced:
                self.on_difference(f"{self.disk.name}: the store told other replaced states")
            return
        self._is_comparable, self._knows_all = True, False
        twin.rows = [
            Row(partition, key, state, found.hints.get(key, b""))
            for partition, of in enumerate(found.maps)
            for key, state in of.items()
        ]
