"""A node's directory over its life: what survives, and when its copies count towards R (rule 9)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.sim.disk import SimulatedDisk
from dynamo_ray.storage.codec import Record, columns_of, encode
from dynamo_ray.storage.disk import Disk, RealDisk
from dynamo_ray.storage.frames import SEGMENT_BYTES, frame
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.store import Store
from tests.storage.disks import MemoryDisk
from tests.storage.stores import (
    OWNER,
    PARTITIONS,
    held,
    looked_at,
    opening,
    record,
    recovered,
    replayed,
    started,
)

EVERY = frozenset(range(PARTITIONS))
MAKERS: dict[str, Callable[[Path], Disk]] = {
    "real": lambda path: RealDisk(path / "node"),
    "memory": lambda path: MemoryDisk(),
    "simulated": lambda path: SimulatedDisk("n1", Random(1)),
}


@pytest.fixture(params=MAKERS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = MAKERS[request.param](tmp_path)
    yield disk
    disk.close()


def test_a_life_with_snapshots_and_restarts_loses_nothing(disk: Disk) -> None:
    truth: dict[bytes, tuple[int, bytes]] = {}
    hints: dict[bytes, bytes] = {}
    chance = Random(5)
    for life in range(6):
        store, found = recovered(disk, segment_bytes=2000)
        assert held(found) == truth and found.hints == hints and found.complete, life
        store.new_incarnation(life, b"r" * 8)
        for turn in range(20):
            group = []
            for _ in range(chance.randrange(1, 5)):
                key = b"key %d" % chance.randrange(30)
                state = None if chance.random() < 0.2 else chance.randbytes(30)
                kept = b"" if state is None or chance.random() < 0.7 else b"node-abc"
                group.append(Record(key[-1] % PARTITIONS, key, state, kept))
            store.append_columns(columns_of(group))
            truth.update(replayed(one for one in group if one.state is not None))
            for one in group:  # last wins, one by one
                truth.pop(one.key, None)
                hints.pop(one.key, None)
                if one.state is not None:
                    truth[one.key] = one.partition, one.state
                if one.hints:
                    hints[one.key] = one.hints
            if turn == 10 and life % 2:
                taking = store.begin_snapshot()
                for partition in range(PARTITIONS):
                    taking.write(partition, _records(partition, truth, hints))
                taking.finish()
                store.cut_log()
        if life == 3:
            disk.close()  # as if killed
        else:
            store.close()


def _records(
    partition: int, truth: dict[bytes, tuple[int, bytes]], hints: dict[bytes, bytes]
) -> list[Record]:
    return [
        Record(partition, key, state, hints.get(key, b""))
        for key, (place, state) in truth.items()
        if place == partition
    ]


def test_a_store_that_was_never_used_is_closed_without_a_trace(disk: Disk) -> None:
    store, _ = recovered(disk)
    store.close()
    store.close()
    assert looked_at(disk).complete


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 5), st.none() | st.binary(min_size=1, max_size=5)), max_size=4
        ),
        max_size=8,
    )
)
def test_law_recovery_is_the_last_record_of_every_key(
    groups: list[list[tuple[int, bytes | None]]],
) -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=1500)
    records = [[Record(n, b"%d" % n, state, b"") for n, state in group] for group in groups]
    for group in records:
        store.append(group)
    told: list[tuple[bytes, bytes, bytes | None]] = []
    expected = []
    twin: dict[bytes, bytes] = {}
    for one in (one for group in records for one in group):
        before = twin.pop(one.key, None)
        if before is not None and before != one.state:
            expected.append((one.key, before, one.state))
        if one.state is not None:
            twin[one.key] = one.state
    disk = disk.killed()
    found = told_by(disk, told)
    assert held(found) == replayed(one for group in records for one in group)
    assert told == expected


def told_by(disk: Disk, told: list[tuple[bytes, bytes, bytes | None]]) -> Recovery:
    """Recover, and keep what the callback is told."""
    store = Store.open(disk, opening())
    return store.recover(lambda key, before, after: told.append((key, before, after)))


# ---- what the snapshot covers is still told (rule 7)


def test_what_was_replaced_before_a_snapshot_is_told_while_its_log_is_kept() -> None:
    disk = MemoryDisk()
    store = started(disk)
    states = [b"one", b"two", b"three", b"four"]
    for state in states[:3]:
        store.append([Record(0, b"k", state, b"")])
    taking = store.begin_snapshot()
    taking.write(0, [Record(0, b"k", b"three", b"")])
    taking.finish()
    store.append([Record(0, b"k", b"four", b"")])
    told: list[tuple[bytes, bytes, bytes | None]] = []
    found = told_by(disk.killed(), told)
    assert found.maps[0] == {b"k": b"four"} and found.records == 2
    assert told == [
        (b"k", b"one", b"two"),
        (b"k", b"two", b"three"),
        (b"k", b"three", b"four"),
    ]
    store.cut_log()
    told.clear()
    told_by(disk.killed(), told)
    assert told == [(b"k", b"three", b"four")]


def test_a_snapshot_that_is_newer_than_its_position_adds_nothing_to_what_is_told() -> None:
    disk = MemoryDisk()
    store = started(disk)
    states = [b"one", b"two", b"three", b"four"]
    for state in states[:2]:
        store.append([Record(0, b"k", state, b"")])
    taking = store.begin_snapshot()
    for state in states[2:]:
        store.append([Record(0, b"k", state, b"")])
    taking.write(0, [Record(0, b"k", b"four", b"")])
    taking.finish()
    told: list[tuple[bytes, bytes, bytes | None]] = []
    assert told_by(disk.killed(), told).maps[0] == {b"k": b"four"}
    assert told == [(b"k", one, following) for one, following in pairwise(states)]


def test_what_only_the_snapshot_has_of_the_lost_end_of_the_log_is_told_too() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([Record(0, b"k", b"one", b"")])
    taking = store.begin_snapshot()
    store.append([Record(0, b"k", b"two", b"")])
    taking.write(0, [Record(0, b"k", b"two", b"")])
    taking.finish()
    told: list[tuple[bytes, bytes, bytes | None]] = []
    found = told_by(disk.unplugged("synced", "synced"), told)
    assert found.frames == 0 and found.maps[0] == {b"k": b"two"}
    assert told == [(b"k", b"one", b"two")]


def test_a_snapshot_that_is_newer_than_its_position_ends_in_the_newest_state() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([Record(0, b"k", b"one", b"")])
    taking = store.begin_snapshot()
    store.append([Record(0, b"k", b"two", b""), Record(0, b"gone", b"x", b"")])
    taking.write(0, [Record(0, b"k", b"two", b""), Record(0, b"gone", b"x", b"")])
    store.append([Record(0, b"k", b"three", b""), Record(0, b"gone", None, b"")])
    taking.finish()
    store.cut_log()
    found = looked_at(disk.killed())
    assert found.maps[0] == {b"k": b"three"} and found.complete


def test_damage_to_what_the_snapshot_covers_brings_nothing_old_back() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([Record(0, b"k", b"one", b"")])
    end = disk.size("log-0000000000000001.dynr")
    store.append([Record(0, b"k", b"two", b"")])
    taking = store.begin_snapshot()
    taking.write(0, [Record(0, b"k", b"two", b"")])
    taking.finish()
    for at in (end + 10, disk.size("log-0000000000000001.dynr") - 1):
        damaged = disk.killed()
        file = damaged.now["log-0000000000000001.dynr"]
        assert file is not None
        file.content[at] ^= 1
        found = looked_at(damaged)
        assert found.maps[0] == {b"k": b"two"} and not found.quarantined


# ---- complete, or not


@pytest.mark.parametrize(
    ("durability", "boot", "is_closed", "complete"),
    [
        ("written", "boot 1", False, True),
        ("written", "boot 2", False, False),
        ("written", "boot 2", True, True),
        ("synced", "boot 1", False, True),
        ("synced", "boot 2", False, True),
        ("memory", "boot 1", False, False),
        ("memory", "boot 2", False, False),
        ("memory", "boot 2", True, True),
    ],
)
def test_when_a_log_is_proved_complete(
    durability: str, boot: str, is_closed: bool, complete: bool
) -> None:
    disk = MemoryDisk()
    store = started(disk, durability=durability)
    store.append([record(0)])
    if is_closed:
        store.close()
    found = looked_at(disk.killed(), durability=durability, boot_id=boot)
    assert found.complete == complete and found.doubted == (frozenset() if complete else EVERY)
    assert held(found) == replayed([record(0)])


def test_doubt_outlives_restarts_in_the_same_boot() -> None:
    # The trap: the second start of boot 2 sees its own boot id and a log without a flaw.
    disk = MemoryDisk()
    started(disk).append([record(0)])
    disk = disk.killed()
    started(disk, boot_id="boot 2").append([record(1)])
    disk = disk.killed()
    store, found = recovered(disk, boot_id="boot 2")
    assert found.doubted == EVERY
    store.new_incarnation(5, b"5" * 8)
    store.proved(EVERY)
    store.append([record(2)])
    assert looked_at(disk.killed(), boot_id="boot 2").complete


def test_doubt_outlives_a_clean_end() -> None:
    disk = MemoryDisk()
    started(disk).append([record(0)])
    disk = disk.killed()
    started(disk, boot_id="boot 2").close()
    assert looked_at(disk, boot_id="boot 2").doubted == EVERY


def test_a_clean_end_is_durable() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    store.close()
    found = looked_at(disk.unplugged("synced", "synced"), boot_id="boot 2")
    assert found.complete and held(found) == replayed([record(0)])


def test_a_clean_end_in_the_middle_proves_nothing() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    store.close()
    path = "log-0000000000000001.dynr"
    end = disk.size(path)
    disk.append(path, frame(OWNER.seed, 1, end, 3, [1], encode([record(1)])))
    found = looked_at(disk, boot_id="boot 2")
    assert found.frames == 2 and not found.complete


def test_a_clean_end_is_void_as_soon_as_something_was_appended_after_it() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    store.close()
    assert looked_at(disk.killed(), boot_id="boot 2").complete
    store = started(disk)
    store.append([record(1)])
    left = disk.unplugged("synced", "synced")
    assert looked_at(left, boot_id="boot 2").doubted == EVERY


def test_a_run_that_appends_nothing_keeps_the_clean_end() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    store.close()
    size = len(disk.contents())
    for boot in ("boot 2", "boot 3"):
        started(disk, boot_id=boot).close()
        assert looked_at(disk, boot_id=boot).complete
        assert len(disk.contents()) == size, "and leaves no file behind"


def test_a_clean_end_that_is_damaged_proves_nothing() -> None:
    disk = MemoryDisk()
    store = started(disk, segment_bytes=SEGMENT_BYTES + 1)
    store.append([record(0)])
    store.close()
    path = "log-0000000000000002.dynr"
    for at in range(SEGMENT_BYTES, disk.size(path)):
        damaged = disk.killed()
        file = damaged.now[path]
        assert file is not None
        file.content[at] ^= 1
        assert not looked_at(damaged, boot_id="boot 2").complete


def test_how_far_the_log_had_come_must_be_known() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    store.close()
    for change in (lambda left: left.remove("REACHED"), lambda left: left.write("REACHED", [b"x"])):
        left = disk.killed()
        change(left)
        assert looked_at(left).suspect
    left = disk.killed()
    left.remove("log-0000000000000001.dynr")
    found = looked_at(left)
    assert found.suspect and "are gone" in found.notes[-1]


def test_a_close_on_a_full_disk_lets_go_of_the_directory() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(0)])
    disk.room = 0
    store.close()
    assert not disk.locked and held(looked_at(disk)) == replayed([record(0)])


# ---- a real directory


def test_threads_beside_the_log_disturb_nothing(tmp_path: Path) -> None:
    store = started(RealDisk(tmp_path), segment_bytes=20_000)
    problems: list[BaseException] = []
    is_over = threading.Event()

    def again_and_again(act: Callable[[], object]) -> None:
        try:
            while not is_over.is_set():
                act()
        except BaseException as error:
            problems.append(error)

    def renew() -> None:
        store.new_incarnation(1, b"12345678")
        store.proved([1])

    taking = store.begin_snapshot()

    def write() -> None:
        for partition in range(PARTITIONS):
            taking.write(partition, [record(partition)])
        taking.finish()

    acts = [lambda: again_and_again(store.sync), lambda: again_and_again(renew), write]
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for n in range(300):
        store.append([record(n)])
    is_over.set()
    for thread in threads:
        thread.join()
    last = store.identity.incarnation
    store.close()
    assert not problems
    again, found = recovered(RealDisk(tmp_path))
    assert held(found) == replayed(record(n) for n in range(300)) and found.complete
    assert again.identity.incarnation == last
    again.close()


APPENDING = """
import sys
from tests.storage.stores import record, started
from dynamo_ray.storage.disk import RealDisk
store = started(RealDisk(sys.argv[1]), segment_bytes=50_000)
n = 0
while True:
    store.append([record(n)])
    print(n, flush=True)
    n += 1
"""


def test_a_process_that_is_killed_has_lost_nothing_it_said(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", APPENDING, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    with child.stdout:
        said = [int(child.stdout.readline()) for _ in range(500)]
        child.kill()
        said += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    found = looked_at(RealDisk(tmp_path))
    assert found.complete and found.position - 1 in (said[-1], said[-1] + 1)
    assert held(found) == replayed(record(n) for n in range(found.position))
