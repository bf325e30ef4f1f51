"""Snapshots: any Arrow reader opens them, and a damaged one is never believed."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from dynamo_ray.storage import snapshot as snapshots
from dynamo_ray.storage.codec import SCHEMA, Columns, Record, columns_of
from dynamo_ray.storage.disk import RealDisk
from dynamo_ray.storage.errors import (
    AppendFailedError,
    DamagedFileError,
    MalformedBatchError,
    SnapshotFailedError,
)
from dynamo_ray.storage.sealed import seal, unseal, write_sealed
from dynamo_ray.storage.snapshot import (
    MANIFEST,
    directory,
    file_path,
    generations_on,
    read_arrow,
    read_manifest,
    read_partition,
)
from dynamo_ray.storage.store import Store
from tests.storage.disks import NAMES_LEFT, MemoryDisk, Stopped
from tests.storage.stores import (
    OWNER,
    PARTITIONS,
    held,
    looked_at,
    record,
    recovered,
    replayed,
    started,
)

RECORDS = [record(n) for n in range(30)] + [Record(3, b"copy", b"state", b"node-abc")]
TRUTH = replayed(RECORDS)


def taken(store: Store, records: list[Record] = RECORDS) -> None:
    """Take a whole snapshot and cut the log."""
    taking = store.begin_snapshot()
    for partition in range(PARTITIONS):
        taking.write(partition, [one for one in records if one.partition == partition])
    taking.finish()
    store.cut_log()


def with_snapshot() -> MemoryDisk:
    """A disk whose records are in a snapshot, the log that held them gone, and one more since."""
    disk = MemoryDisk()
    store = started(disk)
    store.append(RECORDS)
    taken(store)
    store.append([record(99)])
    store.cut_log()
    return disk.killed()


def arrow_file(batches: list[pa.RecordBatch], schema: pa.Schema = SCHEMA, **options: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


# ---- what is in it


def test_any_arrow_reader_opens_it(tmp_path: Path) -> None:
    store = started(RealDisk(tmp_path))
    store.append(RECORDS)
    taken(store)
    table = pa.ipc.open_file(tmp_path / directory(1) / "p00003.arrow").read_all()
    assert table.schema.equals(SCHEMA, check_metadata=True)
    rows = {row["key"]: row for row in table.to_pylist()}
    assert rows[b"copy"] == {
        "partition": 3,
        "key": b"copy",
        "state": b"state",
        "hints": b"node-abc",
    }
    assert rows[b"key 3"]["hints"] is None and len(rows) == 5
    store.close()


def test_it_replaces_the_log() -> None:
    disk = with_snapshot()
    assert generations_on(disk) == [1] and [n for n in disk.names("") if n[:3] == "log"] == [
        "log-0000000000000002.dynr"
    ]
    found = looked_at(disk)
    assert held(found) == {**TRUTH, **replayed([record(99)])}
    assert found.hints == {b"copy": b"node-abc"} and found.complete and found.frames == 1


def test_the_manifest_says_what_there_is() -> None:
    disk = with_snapshot()
    content = unseal(disk.read(f"{directory(1)}/{MANIFEST}"))
    assert content["position"] == 1 and content["format"] == 1 and content["segment"] == 1
    assert set(content["files"]) == {f"p{p:05d}.arrow" for p in range(PARTITIONS)}
    size, _, records = content["files"]["p00003.arrow"]
    assert size == disk.size(file_path(1, 3)) and records == 5


def test_a_partition_without_records_has_no_file() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(1)])
    taken(store, [record(1)])
    assert disk.names(directory(1)) == [MANIFEST, "p00001.arrow"]
    assert held(looked_at(disk.killed())) == replayed([record(1)])


def test_a_large_partition_is_written_in_bounded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "BATCH_ROWS", 7)
    monkeypatch.setattr(snapshots, "BATCH_BYTES", 1000)
    disk = MemoryDisk()
    store = started(disk)
    taking = store.begin_snapshot()
    records = [record(8 * n, size=10 * n) for n in range(50)]
    taking.write(0, iter(records))
    taking.finish()
    content = disk.read(file_path(1, 0))
    assert pa.ipc.open_file(content).num_record_batches > 8
    assert read_arrow(content) == Columns(*map(list, columns_of(records)))


@pytest.mark.parametrize("names", NAMES_LEFT)
def test_a_log_that_was_cut_is_never_gone_before_its_snapshot_is_there(names: str) -> None:
    for stop in range(1, 40):
        disk = MemoryDisk()
        store = started(disk, segment_bytes=500, durability="synced")
        for n in range(5):
            store.append([record(n)])
        store.sync()
        disk.stop_at = stop
        with suppress(Stopped):
            taken(store, [record(n) for n in range(5)])
        left = disk.unplugged(names, "synced")
        found = looked_at(left, boot_id="boot 2", durability="synced")
        assert held(found) == replayed(record(n) for n in range(5)), stop
        assert found.complete, found.notes


def test_a_second_snapshot_replaces_the_first_once_it_is_durable() -> None:
    disk = with_snapshot()
    store = started(disk)
    taking = store.begin_snapshot()
    for n in range(PARTITIONS):
        taking.write(n, [one for one in [*RECORDS, record(99)] if one.partition == n])
    assert generations_on(disk) == [1, 2]
    assert held(looked_at(disk.killed())) == {**TRUTH, **replayed([record(99)])}
    taking.finish()
    assert generations_on(disk) == [2]
    found = looked_at(disk.killed())
    assert held(found) == {**TRUTH, **replayed([record(99)])} and found.frames == 0


# ---- when it cannot be finished


def test_a_full_disk_gives_the_snapshot_up_and_nothing_else() -> None:
    disk = with_snapshot()
    store = started(disk)
    taking = store.begin_snapshot()
    disk.room = 100
    with pytest.raises(SnapshotFailedError, match="take another one"):
        taking.write(0, RECORDS)
    disk.room = None
    taking.abandon()
    assert generations_on(disk) == [1]
    store.append([record(50)])
    taken(store, [*RECORDS, record(99), record(50)])
    assert held(looked_at(disk.killed())) == {**TRUTH, **replayed([record(99), record(50)])}


def test_a_failed_sync_of_a_snapshot_ends_the_snapshot_only() -> None:
    disk = with_snapshot()
    store = started(disk)
    taking = store.begin_snapshot()
    disk.refuses_to_sync = True
    for step in (lambda: taking.write(0, RECORDS), taking.finish):
        with pytest.raises(SnapshotFailedError):
            step()
    disk.refuses_to_sync = False
    store.append([record(50)])
    assert held(looked_at(disk.killed())) == {**TRUTH, **replayed([record(99), record(50)])}


def test_a_failed_append_makes_the_snapshot_void() -> None:
    # The map changes before the log has it: a snapshot may show what was undone (rule 1).
    disk = with_snapshot()
    store = started(disk)
    store.append([record(50)])
    taking = store.begin_snapshot()
    taking.write(1, [record(1)])
    disk.room = 0
    with pytest.raises(AppendFailedError):
        store.append([record(51)])
    disk.room = None
    with pytest.raises(SnapshotFailedError, match="an append failed"):
        taking.finish()
    assert held(looked_at(disk.killed())) == {**TRUTH, **replayed([record(99), record(50)])}


def test_its_beginning_makes_what_it_covers_durable() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append(RECORDS)
    assert store.begin_snapshot().position == 1
    assert held(looked_at(disk.unplugged("synced", "synced"), boot_id="boot 2")) == TRUTH


def test_a_second_one_begun_makes_the_first_void() -> None:
    store = started(MemoryDisk())
    first = store.begin_snapshot()
    second = store.begin_snapshot()
    assert second.number == first.number + 1
    with pytest.raises(SnapshotFailedError):
        first.finish()
    second.finish()


def test_what_was_left_unfinished_is_removed_by_the_next() -> None:
    disk = with_snapshot()
    store = started(disk)
    store.begin_snapshot().write(0, RECORDS)
    disk = disk.killed()
    store, found = recovered(disk)
    assert any("unfinished" in note for note in found.notes) and found.complete
    store.new_incarnation(5, b"5" * 8)
    taken(store, [*RECORDS, record(99)])
    assert generations_on(disk) == [3]


# ---- damage


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_no_changed_byte_of_a_partition_file_is_silently_wrong(mask: int) -> None:
    disk = with_snapshot()
    path = file_path(1, 3)
    content = disk.read(path)
    others = {key: what for key, what in held(looked_at(disk.killed())).items() if what[0] != 3}
    for at in range(0, len(content), 5):
        changed = bytearray(content)
        changed[at] ^= mask
        damaged = disk.killed()
        damaged.write(path, [bytes(changed)])
        found = looked_at(damaged)
        # The log on top of it is read; what the file held is not.
        assert held(found) == {**others, **replayed([record(99)])}
        assert found.quarantined == found.doubted == {3} and not found.suspect
    aside = damaged.read(f"quarantine/{path.replace('/', '-')}")
    assert aside == bytes(changed), "it is kept for people"


def test_no_changed_byte_of_the_manifest_is_believed() -> None:
    disk = with_snapshot()
    path = f"{directory(1)}/{MANIFEST}"
    content = disk.read(path)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0x01
        damaged = disk.killed()
        damaged.write(path, [bytes(changed)])
        found = looked_at(damaged)
        assert held(found) == replayed([record(99)])
        assert found.suspect and found.notes, "the log does not begin where nothing was"


def test_a_damaged_manifest_with_the_whole_log_costs_nothing() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append(RECORDS)
    taking = store.begin_snapshot()
    taking.write(0, RECORDS[:1])
    taking.finish()
    disk.write(f"{directory(1)}/{MANIFEST}", [b"?"])
    found = looked_at(disk.killed())
    assert held(found) == TRUTH and found.complete


def test_a_missing_a_longer_and_a_swapped_file_are_noticed() -> None:
    for change in ("missing", "longer", "shorter", "swapped", "directory"):
        disk = with_snapshot()
        path = file_path(1, 3)
        content = disk.read(path)
        disk.remove(path)
        if change == "longer":
            disk.write(path, [content, b"\0"])
        elif change == "shorter":
            disk.write(path, [content[:-1]])
        elif change == "swapped":
            disk.write(path, [disk.read(file_path(1, 4))])
        elif change == "directory":
            disk.make_dir(path)
        found = looked_at(disk)
        assert found.quarantined == {3} and not found.suspect, change


def test_a_file_that_no_manifest_names_is_not_read() -> None:
    disk = MemoryDisk()
    store = started(disk)
    store.append([record(1)])
    taken(store, [record(1)])
    disk.write(file_path(1, 2), [disk.read(file_path(1, 1))])
    assert held(looked_at(disk.killed())) == replayed([record(1)])


@pytest.mark.parametrize(
    "name",
    [
        "../p00001.arrow",
        "/etc/passwd",
        "p00001.arrow/../../IDENTITY",
        "p1.arrow",
        "p00001.arrow\n",
        "p99999.arrow",
        "",
    ],
)
def test_a_manifest_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    disk = RealDisk(tmp_path)
    store = started(disk)
    store.append(RECORDS)
    taken(store)
    store.append([record(99)])
    store.cut_log()
    content = unseal(disk.read(f"{directory(1)}/{MANIFEST}"))
    content["files"][name] = content["files"]["p00001.arrow"]
    write_sealed(disk, f"{directory(1)}/{MANIFEST}", content)
    with pytest.raises(DamagedFileError):
        read_manifest(disk, OWNER, PARTITIONS, 1)
    disk.close()
    assert looked_at(RealDisk(tmp_path)).suspect


def test_links_instead_of_files_are_not_followed(tmp_path: Path) -> None:
    node, outside = tmp_path / "node", tmp_path / "outside"
    disk = RealDisk(node)
    store = started(disk)
    store.append(RECORDS)
    taken(store)
    store.close()
    store = started(RealDisk(node))
    store.cut_log()
    store.close()
    (node / directory(1)).rename(outside)
    (node / directory(1)).symlink_to(outside)
    before = sorted(outside.iterdir())
    assert looked_at(RealDisk(node)).suspect
    assert sorted(outside.iterdir()) == before
    shutil.rmtree(node / "quarantine", ignore_errors=True)
    outside.rename(node / directory(1))
    secret = node / directory(1) / "p00003.arrow"
    secret.rename(tmp_path / "secret")
    secret.symlink_to(tmp_path / "secret")
    assert looked_at(RealDisk(node)).quarantined == {3}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"cluster_id": "00" * 16},
        {"node_id": "00" * 8},
        {"partitions": 16},
        {"generation": 7},
        {"files": []},
        {"files": {"p00001.arrow": [1, 2]}},
        {"files": {"p00001.arrow": 7}},
        {"position": "far"},
        {"position": None},
    ],
)
def test_a_manifest_of_something_else_is_refused(change: dict[str, object]) -> None:
    disk = with_snapshot()
    path = f"{directory(1)}/{MANIFEST}"
    disk.write(path, [seal({**_content(disk.read(path)), **change})])
    with pytest.raises(DamagedFileError):
        read_manifest(disk, OWNER, PARTITIONS, 1)
    assert looked_at(disk).suspect


def test_declared_sizes_are_compared_before_anything_is_read() -> None:
    disk = with_snapshot()
    path = f"{directory(1)}/{MANIFEST}"
    content = _content(disk.read(path))
    content["files"]["p00003.arrow"][0] = 1 << 50
    disk.write(path, [seal(content)])
    generation = read_manifest(disk, OWNER, PARTITIONS, 1)
    with pytest.raises(DamagedFileError, match="another length"):
        read_partition(disk, generation, 3)
    content["files"]["p00004.arrow"][2] += 1
    disk.write(path, [seal(content)])
    with pytest.raises(DamagedFileError, match="other records"):
        read_partition(disk, read_manifest(disk, OWNER, PARTITIONS, 1), 4)


def _content(sealed: bytes) -> dict[str, object]:
    return unseal(sealed)


# ---- Arrow from elsewhere


def test_only_our_schema_uncompressed_is_read() -> None:
    batch = snapshots._batch(columns_of(RECORDS))
    assert len(read_arrow(arrow_file([batch, batch])).keys) == 2 * len(RECORDS)
    renamed = batch.rename_columns(["partition", "key", "value", "hints"])
    bare = pa.RecordBatch.from_arrays(batch.columns, names=SCHEMA.names)
    words = pa.array([b"a", b"a"]).dictionary_encode()
    coded = pa.RecordBatch.from_arrays([words], names=["key"])
    for content in (
        arrow_file([renamed], renamed.schema),
        arrow_file([bare], bare.schema),
        arrow_file([coded], coded.schema),
        arrow_file([batch], compression="zstd"),
        arrow_file([batch], compression="lz4"),
        b"",
        b"ARROW1\0\0",
        b"PAR1" * 100,
    ):
        with pytest.raises(MalformedBatchError):
            read_arrow(content)


def test_a_null_where_none_may_be_is_refused() -> None:
    batch = snapshots._batch(columns_of(RECORDS[:1]))
    none, missing = pa.array([None], pa.binary()), pa.array([None], pa.uint32())
    partition, key, state, hints = batch.columns
    for columns in ([partition, none, state, hints], [missing, key, state, hints]):
        with pytest.raises(MalformedBatchError):
            read_arrow(arrow_file([pa.RecordBatch.from_arrays(columns, schema=SCHEMA)]))


def test_a_small_file_that_would_inflate_to_a_gigabyte_is_not_inflated() -> None:
    zeros = pa.array([bytes(1 << 20)] * 64, pa.binary())
    batch = pa.RecordBatch.from_arrays(
        [pa.array(range(64), pa.uint32()), zeros, zeros, zeros], schema=SCHEMA
    )
    content = arrow_file([batch], compression="zstd")
    assert len(content) < 100_000
    before = pa.total_allocated_bytes()
    with pytest.raises(MalformedBatchError, match="compressed"):
        read_arrow(content)
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_no_changed_byte_of_an_arrow_file_is_more_than_refused() -> None:
    content = arrow_file([snapshots._batch(columns_of(RECORDS[:5]))])
    for at in range(len(content)):
        for mask in (0x01, 0x80):
            changed = bytearray(content)
            changed[at] ^= mask
            try:
                read_arrow(bytes(changed))
            except MalformedBatchError:
                continue


def test_what_is_stopped_midway_is_unfinished() -> None:
    disk = with_snapshot()
    store = started(disk)
    taking = store.begin_snapshot()
    disk.stop_at = 1
    with pytest.raises(Stopped):
        taking.write(0, RECORDS)
    assert held(looked_at(disk.killed())) == {**TRUTH, **replayed([record(99)])}
