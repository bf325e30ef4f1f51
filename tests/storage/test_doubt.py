"""What a start may believe after a failed fsync, a short read, or with an empty log (rule 9)."""

from __future__ import annotations

import pytest

from dynamo_ray.storage.errors import SyncFailedError
from dynamo_ray.storage.frames import SEGMENT_BYTES
from dynamo_ray.storage.log import segment_path
from tests.storage.disks import MemoryDisk
from tests.storage.stores import held, looked_at, record, replayed, started


class LazyDisk(MemoryDisk):
    """It gives less of a segment than it holds."""

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        content = super().read(path, start, size)
        is_header = size == SEGMENT_BYTES
        return content if is_header or not path.startswith("log-") else content[:-20]


def test_a_segment_that_is_not_given_whole_is_no_torn_tail() -> None:
    disk = LazyDisk()
    started(disk).append([record(n) for n in range(4)])
    before = disk.contents()[segment_path(1)]
    disk.close()
    found = looked_at(disk)
    assert found.suspect and not found.complete
    assert before in disk.contents().values(), "nothing of it is cut, wherever it is kept"


def test_after_a_failed_fsync_the_newest_segment_is_a_new_file() -> None:
    """What the fsync dropped would be dropped again, and a second fsync would not say so."""
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(1)])
    disk.refuses_to_sync = True
    with pytest.raises(SyncFailedError):
        store.sync()
    left = disk.killed()
    path = segment_path(1)
    dropped = left.now[path]
    assert not looked_at(left).complete
    started(left)
    assert left.now[path] is not dropped
    found = looked_at(left.unplugged("synced", "synced"), boot_id="boot 2")
    assert held(found) == replayed([record(1)])


def test_an_empty_log_proves_nothing_at_the_level_memory() -> None:
    disk = MemoryDisk()
    assert looked_at(disk.killed(), durability="memory").complete, "it never ran"
    started(disk, durability="memory")
    assert not looked_at(disk.killed(), durability="memory").complete
