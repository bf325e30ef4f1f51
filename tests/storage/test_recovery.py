"""Reading the log again after the end of a process or a machine, and after damage (rule 20).

The invariant of all damage tests: what is held was written once, and what is not held as it should
be lies in a partition that is said to be doubted. Wrong and silent never come together.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.storage import recovery
from dynamo_ray.storage.codec import Record, encode
from dynamo_ray.storage.filling import Filling
from dynamo_ray.storage.frames import (
    FRAME_BYTES,
    FRAME_MAGIC,
    SEGMENT_BYTES,
    Frame,
    Gap,
    Owner,
    frame,
    scan,
    segment_header,
)
from dynamo_ray.storage.log import segment_path
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.recovery import Replay
from dynamo_ray.storage.snapshot import directory
from dynamo_ray.storage.store import Store
from tests.storage.disks import GARBAGE, MemoryDisk
from tests.storage.stores import (
    CLUSTER,
    OTHER,
    OWNER,
    PARTITIONS,
    held,
    looked_at,
    opening,
    record,
    replayed,
    silently_wrong,
    started,
)

FIRST, SECOND = segment_path(1), segment_path(2)
GROUPS = [
    [record(0), record(1)],
    [Record(2, b"key 2", b"state of a copy", b"node-abc" * 2)],
    [Record(1, b"key 1", None, b""), record(3)],
    [Record(2, b"key 2", b"state handed home", b"")],
    [record(4, size=100)],
]
SEED = OWNER.seed


def written(groups: list[list[Record]] = GROUPS, **changes: object) -> MemoryDisk:
    """A disk with these groups in one segment, as a killed process leaves it."""
    disk = MemoryDisk()
    store = started(disk, **changes)  # type: ignore[arg-type]
    for group in groups:
        store.append(group)
    return disk.killed()


def with_bytes(disk: MemoryDisk, path: str, content: bytes) -> MemoryDisk:
    """The same disk with another content of one file."""
    changed = disk.killed()
    file = changed.now[path]
    assert file is not None
    file.content = bytearray(content)
    return changed


def frames_in(disk: MemoryDisk, number: int = 1) -> list[Frame]:
    """The frames of a segment."""
    pieces = scan(disk.read(segment_path(number)), SEED, number)
    return [piece for piece in pieces if isinstance(piece, Frame)]


ALL = {one for group in GROUPS for one in group}
TRUTH = replayed(one for group in GROUPS for one in group)


# ---- the end of a process, at every byte


def test_killed_at_every_byte_a_start_finds_exactly_the_whole_frames() -> None:
    disk = written()
    content = disk.read(FIRST)
    ends = [SEGMENT_BYTES] + [one.end for one in frames_in(disk)]
    for size in range(SEGMENT_BYTES, len(content) + 1):
        whole = sum(1 for end in ends[1:] if end <= size)
        truth = replayed(one for group in GROUPS[:whole] for one in group)
        cut = with_bytes(disk, FIRST, content[:size])
        found = looked_at(cut)
        assert held(found) == truth and found.frames == whole, size
        assert found.torn_bytes == size - ends[whole] and found.complete and not found.suspect
        assert bool(found.notes) == bool(found.torn_bytes)
        if size % 29 and size not in ends:
            continue
        store = started(cut)
        store.append([record(9)])
        again = looked_at(cut.killed())
        assert held(again) == {**truth, **replayed([record(9)])}, size
        assert again.complete and again.torn_bytes == 0 and again.position == whole + 1


def test_killed_while_a_segment_begins() -> None:
    disk = MemoryDisk()
    started(disk)
    header = segment_header(OWNER, 1, 1)
    for size in range(len(header) + 1):
        begun = disk.killed()
        begun.write(FIRST, [header[:size]])
        found = looked_at(begun)
        assert held(found) == {} and found.complete and not found.suspect, size
        store = started(begun)
        store.append([record(1)])
        assert held(looked_at(begun.killed())) == replayed([record(1)])


def test_hints_come_back_with_their_copies_and_go_with_them() -> None:
    found = looked_at(written(GROUPS[:3]))
    assert found.hints == {b"key 2": b"node-abc" * 2}
    assert looked_at(written()).hints == {}


def test_whatever_was_replaced_is_told_in_order() -> None:
    disk = written()
    told: list[tuple[bytes, bytes, bytes | None]] = []
    Store.open(disk, opening()).recover(
        lambda key, before, after: told.append((key, before, after))
    )
    assert told == [
        (b"key 1", record(1).state, None),
        (b"key 2", b"state of a copy", b"state handed home"),
    ]


# ---- the end of a machine


@pytest.mark.parametrize("how", ["zeros", "garbage", "half"])
def test_a_machine_without_power_leaves_a_torn_tail(how: str) -> None:
    for synced in range(len(GROUPS)):
        disk = MemoryDisk()
        store = started(disk, durability="synced")
        store.append([record(8)])
        for group in GROUPS[:synced]:
            store.append(group)
        store.sync()
        for group in GROUPS[synced:]:
            store.append(group)
        left = disk.unplugged("written", how)
        found = looked_at(left, boot_id="boot 2", durability="synced")
        safe = replayed([record(8), *(one for group in GROUPS[:synced] for one in group)])
        if how == "half":
            assert set(safe) - {b"key 1", b"key 2"} <= set(held(found))
        else:
            assert held(found) == safe
        assert found.torn_bytes > 0 and not found.suspect
        assert found.complete is (how != "garbage"), "a damaged frame that was synced looks so too"
        store = started(left, boot_id="boot 2")
        store.append([record(9)])
        assert held(looked_at(left.killed(), boot_id="boot 2")) == {
            **held(found),
            **replayed([record(9)]),
        }


def test_what_was_written_but_not_synced_is_doubted_after_a_power_loss() -> None:
    disk = written()
    assert looked_at(disk.killed()).complete
    assert looked_at(disk.killed(), boot_id="boot 2").doubted == frozenset(range(8))
    assert looked_at(written(boot_id="")).doubted == frozenset(range(8)), (
        "no boot id proves nothing"
    )


# ---- damage


@pytest.mark.parametrize("how", ["bit", "byte"])
def test_no_changed_byte_of_the_log_is_silently_wrong(how: str) -> None:
    """A bit of each byte, another one from byte to byte; and the whole of each."""
    disk = written()
    content = disk.read(FIRST)
    frames = frames_in(disk)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8 if how == "bit" else 0xFF
        damaged = with_bytes(disk, FIRST, bytes(changed))
        found = looked_at(damaged)
        assert not silently_wrong(found, TRUTH, ALL), at
        assert found.notes, f"byte {at} was changed and nobody said so"
        hit = next((one for one in frames if one.start <= at < one.end), None)
        if hit is not None and at >= hit.start + FRAME_BYTES + 4 * len(hit.partitions or ()):
            assert found.quarantined == set(hit.partitions or ()), "its head is whole"
            assert found.doubted == found.quarantined and not found.suspect
        elif hit is not None and at < hit.start + FRAME_BYTES:
            assert found.suspect, "its head cannot be read"
        else:
            assert held(found) == TRUTH, "a header or a list that the payload can replace"
        if at % 16:
            continue
        store = started(damaged)
        store.append([record(9)])
        after = looked_at(damaged.killed())
        assert held(after) == {**held(found), **replayed([record(9)])}
        assert after.doubted >= found.doubted, "doubt does not go away by a restart"


def test_no_changed_byte_of_an_older_segment_is_silently_wrong() -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=SEGMENT_BYTES + 1)
    for group in GROUPS[:3]:
        store.append(group)
    disk = disk.killed()
    truth = replayed(one for group in GROUPS[:3] for one in group)
    for number in (1, 2, 3):
        content = disk.read(segment_path(number))
        for at in range(0, len(content)):
            changed = bytearray(content)
            changed[at] ^= 0x10
            damaged = with_bytes(disk, segment_path(number), bytes(changed))
            found = looked_at(damaged)
            assert found.notes and not silently_wrong(found, truth, ALL), (number, at)


@pytest.mark.parametrize("filling", [b"\0", b"\xff", GARBAGE])
def test_a_lost_sector_anywhere_is_never_silent(filling: bytes) -> None:
    disk = written()
    content = disk.read(FIRST)
    for size in (64, 512):
        for at in range(0, len(content), 32):
            hole = (filling * size)[: min(size, len(content) - at)]
            found = looked_at(with_bytes(disk, FIRST, content[:at] + hole + content[at + size :]))
            assert found.notes and not silently_wrong(found, TRUTH, ALL), (at, size)


def test_torn_is_not_damaged() -> None:
    disk = written()
    content = disk.read(FIRST)
    frames = frames_in(disk)
    last, middle = frames[-1], frames[2]

    short = with_bytes(disk, FIRST, content[: last.end - 5])
    torn = looked_at(short)
    assert torn.torn_bytes == last.end - 5 - last.start and not torn.suspect
    assert short.size(FIRST) == last.start, "it is cut"

    headless = content[: middle.start] + bytes(20) + content[middle.start + 20 :]
    found = looked_at(with_bytes(disk, FIRST, headless), boot_id="boot 2", durability="synced")
    assert found.suspect and found.torn_bytes == 0, "a whole frame follows: never cut"
    assert found.frames == len(frames) - 1, "and it is read"

    ending = content[: last.start] + bytes(last.end - last.start)
    now = looked_at(with_bytes(disk, FIRST, ending))
    assert now.suspect and now.torn_bytes == 0, "the machine has not stopped, so nothing tore it"
    later = looked_at(with_bytes(disk, FIRST, ending), boot_id="boot 2")
    assert later.torn_bytes == last.end - last.start and not later.suspect


def test_a_damaged_payload_is_kept_aside_and_costs_its_partitions_only() -> None:
    disk = written()
    content = bytearray(disk.read(FIRST))
    hit = frames_in(disk)[2]
    content[hit.end - 10] ^= 1
    damaged = with_bytes(disk, FIRST, bytes(content))
    store = started(damaged)
    assert store.doubted == {1, 3}
    aside = {path: kept for path, kept in damaged.contents().items() if "quarantine/" in path}
    assert aside == {f"quarantine/{FIRST}-{hit.start:x}": bytes(content[hit.start : hit.end])}
    found = looked_at(damaged.killed())
    assert found.frames == len(GROUPS) - 1 and found.maps[4] == {
        b"key 4": record(4, size=100).state
    }


def test_a_quarantined_partition_stays_so_until_it_is_proved() -> None:
    disk = written()
    content = bytearray(disk.read(FIRST))
    content[frames_in(disk)[0].end - 10] ^= 1
    disk = with_bytes(disk, FIRST, bytes(content))
    store = started(disk)
    taking = store.begin_snapshot()
    taking.finish()
    store.append([record(9)])
    store.cut_log()
    store.close()
    assert disk.names("").count(FIRST) == 0, "the damage itself is gone"
    store = started(disk)
    assert store.doubted == {0, 1}
    store.proved([0])
    store.close()
    found = looked_at(disk)
    assert found.doubted == {1} and not found.quarantined


def test_a_quarantine_that_finds_no_room_is_no_reason_not_to_start() -> None:
    disk = written()
    content = bytearray(disk.read(FIRST))
    content[frames_in(disk)[0].end - 10] ^= 1
    disk = with_bytes(disk, FIRST, bytes(content))
    disk.room = 0
    assert looked_at(disk).quarantined == {0, 1}


# ---- frames at the wrong place


EVEN = [[record(n)] for n in range(5)]


def test_a_copied_frame_is_not_taken_for_one() -> None:
    disk = written(EVEN)
    content, frames = disk.read(FIRST), frames_in(disk)
    truth, ever = replayed(one for group in EVEN for one in group), {one for g in EVEN for one in g}
    assert len({one.end - one.start for one in frames}) == 1
    for source in frames:
        for target in frames:
            if source is target:
                continue
            copy = content[source.start : source.end]
            found = looked_at(
                with_bytes(disk, FIRST, content[: target.start] + copy + content[target.end :])
            )
            assert found.suspect and not silently_wrong(found, truth, ever)
            assert found.frames == len(frames) - 1, "all others are read, whatever the copy says"


def test_a_frame_of_another_segment_or_another_node_is_not_taken_for_one() -> None:
    disk = written(EVEN)
    content, target = disk.read(FIRST), frames_in(disk)[2]
    payload = encode([Record(2, b"key 2", b"foreign", b"")])
    strangers = [
        frame(SEED, 2, target.start, target.position, [2], payload),
        frame(SEED, 1, target.start + 8, target.position, [2], payload),
        frame(Owner(CLUSTER, OTHER).seed, 1, target.start, target.position, [2], payload),
        frame(Owner(b"D" * 16, OWNER.node_id).seed, 1, target.start, target.position, [2], payload),
    ]
    for stranger in strangers:
        forged = content[: target.start] + stranger + content[target.start + len(stranger) :]
        found = looked_at(with_bytes(disk, FIRST, forged))
        assert b"foreign" not in found.maps[2].values() and found.suspect


def test_a_value_that_holds_a_frame_is_only_a_value() -> None:
    inside = frame(SEED, 1, 5000, 2, [2], encode([Record(2, b"key 2", b"smuggled", b"")]))
    tale = segment_header(OWNER, 1, 1) + inside * 3
    disk = written([[Record(1, b"key 1", tale, b"")], [record(3)]])
    assert looked_at(disk.killed()).maps[1] == {b"key 1": tale}
    content = bytearray(disk.read(FIRST))
    content[SEGMENT_BYTES] ^= 1  # the reader must now look for the next frame through the value
    found = looked_at(with_bytes(disk, FIRST, bytes(content)))
    assert found.suspect and held(found) == replayed([record(3)])


def test_a_lost_segment_is_missed_wherever_it_was() -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=SEGMENT_BYTES + 1)
    for n in range(4):
        store.append([record(n)])
    for number in (1, 2, 3, 4):
        left = disk.killed()
        left.remove(segment_path(number))
        found = looked_at(left)
        assert found.suspect and found.doubted == frozenset(range(8)), number


def test_a_foreign_segment_in_the_directory_is_not_read() -> None:
    stranger = MemoryDisk()
    store = started(stranger, fresh_id=OTHER)
    for n in range(5, 8):
        store.append([record(n)])
    disk = written()
    disk.write(SECOND, [stranger.read(FIRST)])
    found = looked_at(disk)
    assert held(found) == TRUTH and found.notes
    assert disk.read(SECOND) == stranger.read(FIRST), "nothing of it is cut"


def test_two_damaged_headers_at_the_end_are_not_taken_for_a_crash() -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=SEGMENT_BYTES + 1)
    for n in range(2):
        store.append([record(n)])
    disk = disk.killed()
    damaged = bytearray(disk.read(SECOND))
    damaged[3] ^= 1
    damaged[SEGMENT_BYTES + 3] ^= 1
    for boot_id in ("boot 1", "boot 2"):
        left = with_bytes(disk, SECOND, bytes(damaged))
        found = looked_at(left, boot_id=boot_id, durability="synced")
        assert found.suspect and held(found) == replayed([record(0)])


def test_a_segment_that_cannot_be_read_is_no_reason_not_to_start() -> None:
    disk = written()
    disk.now[FIRST] = None  # a directory in its place
    found = looked_at(disk)
    assert found.suspect and held(found) == {}


def test_lengths_that_no_frame_has_are_refused() -> None:
    # A forger who knows the ids can make a head whose checksum fits; it still cannot lead anywhere.
    disk = written()
    content = disk.read(FIRST)
    for size, count in ((2**32 - 1, 1), (10, 2**32 - 1), (2**31, 2**30)):
        head = struct.pack(
            ">4sHQQQIIII", FRAME_MAGIC, 0, 1, len(content), 6, size, 0, count, crc32(b"", SEED)
        )
        forged = content + head + struct.pack(">I", crc32(head, SEED)) + bytes(100)
        found = looked_at(with_bytes(disk, FIRST, forged))
        assert held(found) == TRUTH and found.torn_bytes > 0


def test_a_frame_of_an_unknown_kind_is_damage() -> None:
    disk = written()
    content, hit = disk.read(FIRST), frames_in(disk)[2]
    strange = frame(SEED, 1, hit.start, hit.position, [1, 3], hit.payload or b"", kind=7)
    forged = content[: hit.start] + strange + content[hit.end :]
    assert len(forged) == len(content)
    assert looked_at(with_bytes(disk, FIRST, forged)).suspect


def test_a_frame_of_a_partition_that_there_is_not_is_damage() -> None:
    disk = written()
    content = disk.read(FIRST)
    payload = encode([Record(99, b"key", b"state", b"")])
    more = frame(SEED, 1, len(content), 6, [99], payload)
    found = looked_at(with_bytes(disk, FIRST, content + more))
    assert found.suspect and held(found) == TRUTH


# ---- scanning


def test_a_scan_accounts_for_every_byte() -> None:
    content = written().read(FIRST)
    for at in range(SEGMENT_BYTES, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 0x55
        pieces = list(scan(bytes(changed), SEED, 1))
        assert pieces[0].start == SEGMENT_BYTES and pieces[-1].end == len(content)
        for one, following in pairwise(pieces):
            assert one.end == following.start
            assert not (isinstance(one, Gap) and isinstance(following, Gap))


# ---- what is lean decides the same


@given(
    st.lists(
        st.builds(
            Record,
            st.integers(0, 1),
            st.sampled_from([b"k%d" % i for i in range(6)]),
            st.none() | st.sampled_from([b"one", b"two", b"three"]),
            st.sampled_from([b"", b"", b"", b"node-abc"]),
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 12), min_size=2, max_size=2),
)
def test_law_a_snapshot_taken_in_whole_is_what_replay_makes_of_its_records(
    records: list[Record], cuts: list[int]
) -> None:
    """Whatever a file says: keys twice, forgotten, in two partitions, with hints; and a log."""
    before, after = min(cuts), max(cuts)
    disk = MemoryDisk()
    store = started(disk)
    for one in records[:before]:
        store.append([one])
    taking = store.begin_snapshot()
    for partition in (0, 1):
        taking.write(partition, [one for one in records[:after] if one.partition == partition])
    taking.finish()
    for one in records[after:]:
        store.append([one])

    def outcome() -> tuple[Recovery, list[tuple[bytes, bytes, bytes | None]]]:
        told: list[tuple[bytes, bytes, bytes | None]] = []
        reading = Store.open(disk.killed(), opening())
        return reading.recover(lambda *one: told.append(one)), told

    lean = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Filling, "take_whole", lambda *_: False)
        general = outcome()
    assert lean == general


@given(
    st.lists(
        st.lists(
            st.builds(
                Record,
                st.integers(0, PARTITIONS),  # one more than there are
                st.sampled_from([b"k%d" % i for i in range(4)]),
                st.sampled_from([None, b"", b"one", b"two", b"three"]),
                st.sampled_from([b"", b"", b"", b"node-abc"]),
            ),
            min_size=1,
            max_size=2,
        ),
        max_size=10,
    ),
    st.integers(0, 10),
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 255)), max_size=2),
    st.sampled_from([200, 2000, 1 << 20]),
    st.integers(1, 3),
)
def test_law_the_lean_way_through_a_log_finds_what_the_general_way_finds(
    groups: list[list[Record]],
    snapshot_after: int,
    flips: list[tuple[int, int]],
    segment_bytes: int,
    run: int,
) -> None:
    """Whatever is in the log, covered by a snapshot or not, and whatever happened to its bytes."""
    disk = MemoryDisk()
    store = started(disk, segment_bytes=segment_bytes)
    for number, group in enumerate(groups):
        if number == snapshot_after:
            taking = store.begin_snapshot()
            taking.write(0, [one for one in replayed_records(groups[:number]) if not one[0]])
            taking.finish()
        store.append(group)
    for at, mask in flips:
        paths = [path for path in disk.names("") if path.endswith(".dynr")]
        file = disk.now[paths[at % len(paths)]] if paths else None
        if file is not None:
            file.content[at % len(file.content)] ^= mask

    def outcome() -> object:
        told: list[tuple[bytes, bytes, bytes | None]] = []
        left = disk.killed()
        found = Store.open(left, opening()).recover(lambda *one: told.append(one))
        return found, told, left.names("quarantine")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "SINGLES_A_RUN", run)
        lean = outcome()
        patch.setattr(Replay, "_take_singles", lambda self, content, at, number, stop: at)
        general = outcome()
    assert lean == general


def replayed_records(groups: list[list[Record]]) -> list[Record]:
    """What a snapshot holds after these groups, without hints."""
    after = replayed(one for group in groups for one in group)
    return [Record(partition, key, state, b"") for key, (partition, state) in after.items()]


def test_progress_is_told_up_to_all_bytes() -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=2000)
    store.append([record(n) for n in range(50)])
    taking = store.begin_snapshot()
    for partition in range(PARTITIONS):
        taking.write(partition, [record(n) for n in range(50) if n % PARTITIONS == partition])
    taking.finish()
    store.append([record(60)])
    told: list[tuple[int, int, int]] = []
    found = Store.open(disk.killed(), opening()).recover(on_progress=lambda *one: told.append(one))
    assert told == sorted(told) and len(told) > PARTITIONS
    records, size, in_all = told[-1]
    assert (records, size) == (found.records, found.bytes) == (51, in_all)
    assert in_all == sum(
        disk.size(path)
        for path in [*disk.names(""), *(f"{directory(1)}/{p}" for p in disk.names(directory(1)))]
        if path.endswith((".dynr", ".arrow"))
    )


def test_progress_in_a_long_segment_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "SINGLES_A_RUN", 3)
    monkeypatch.setattr(recovery, "BYTES_A_WORD", 1)
    disk = MemoryDisk()
    store = started(disk)
    for n in range(10):
        store.append([record(n)])
    told: list[tuple[int, int, int]] = []
    Store.open(disk.killed(), opening()).recover(on_progress=lambda *one: told.append(one))
    assert [records for records, _, _ in told] == [4, 8, 10]
    assert told[-1][1] == told[-1][2] == disk.size(FIRST)
