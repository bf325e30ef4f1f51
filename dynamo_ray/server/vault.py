"""A node's directory as its server uses it: open, recover, append, sync, snapshot.

It turns what storage raises into what the machine must hear, keeps the positions of the machine's
log queue, and remembers the view across restarts. Nothing here decides; nothing here waits, except
in the threads that the server gives it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.membership import View, merge_views
from dynamo_ray.core.merge import replaced
from dynamo_ray.core.messages import Persist
from dynamo_ray.core.receive import Grant
from dynamo_ray.core.remembered import RememberedPuts
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member
from dynamo_ray.server.recovering import Recovering
from dynamo_ray.storage.codec import Columns, warm_up
from dynamo_ray.storage.disk import RealDisk, boot_id
from dynamo_ray.storage.errors import AppendFailedError, StorageError, SyncFailedError
from dynamo_ray.storage.ownership import Opening
from dynamo_ray.storage.snapshot import NewSnapshot
from dynamo_ray.storage.store import Store
from dynamo_ray.storage.views import load_view, save_view

SNAPSHOT_BYTES = 64 * 1024 * 1024
SAMPLE_A_PARTITION = 8
SAMPLED_PARTITIONS = 256
# In times of what retries may need: a mark may be a tenth of that late.
CUT_AFTER = 1.2
_log = logging.getLogger("dynamo_ray.server")


class Vault:
    """One node's storage, open and recovered."""

    def __init__(
        self, disk: RealDisk, store: Store, charter: Charter, recovering: Recovering
    ) -> None:
        times, limits = charter.settings.times, charter.settings.limits
        self.puts = RememberedPuts(int(times.timeout_max_s * 10_000), limits.remembered_puts)
        recovering.begin()
        found = store.recover(self._remember, recovering.on_progress)
        recovering.end(found.records, found.bytes)
        self.maps = found.maps
        self.hints = found.hints
        self.recovery: dict[str, Any] = {
            **recovering.to_dict(),
            "torn_bytes": found.torn_bytes,
            "quarantined": sorted(found.quarantined),
            "suspect": found.suspect,
            "notes": found.notes[:20],
        }
        self._was_damaged = found.suspect or bool(found.quarantined)
        self.appended = 0
        self.synced = 0
        self._disk = disk
        self._store = store
        self._keep_s = times.timeout_max_s * 10
        self._marks: deque[tuple[float, int]] = deque()
        # The end of the log as far as a snapshot holds it; less than that if it does not.
        self._held = store.position if not found.frames else -1
        self._kept_view = View()
        self._view_lock = threading.Lock()
        self._snapshot_s = times.snapshot_s
        self._snapshot_at = self._cut_from = time.monotonic()

    def hand_over(self, replica: Replica) -> None:
        """Give the machine what recovery found beside the maps."""
        replica.puts = self.puts
        replica.doubted = self._store.doubted
        replica.load_hints(self.hints)
        self.hints = {}

    # ---- the log

    def append(self, batch: Sequence[Persist]) -> AppendFailedError | None:
        """Append the records of these effects together; None if the log has them."""
        try:
            self._store.append_columns(_columns_of(batch))
        except AppendFailedError as error:
            _log.error("%s", error)
            return error
        except Exception as error:
            # A failed fsync, or something nobody thought of: what is in the log now nobody knows,
            # and the map is ahead of it. Going on could acknowledge what is not persisted (rule 8).
            end_process(error)
        self.appended = batch[-1].position
        return None

    @property
    def wants_sync(self) -> bool:
        """True if something was appended since the last fsync."""
        return self.appended > self.synced

    def sync(self) -> None:
        """fsync what was appended before the call; a failure is final."""
        position = self.appended
        try:
            self._store.sync()
        except StorageError as error:
            end_process(error)
        self.synced = max(self.synced, position)

    def new_incarnation(self, now_ms: int) -> bytes:
        """A new incarnation, fsynced (rule 2); b"" if the disk takes none now."""
        try:
            return self._store.new_incarnation(now_ms, os.urandom(8))
        except SyncFailedError as error:
            end_process(error)
        except StorageError as error:
            _log.error("no new incarnation: %s", error)
            return b""

    @property
    def log_bytes(self) -> int:
        """How much log a start would have to replay."""
        return self._store.bytes_since_snapshot

    # ---- snapshots

    def wants_snapshot(self, maps: list[dict[bytes, bytes]]) -> bool:
        """True if the log has grown enough that a snapshot is worth its while, or was damaged.

        As long as what is held, at least: so no more is written for snapshots than for the log.
        And after `snapshot_s`, if anything was appended: no log is to be replayed for ever.
        """
        self._mark()
        grown = self._store.bytes_since_snapshot
        if self._was_damaged:
            self._was_damaged = False
            return True
        is_old = time.monotonic() - self._snapshot_at >= self._snapshot_s
        if is_old and self._store.position > self._held:
            return True
        return grown > SNAPSHOT_BYTES and grown > bytes_about(maps)

    @property
    def starts_segment(self) -> bool:
        """True if the next append begins a new file, with fsyncs: not for the loop."""
        return self._store.starts_segment

    def begin_snapshot(self) -> NewSnapshot:
        """Rotate the log and begin; not beside an append. Raises StorageError."""
        self._snapshot_at = time.monotonic()
        return self._store.begin_snapshot()

    def on_snapshot(self, taken: NewSnapshot) -> None:
        """It is finished, and holds what it began with."""
        self._held = taken.position

    @property
    def wants_cut(self) -> bool:
        """True once no retry can ask any more for the log that the last snapshot held."""
        return time.monotonic() - self._cut_from > self._keep_s * CUT_AFTER

    def cut_log(self) -> int:
        """Remove what the snapshot holds and no retry can ask for; not beside an append."""
        self._cut_from = time.monotonic()
        horizon = self._cut_from - self._keep_s
        through = 0
        while self._marks and self._marks[0][0] <= horizon:
            through = self._marks.popleft()[1]
        return self._store.cut_log(through)

    def _mark(self) -> None:
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] > self._keep_s / 10:
            self._marks.append((now, self._store.position))

    # ---- the rest of the directory

    def proved(self, partitions: frozenset[int]) -> bool:
        """These partitions were compared with enough other owners (rule 9)."""
        return self._noted(self._store.proved, partitions)

    def doubt(self, partitions: frozenset[int]) -> bool:
        """Of these something may be missing here; False if the disk does not take that."""
        return self._noted(self._store.doubt, partitions)

    def is_kept(self, view: View) -> bool:
        """True if all of it is on disk."""
        return merge_views(self._kept_view, view) is self._kept_view

    def keep_view(self, view: View) -> bool:
        """Remember what is known, durably; False if the disk does not take it.

        What this node writes of its slots nobody else can tell it again (DESIGN rule 15). An older
        view never replaces a newer one, whichever thread comes first.
        """
        with self._view_lock:
            newer = merge_views(self._kept_view, view)
            try:
                save_view(self._disk, newer)
            except SyncFailedError as error:
                end_process(error)
            except StorageError as error:
                _log.error("the view is not kept: %s", error)
                return False
            self._kept_view = newer
        return True

    @property
    def granted(self) -> Mapping[int, tuple[int, int]]:
        """What was promised to givers of partitions, as partition -> (slot, generation)."""
        return self._store.granted

    def grant(self, promise: Grant) -> bool:
        """Promise to keep what was given (DESIGN rule 17); False if the disk does not take it."""
        what = promise.partition, promise.slot, promise.generation
        return self._noted(self._store.grant, *what)

    def _noted(self, note: Callable[..., None], *what: Any) -> bool:
        try:
            note(*what)
        except SyncFailedError as error:
            end_process(error)
        except StorageError as error:
            _log.error("%s", error)
            return False
        return True

    def known_view(self, view: View) -> View:
        """The view that was kept, merged with `view`."""
        self._kept_view = load_view(self._disk) or View()
        return merge_views(view, self._kept_view)

    def close(self) -> None:
        """Close the log so that the next start can prove it complete."""
        self._store.close()

    def abandon(self) -> None:
        """Let go of the directory as a killed process would: nothing is written."""
        self._disk.close()

    def _remember(self, key: bytes, before: bytes, after: bytes | None) -> None:
        self.puts.remember(replaced(before, after))


def _columns_of(batch: Sequence[Persist]) -> Columns:
    if len(batch) == 1:
        one = batch[0]
        return Columns(one.partitions, one.keys, one.states, one.hints)
    hints: list[bytes] = []
    if any(one.hints for one in batch):
        hints = [hint for one in batch for hint in one.hints or [b""] * len(one.keys)]
    return Columns(
        [p for one in batch for p in one.partitions],
        [key for one in batch for key in one.keys],
        [state for one in batch for state in one.states],
        hints,
    )


def bytes_about(maps: list[dict[bytes, bytes]]) -> int:
    """About how many bytes of states there are, from a few of some partitions: it must be quick."""
    looked_at = maps[:: len(maps) // SAMPLED_PARTITIONS + 1]
    sizes = [len(state) for of in looked_at for state in islice(of.values(), SAMPLE_A_PARTITION)]
    return sum(sizes) * sum(map(len, maps)) // max(1, len(sizes))


def open_vault(
    charter: Charter, member: Member, data_dir: str, first_start: bool, recovering: Recovering
) -> Vault:
    """Open and recover a node's directory. Raises a StorageError that says what to do."""
    warm_up()
    folder = Path(data_dir)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    disk = RealDisk(folder)
    opening = Opening(
        charter.cluster_id,
        member.node,
        os.urandom(8),
        member.name,
        charter.settings.partitions,
        charter.settings.durability,
        boot_id(),
        time.time_ns() // 1_000_000,
        first_start,
    )
    return Vault(disk, Store.open(disk, opening), charter, recovering)


def end_process(error: Exception) -> NoReturn:
    """An fsync failed: what the system dropped cannot be promised, nor found out by trying again.

    The log would take nothing more; a start reads what there is, and doubts it (rule 9).
    """
    _log.critical("%s; the node ends, so as not to promise", error)
    os._exit(1)
