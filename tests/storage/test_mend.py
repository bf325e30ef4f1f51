"""Repairing a directory: no readable record is lost, and what is damaged is kept aside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynamo_ray.core.version import Kind
from dynamo_ray.storage.codec import Record, encode
from dynamo_ray.storage.damage import NOTHING, PARTITIONS
from dynamo_ray.storage.errors import (
    AppendFailedError,
    DamagedIdentityError,
    DirectoryInUseError,
    StorageError,
)
from dynamo_ray.storage.examine import examine
from dynamo_ray.storage.frames import SEGMENT_BYTES, Frame, Gap, frame, scan
from dynamo_ray.storage.log import segment_path
from dynamo_ray.storage.mend import mend
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.rehearsal import Rehearsal
from dynamo_ray.storage.snapshot import MANIFEST, directory, file_path
from dynamo_ray.storage.store import Store
from tests.storage.disks import MemoryDisk, Stopped
from tests.storage.stores import (
    OWNER,
    RANDOM8,
    held,
    looked_at,
    opening,
    replayed,
    started,
    written_by_a_node,
)
from tests.storage.stores import (
    PARTITIONS as PARTITION_COUNT,
)

OLD = [written_by_a_node(n) for n in range(8)]
NEW = [[written_by_a_node(n, b"newer")] for n in range(4)]
HINTED = written_by_a_node(9)._replace(hints=b"node-abc" * 2)
LAST = [written_by_a_node(0, b"newest"), HINTED]
Told = list[tuple[bytes, bytes, bytes | None]]


def used(closes: bool = True) -> MemoryDisk:
    """Two segments that a snapshot covers and that are still there, and two since."""
    disk = MemoryDisk()
    store = started(disk, segment_bytes=1200)
    store.append(OLD)
    for group in NEW[:2]:
        store.append(group)
    taking = store.begin_snapshot()
    now = replayed([*OLD, *NEW[0], *NEW[1]])
    for partition in range(PARTITION_COUNT):
        rows = [Record(p, k, s, b"") for k, (p, s) in now.items() if p == partition]
        taking.write(partition, rows)
    taking.finish()
    for group in [*NEW[2:], LAST]:
        store.append(group)
    store.cut_log(0)
    if closes:
        store.close()
    return disk.killed()


DISK = used()
SEGMENTS = sorted(path for path in DISK.contents() if path.startswith("log-"))
TRUTH = replayed([*OLD, *(one for group in NEW for one in group), *LAST])
FILES = sorted(path for path in DISK.contents() if path not in ("LOCK", "IDENTITY"))


def mended(disk: MemoryDisk) -> Recovery:
    found = mend(disk, opening(), RANDOM8)
    assert not disk.locked
    return found


def told(disk: MemoryDisk) -> tuple[Recovery, Told]:
    """What a start finds, and the states that it is told were replaced: put ids are in them."""
    replaced: Told = []
    shown = Rehearsal(disk.killed())
    found = Store.open(shown, opening()).recover(lambda *one: replaced.append(one))
    return found, replaced


def hurt(path: str, at: int, disk: MemoryDisk = DISK) -> MemoryDisk:
    """The same disk with one bit of one file flipped."""
    content = bytearray(disk.read(path))
    content[at] ^= 0x10
    other = disk.killed()
    other.write(path, [bytes(content)])
    other.sync(path)
    return other


def damaged() -> Iterator[tuple[str, int | None, MemoryDisk]]:
    """Every file with flips and cuts at some of its places, and gone (None)."""
    for path in FILES:
        size = DISK.size(path)
        for at in range(0, size, 83):
            yield path, at, hurt(path, at)
        for at in range(1, size, 173):
            cut = DISK.killed()
            cut.truncate(path, at)
            yield path, at, cut
        gone = DISK.killed()
        gone.remove(path)
        yield path, None, gone


def damaged_frames(path: str, content: bytes) -> bytes:
    """Those bytes of a segment's frames that were whole before it was damaged: what may be lost."""
    if not path.startswith("log-"):
        return b""
    number, before = int(path[4:20], 16), DISK.read(path)
    left = {one[:2] for one in scan(content, OWNER.seed, number) if is_whole(one)}
    frames = [one for one in scan(before, OWNER.seed, number) if one[:2] not in left]
    return b"".join(before[one.start : one.end] for one in frames)


def is_whole(piece: Frame | Gap) -> bool:
    return isinstance(piece, Frame) and piece.payload is not None


def test_the_directory_has_segments_that_only_put_ids_need() -> None:
    assert len(SEGMENTS) == 4
    assert examine(DISK, opening()).damages == []
    found, replaced = told(DISK)
    assert held(found) == TRUTH
    assert len(replaced) == 5 and found.hints == {HINTED.key: HINTED.hints}


def test_after_a_repair_it_is_clean_and_holds_what_a_start_would_hold() -> None:
    for path, at, disk in damaged():
        before, ids = told(disk)
        content = disk.contents().get(path, b"")
        examined = examine(disk, opening())
        said = examined.damages or before.torn_bytes
        assert said or held(before) == TRUTH, (path, at)
        mended(disk)
        after, ids_after = told(disk)
        assert held(after) == held(before) and after.hints == before.hints, (path, at)
        assert after.doubted == before.doubted, (path, at)
        clean = examine(disk, opening())
        assert clean.damages == [] and clean.acts == [], (path, at, clean.damages)
        lost = [before for key, before, after in ids if (key, before, after) not in ids_after]
        assert all(state in damaged_frames(path, content) for state in lost), (path, at)
        if at is not None and not before.torn_bytes:
            kept = [one for name, one in disk.contents().items() if name.startswith("quarantine/")]
            assert content in kept, (path, at, "all of what was damaged is kept")


def test_a_damage_to_the_end_of_a_closed_log_is_doubted_after_the_repair_too() -> None:
    cut = DISK.killed()
    cut.truncate(SEGMENTS[-1], cut.size(SEGMENTS[-1]) - 3)
    mended(cut)
    assert looked_at(cut).doubted == frozenset(range(PARTITION_COUNT))


def test_a_repair_that_is_stopped_anywhere_can_be_done_again() -> None:
    hurt_thrice = hurt(SEGMENTS[0], 300, hurt(SEGMENTS[2], 200, hurt(file_path(1, 0), 700)))
    due = looked_at(Rehearsal(hurt_thrice))
    for stop in range(1, 100):
        disk = hurt_thrice.killed()
        disk.stop_at = stop
        try:
            mended(disk)
        except Stopped:
            # Killed, or unplugged in one of three ways, in turn.
            ends = None, ("synced", "synced"), ("written", "half"), ("odd", "written")
            end = ends[stop % len(ends)]
            left = disk.killed() if end is None else disk.unplugged(*end)
            found = looked_at(Rehearsal(left))
            assert held(found) == held(due) and found.doubted >= due.doubted, stop
            mended(left)
            assert examine(left, opening()).damages == [], stop
            assert held(looked_at(left)) == held(due), stop
        else:
            assert stop > 50
            break


def test_a_plan_is_what_a_repair_does() -> None:
    verbs = {"write": "write", "append": "add", "truncate": "cut", "rename": "move"}
    for path in (SEGMENTS[0], SEGMENTS[2], f"{directory(1)}/{MANIFEST}"):
        disk = hurt(path, 90)
        before = disk.contents()
        shown = Rehearsal(disk)
        mend(shown, opening(), RANDOM8)
        assert disk.contents() == before
        disk.calls.clear()
        mended(disk)
        done = [call.split() for call in disk.calls]
        really = [(verbs[call[0]], call[1]) for call in done if call[0] in verbs and len(call) == 2]
        said = [(act.verb, act.to or act.path) for act in shown.acts if act.verb in verbs.values()]
        assert said == really


def test_a_repair_that_finds_no_room_changes_nothing_that_matters() -> None:
    disk = hurt(SEGMENTS[2], 200)
    expected = held(looked_at(Rehearsal(disk)))
    disk.room = 700
    with pytest.raises(StorageError):
        mended(disk)
    disk.room = None
    assert held(looked_at(Rehearsal(disk))) == expected
    mended(disk)
    assert examine(disk, opening()).damages == []


def test_what_cannot_be_repaired_is_refused() -> None:
    with pytest.raises(DamagedIdentityError):
        mended(hurt("IDENTITY", 40))
    busy = DISK.killed()
    busy.lock("LOCK")
    with pytest.raises(DirectoryInUseError):
        mend(busy, opening(), RANDOM8)


def test_a_repair_is_a_new_incarnation() -> None:
    disk = hurt(SEGMENTS[0], 300)
    last = Store.open(Rehearsal(disk), opening()).identity.incarnation
    mended(disk)
    assert Store.open(Rehearsal(disk), opening()).identity.incarnation > last


def test_what_a_failed_write_leaves_is_void_and_no_damage() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append(OLD)
    disk.room, disk.refuses_to_cut = 100, True
    with pytest.raises(AppendFailedError):
        store.append(NEW[0])
    disk.room = None
    store.append(NEW[1])
    examined = examine(disk.killed(), opening())
    assert examined.damages == [] and examined.found.complete
    assert any("void" in note for note in examined.found.notes)
    assert held(examined.found) == replayed([*OLD, *NEW[1]])


# ---- bytes that are as they were written, by a node that was wrong


GOOD = written_by_a_node(20)
MISPLACED = written_by_a_node(21)._replace(partition=(written_by_a_node(21).partition + 1) % 8)
MISFITS = {
    "not in canonical form": written_by_a_node(22)._replace(state=b"\1 no state"),
    "lie in other partitions": MISPLACED,
    "too short or too long": written_by_a_node(23)._replace(key=b"", partition=6),
}


@pytest.mark.parametrize("why", MISFITS)
@pytest.mark.parametrize("where", ["log", "snapshot"])
def test_a_row_that_no_node_can_have_written_is_set_aside(why: str, where: str) -> None:
    bad = MISFITS[why]
    disk = MemoryDisk()
    store = started(disk)
    store.append([GOOD, bad])
    if where == "snapshot":
        taking = store.begin_snapshot()
        for partition in range(PARTITION_COUNT):
            taking.write(partition, [one for one in (GOOD, bad) if one.partition == partition])
        taking.finish()
    store.close()
    disk = disk.killed()
    damages = examine(disk, opening()).damages
    costs = [(one.path.startswith("log"), one.cost) for one in damages]
    if where == "log":
        assert costs == [(True, PARTITIONS)]
    else:
        assert sorted(costs) == [(False, PARTITIONS), (True, NOTHING)]
    assert all(why in one.what and bad.partition in one.partitions for one in damages)
    mended(disk)
    assert examine(disk, opening()).damages == []
    found = looked_at(disk)
    assert held(found) == replayed([GOOD]) and bad.partition in found.doubted
    kept = [one for name, one in disk.contents().items() if name.startswith("quarantine/")]
    assert any((bad.state or b"") in one for one in kept)


def test_hints_that_are_no_list_of_nodes_are_damage() -> None:
    disk = DISK.killed()
    odd = encode([written_by_a_node(30)._replace(hints=b"node-abc" + b"odd")])
    last = SEGMENTS[-1]
    number, size = int(last[4:20], 16), disk.size(last)
    position = looked_at(Rehearsal(disk)).position + 1
    place = [written_by_a_node(30).partition]
    disk.append(last, frame(OWNER.seed, number, size, position, place, odd))
    found = looked_at(Rehearsal(disk))
    assert written_by_a_node(30).key not in held(found) and found.quarantined == set(place)


def test_tombstones_and_forgotten_keys_come_through() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([GOOD, HINTED])
    store.append([written_by_a_node(20, kind=Kind.TOMBSTONE)])
    store.append([HINTED._replace(state=None, hints=b"")])
    disk = disk.killed()
    disk.append(segment_path(1), b"\xd7DR")
    before, ids = told(disk)
    assert before.torn_bytes == 3
    mended(disk)
    after, ids_after = told(disk)
    assert held(after) == held(before) and len(held(after)) == 1 and ids == ids_after
    assert disk.size(segment_path(1)) > SEGMENT_BYTES, "the log stays for its put ids"
