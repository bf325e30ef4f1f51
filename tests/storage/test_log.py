"""Appending: one write per group, segments, and what happens when the disk takes only a part."""

from __future__ import annotations

from contextlib import suppress

import pytest

from dynamo_ray.storage import codec
from dynamo_ray.storage import log as logs
from dynamo_ray.storage.codec import Record, columns_of, decode
from dynamo_ray.storage.errors import (
    AppendFailedError,
    RecordTooLargeError,
    SyncFailedError,
    WriteFailedError,
)
from dynamo_ray.storage.frames import SEGMENT_BYTES
from dynamo_ray.storage.log import payloads, segment_path, segments_on
from tests.storage.disks import MemoryDisk, Stopped
from tests.storage.stores import held, looked_at, record, recovered, replayed, started

FIRST = segment_path(1)


def test_a_group_is_one_write() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    disk.calls.clear()
    store.append([record(n) for n in range(100)])
    assert disk.calls == [f"append {FIRST}"]


def test_positions_rise_by_one_and_survive() -> None:
    disk = MemoryDisk()
    store = started(disk)
    assert store.position == 0
    assert [store.append([record(n)]) for n in range(3)] == [1, 2, 3]
    assert store.append([]) == 3
    disk.close()
    store = started(disk)
    assert store.position == 3 and store.append([record(3)]) == 4


def test_a_large_group_becomes_several_frames_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PAYLOAD_BYTES_MAX", 1000)
    records = [record(n, size=n) for n in range(100)]
    parts = list(payloads(columns_of(records)))
    assert [one for _, payload in parts for one in decode(payload)] == records
    assert len(parts) > 5 and all(len(payload) <= 1000 for _, payload in parts)
    disk = MemoryDisk()
    store = started(disk)
    disk.calls.clear()
    assert store.append(records) == len(parts)
    assert [call for call in disk.calls if call.startswith("append")] == [f"append {FIRST}"]
    disk.close()
    found = looked_at(disk)
    assert held(found) == replayed(records) and found.frames == len(parts)


def test_a_record_larger_than_a_frame_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PAYLOAD_BYTES_MAX", 1000)
    records = [record(0), record(1, size=5000), record(2)]
    assert len(list(payloads(columns_of(records)))) == 3
    monkeypatch.setattr(codec, "COLUMN_BYTES_MAX", 2000)
    disk = MemoryDisk()
    store = started(disk)
    with pytest.raises(RecordTooLargeError):
        store.append(records)
    store.append([record(3)])
    disk.close()
    assert held(looked_at(disk)) == replayed([record(3)])


def test_a_segment_ends_when_it_is_full_and_is_synced_before_the_next() -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=1500)
    assert store.starts_segment
    for n in range(9):
        was_due = store.starts_segment
        before = segments_on(disk)
        store.append([record(n)])
        assert (segments_on(disk) != before) == was_due
        for number in segments_on(disk)[:-1]:
            file = disk.now[segment_path(number)]
            assert file is not None and file.durable == file.content
    assert len(segments_on(disk)) > 2
    disk.close()
    assert held(looked_at(disk)) == replayed(record(n) for n in range(9))


def test_a_segment_and_its_name_are_durable_before_its_first_frame() -> None:
    disk = MemoryDisk()
    store = started(disk)
    disk.calls.clear()
    store.append([record(0)])
    assert disk.calls[:3] == [f"write {FIRST}", f"sync {FIRST}", "sync_dir "]
    assert disk.calls[-1] == f"append {FIRST}"
    assert "rename REACHED" in disk.calls


def test_sync_makes_everything_before_it_durable_and_costs_nothing_twice() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    assert store.sync() == 1
    disk.calls.clear()
    assert store.sync() == 1 and disk.calls == []
    store.append([record(1)])
    left = disk.unplugged("synced", "synced")
    assert held(looked_at(left)) == replayed([record(0)])
    store.sync()
    assert held(looked_at(disk.unplugged("synced", "synced"))) == replayed([record(0), record(1)])


def test_what_an_earlier_run_left_unsynced_is_synced_before_this_one_counts() -> None:
    # Otherwise a run at `synced` would vouch for what a run at `written` never made durable.
    disk = MemoryDisk()
    started(disk).append([record(0)])
    disk = disk.killed()
    started(disk, durability="synced")
    left = disk.unplugged("synced", "synced")
    found = looked_at(left, durability="synced", boot_id="boot 2")
    assert held(found) == replayed([record(0)]) and found.complete


# ---- the disk is full


def test_whatever_a_full_disk_took_is_cut_back() -> None:
    whole = MemoryDisk()
    store = started(whole)
    store.append([record(0)])
    before = whole.size(FIRST)
    store.append([record(1)])
    for room in range(whole.size(FIRST) - before):
        disk = MemoryDisk()
        store = started(disk)
        store.append([record(0)])
        disk.room = room
        with pytest.raises(AppendFailedError, match="nothing of it is left") as failed:
            store.append([record(1)])
        assert failed.value.cut_back
        assert disk.size(FIRST) == before and store.position == 1
        assert held(looked_at(disk.killed())) == replayed([record(0)])
        disk.room = None
        assert store.append([record(2)]) == 2
        found = looked_at(disk.killed())
        assert held(found) == replayed([record(0), record(2)]) and found.torn_bytes == 0


def test_a_segment_that_cannot_be_cut_is_left_for_good() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    disk.room, disk.refuses_to_cut = 100, True
    with pytest.raises(AppendFailedError, match="parts of it may be left") as failed:
        store.append([record(1)])
    assert not failed.value.cut_back
    torn = looked_at(disk.killed())
    assert held(torn) == replayed([record(0)]) and torn.torn_bytes == 100
    disk.room, disk.refuses_to_cut = None, False
    store.append([record(2)])
    assert segments_on(disk) == [1, 2]
    found = looked_at(disk.killed())
    assert held(found) == replayed([record(0), record(2)])
    assert found.complete and not found.suspect


class TakesAllAndFails(MemoryDisk):
    """A disk that writes everything and then says that it did not."""

    fails = False

    def append(self, path: str, content: bytes) -> None:
        super().append(path, content)
        if self.fails:
            raise WriteFailedError(path, 0, "input/output error")


def test_a_whole_frame_of_a_failed_append_is_void_once_another_follows() -> None:
    disk = TakesAllAndFails()
    store = started(disk)
    store.append([record(0)])
    disk.fails = disk.refuses_to_cut = True
    with pytest.raises(AppendFailedError) as failed:
        store.append([record(1)])
    assert not failed.value.cut_back, "its outcome is unknown: it may be read after a crash"
    assert held(looked_at(disk.killed())) == replayed([record(0), record(1)])
    disk.fails = disk.refuses_to_cut = False
    assert store.append([record(2)]) == 2
    found = looked_at(disk.killed())
    assert held(found) == replayed([record(0), record(2)]), "the failed append came back"
    assert found.complete and found.position == 2


def test_a_full_disk_lets_no_segment_begin_and_recovers_without_a_restart() -> None:
    disk = MemoryDisk()
    store = started(disk)
    for room in range(0, 400, 10):
        disk.room = room
        with pytest.raises(AppendFailedError) as failed:
            store.append([record(room)])
        assert failed.value.cut_back
        assert held(looked_at(disk.killed())) == {}
    disk.room = None
    store.append([record(1)])
    store.append([record(2)])
    found = looked_at(disk.killed())
    assert {b"key 1", b"key 2"} <= set(held(found)) and not found.suspect


# ---- a failed fsync


def test_a_failed_sync_is_the_end_and_is_never_tried_again() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    disk.refuses_to_sync = True
    with pytest.raises(SyncFailedError, match="start the node again"):
        store.sync()
    disk.refuses_to_sync = False
    disk.calls.clear()
    for call in (store.sync, lambda: store.append([record(1)]), lambda: store.proved([1])):
        with pytest.raises(SyncFailedError):
            call()
    with pytest.raises(SyncFailedError):
        store.new_incarnation(5, b"5" * 8)
    store.close()
    assert disk.calls == []


def test_after_a_failed_sync_the_next_start_doubts_everything_until_it_is_proved() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    disk.refuses_to_sync = True
    with pytest.raises(SyncFailedError):
        store.sync()
    disk = disk.killed()
    store = started(disk)
    assert store.doubted == frozenset(range(8)), "the same boot, but pages may have been dropped"
    disk = disk.killed()
    store = started(disk)
    assert store.doubted == frozenset(range(8)), "still nobody has compared it"
    store.proved(range(1, 8))
    disk = disk.killed()
    assert looked_at(disk).doubted == {0}


def test_what_is_doubted_stays_so_over_a_start_until_it_is_proved() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.doubt({1, 3})
    store.doubt({3})
    disk = disk.killed()
    store = started(disk)
    assert store.doubted == {1, 3}
    store.proved({1})
    disk = disk.killed()
    assert looked_at(disk).doubted == {3}


def test_a_failed_sync_of_a_new_segment_is_fatal_too() -> None:
    disk = MemoryDisk()
    store = started(disk)
    disk.refuses_to_sync = True
    with pytest.raises(SyncFailedError):
        store.append([record(0)])
    disk.refuses_to_sync = False
    with pytest.raises(SyncFailedError):
        store.append([record(0)])


# ---- cutting the log


def test_only_what_the_snapshot_holds_is_cut_and_never_the_newest_segment() -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=1000)
    for n in range(8):
        store.append([record(n)])
    assert store.cut_log() == 0, "there is no snapshot"
    taking = store.begin_snapshot()
    for n in range(8):
        taking.write(n, [record(n)])
    assert store.cut_log() == 0, "it is not finished"
    store.append([record(8)])
    taking.finish()
    before = segments_on(disk)
    assert store.cut_log(through=3) == 1
    assert store.cut_log() == len(before) - 2
    assert segments_on(disk) == before[-1:]
    disk.close()
    assert held(looked_at(disk)) == replayed(record(n) for n in range(9))


def test_a_cut_that_is_stopped_leaves_no_hole() -> None:
    for stop in range(1, 6):
        disk = MemoryDisk()
        store = started(disk, segment_bytes=600)
        for n in range(6):
            store.append([record(n)])
        taking = store.begin_snapshot()
        for n in range(6):
            taking.write(n, [record(n)])
        taking.finish()
        disk.stop_at = stop
        with suppress(Stopped):
            store.cut_log()
        found = looked_at(disk.killed())
        assert held(found) == replayed(record(n) for n in range(6)) and found.complete


def test_how_much_a_start_would_replay_is_known() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(n) for n in range(50)])
    size = store.bytes_since_snapshot
    assert size == disk.size(FIRST) - SEGMENT_BYTES
    disk.close()
    assert started(disk).bytes_since_snapshot == disk.size(FIRST)
    disk.close()
    store = started(disk)
    store.begin_snapshot()
    assert store.bytes_since_snapshot == 0


def test_records_are_refused_before_there_is_an_incarnation() -> None:
    store, _ = recovered(MemoryDisk())
    with pytest.raises(AssertionError):
        store.append([Record(0, b"k", b"s", b"")])
