"""Files that somebody put there on purpose: refused by name, in bounded memory, nothing followed.

Most have checksums that fit, as whoever can write to the directory can make them. A start still
does not fail on them, and verifying names each.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dynamo_ray.storage import recovery
from dynamo_ray.storage import snapshot as snapshots
from dynamo_ray.storage.codec import SCHEMA, Record, columns_of
from dynamo_ray.storage.disk import RealDisk
from dynamo_ray.storage.errors import (
    DamagedFileError,
    DamagedIdentityError,
    DirectoryRefusedError,
    MalformedBatchError,
    NewerFormatError,
    ReadFailedError,
    StorageError,
)
from dynamo_ray.storage.examine import examine
from dynamo_ray.storage.log import segment_path
from dynamo_ray.storage.mend import mend
from dynamo_ray.storage.sealed import seal, unseal
from dynamo_ray.storage.snapshot import MANIFEST, directory, file_path, read_arrow, read_manifest
from dynamo_ray.storage.store import Store
from tests.storage.disks import MemoryDisk
from tests.storage.stores import (
    OWNER,
    PARTITIONS,
    RANDOM8,
    held,
    looked_at,
    opening,
    started,
    written_by_a_node,
)

RECORDS = [written_by_a_node(n) for n in range(10)]
MANIFEST_PATH = f"{directory(1)}/{MANIFEST}"
TERABYTE = 1 << 40


def fill(disk: Any, cluster_id: bytes = OWNER.cluster_id) -> None:
    """A node's life: a snapshot, the log gone, one record since."""
    store = started(disk, cluster_id=cluster_id)
    store.append(RECORDS)
    taking = store.begin_snapshot()
    for partition in range(PARTITIONS):
        taking.write(partition, [one for one in RECORDS if one.partition == partition])
    taking.finish()
    store.append([written_by_a_node(20)])
    store.cut_log()
    store.close()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    fill(RealDisk(tmp_path / "node"))
    return tmp_path / "node"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(b"mine")
    yield folder
    assert [one.name for one in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == b"mine"


@contextmanager
def little_memory(most: int = 32 << 20) -> Iterator[None]:
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
        assert pa.total_allocated_bytes() - arrow < most
    finally:
        tracemalloc.stop()


def manifest_with(disk: MemoryDisk, **changes: Any) -> MemoryDisk:
    """The same disk with other fields in its manifest, sealed again."""
    other = disk.killed()
    content = unseal(disk.read(MANIFEST_PATH))
    other.write(MANIFEST_PATH, [seal({**content, **changes})])
    return other


def partition_with(disk: MemoryDisk, content: bytes, records: int) -> MemoryDisk:
    """The same disk with another file of partition 0, and a manifest that vouches for it."""
    checksum = blake2b(content, digest_size=16).hexdigest()
    files = unseal(disk.read(MANIFEST_PATH))["files"]
    files = {**files, "p00000.arrow": [len(content), checksum, records]}
    other = manifest_with(disk, files=files)
    other.write(file_path(1, 0), [content])
    return other


@pytest.fixture(scope="module")
def memory() -> MemoryDisk:
    disk = MemoryDisk()
    fill(disk)
    return disk.killed()


# ---- files that are longer than what they hold, or no files


@pytest.mark.parametrize("name", ["log", "partition", "manifest", "IDENTITY", "REACHED"])
def test_a_file_that_claims_a_terabyte_is_not_read(node: Path, name: str) -> None:
    paths = {
        "log": max(path.name for path in node.glob("log-*")),
        "partition": file_path(1, 0),
        "manifest": MANIFEST_PATH,
    }
    path = paths.get(name, name)
    os.truncate(node / path, TERABYTE)
    with little_memory():
        if name == "IDENTITY":
            with pytest.raises(DamagedIdentityError, match=name):
                examine(RealDisk(node, create=False), opening())
        else:
            damages = examine(RealDisk(node, create=False), opening()).damages
            assert any(one.path == path for one in damages)
            assert looked_at(RealDisk(node)).doubted
    held_now = sum(one.stat().st_blocks for one in node.rglob("*")) * 512
    assert held_now < 1 << 20, "and it was not copied to the quarantine"


def test_a_segment_is_read_up_to_a_bound(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = max(node.glob("log-*"))
    size = last.stat().st_size
    monkeypatch.setattr(recovery, "SEGMENT_BYTES_READ", size)
    with last.open("ab") as file:
        file.write(b"x" * 1000)
    found = looked_at(RealDisk(node))
    assert found.suspect and written_by_a_node(20).key in held(found)
    assert any("longer than any" in note for note in found.notes)
    assert last.stat().st_size == size + 1000, "nothing of it is cut"


def test_a_hollow_file_is_refused_and_a_full_one_is_not(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "node")
    disk.write("hollow", [b"x"])
    os.truncate(tmp_path / "node" / "hollow", TERABYTE)
    with (
        little_memory(),
        pytest.raises(ReadFailedError, match=r"hollow .*claims 1,099,511,627,776"),
    ):
        disk.read("hollow")
    assert disk.read("hollow", 0, 10) == b"x" + bytes(9), "a part of it can be"
    with little_memory(1 << 20):
        disk.write("short", [b"abc"])
        assert disk.read("short", 1, TERABYTE) == b"bc"


LINKS = ["log", "partition", "manifest", "snapshot", "quarantine", "REACHED", "VIEW"]


def place_of(node: Path, name: str) -> Path:
    return {
        "log": max(node.glob("log-*")),
        "partition": node / file_path(1, 0),
        "manifest": node / MANIFEST_PATH,
        "snapshot": node / directory(1),
    }.get(name, node / name)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", LINKS)
def test_what_is_no_plain_file_is_not_followed_and_can_be_repaired(
    node: Path, outside: Path, name: str, kind: str
) -> None:
    path = place_of(node, name)
    if path.exists():
        path.rename(node.parent / "moved away")
    make: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(
            outside if name in ("snapshot", "quarantine") else outside / "file"
        ),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    is_harmless = (name, kind) in {("quarantine", "folder"), ("snapshot", "folder")}
    disk = RealDisk(node, create=False)
    damages = examine(disk, opening()).damages
    disk.close()
    if name not in ("quarantine", "snapshot"):
        relative = str(path.relative_to(node))
        assert any(one.path == relative for one in damages), damages
    if name == "quarantine" and not is_harmless:
        (node / file_path(1, 0)).write_bytes(b"damaged")
        with pytest.raises(StorageError, match="quarantine"):
            mend(RealDisk(node), opening(), RANDOM8)
        assert (node / file_path(1, 0)).read_bytes() == b"damaged"
        return
    mend(RealDisk(node), opening(), RANDOM8)
    assert examine(RealDisk(node, create=False), opening()).damages == []


@pytest.mark.parametrize("name", ["IDENTITY", "LOCK"])
def test_a_link_instead_of_identity_or_lock_is_refused(
    node: Path, outside: Path, name: str
) -> None:
    (node / name).unlink()
    (node / name).symlink_to(outside / "file")
    with pytest.raises(StorageError, match=name):
        Store.open(RealDisk(node), opening())


# ---- IDENTITY and MANIFEST with checksums that fit


@pytest.mark.parametrize(
    "changes",
    [
        {"partitions": 0},
        {"partitions": -1},
        {"partitions": 10**12},
        {"doubted": [8]},
        {"doubted": [-1]},
        {"node_id": "00"},
        {"cluster_id": ""},
        {"cluster_id": "00" * 40},
        {"incarnation": "00"},
        {"created_ms": -1},
        {"created_ms": 10**30},
        {"durability": "some"},
    ],
)
def test_an_identity_out_of_range_is_refused_by_name(
    memory: MemoryDisk, changes: dict[str, Any]
) -> None:
    disk = memory.killed()
    disk.write("IDENTITY", [seal({**unseal(disk.read("IDENTITY")), **changes})])
    with little_memory(), pytest.raises(DamagedIdentityError, match="IDENTITY is damaged"):
        Store.open(disk, opening())


@pytest.mark.parametrize(
    "changes",
    [
        {"position": -1},
        {"position": 1 << 70},
        {"position": True},
        {"position": "3"},
        {"segment": -1},
        {"segment": 1 << 64},
        {"files": {"../../outside/file": [4, "", 1]}},
        {"files": {"/etc/passwd": [4, "", 1]}},
        {"files": {"p00001.arrow/../../IDENTITY": [4, "", 1]}},
        {"files": {"p00001.arrow\n": [4, "", 1]}},
        {"files": {f"p{n:05d}.arrow": [4, "", 1] for n in range(500)}},
        {"files": {"p00001.arrow": [-4, "", 1]}},
        {"files": {"p00001.arrow": [4, "", 1 << 64]}},
        {"files": {"p00001.arrow": [4, "", 1, 1]}},
        {"files": {"p00001.arrow": [[[]], {}, None]}},
    ],
)
def test_a_manifest_out_of_range_is_refused_by_name(
    memory: MemoryDisk, changes: dict[str, Any]
) -> None:
    disk = manifest_with(memory, **changes)
    with little_memory():
        with pytest.raises(DamagedFileError):
            read_manifest(disk, OWNER, PARTITIONS, 1)
        found = looked_at(disk)
    assert found.suspect and MANIFEST_PATH in [one.path for one in found.damages]
    assert all(
        path.startswith(("quarantine/", "log-")) or "/" not in path or path in memory.now
        for path in disk.contents()
    )


def test_a_newer_manifest_is_refused_not_set_aside(memory: MemoryDisk) -> None:
    disk = manifest_with(memory, format=2)
    before = disk.contents()
    with pytest.raises(NewerFormatError, match=r"MANIFEST was written in format 2"):
        Store.open(disk, opening())
    assert disk.contents() == before


def test_a_snapshot_of_another_cluster_is_not_read(memory: MemoryDisk) -> None:
    stranger = MemoryDisk()
    fill(stranger, cluster_id=b"D" * 16)
    disk = memory.killed()
    disk.make_dir(directory(7))
    for name in stranger.names(directory(1)):
        disk.write(f"{directory(7)}/{name}", [stranger.read(f"{directory(1)}/{name}")])
    found = looked_at(disk)
    assert held(found) == held(looked_at(memory.killed())) and found.complete
    assert [one.path for one in found.damages] == [f"{directory(7)}/{MANIFEST}"]
    with pytest.raises(DirectoryRefusedError, match="belongs to cluster"):
        Store.open(stranger, opening())


# ---- Arrow files with checksums that fit


def as_file(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    settings = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_file(sink, table.schema, options=settings) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def rows_as_arrow() -> pa.Table:
    return pa.Table.from_batches(
        [snapshots._batch(columns_of([one for one in RECORDS if one.partition == 0]))]
    )


def deep(levels: int) -> pa.DataType:
    kind = pa.binary()
    for _ in range(levels):
        kind = pa.list_(kind)
    return kind


STRANGE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "cut": lambda: as_file(rows_as_arrow())[:300],
    "dictionaries": lambda: as_file(pa.table({"key": pa.array([b"a", b"a"]).dictionary_encode()})),
    "nested": lambda: as_file(pa.table({"key": pa.array([None], deep(40))})),
    "huge metadata": lambda: as_file(
        rows_as_arrow().replace_schema_metadata({"dynamo_ray.format": "1", "more": "x" * 10**7})
    ),
    "many columns": lambda: as_file(pa.table({f"c{n}": pa.array([1]) for n in range(500)})),
    "compressed": lambda: as_file(
        pa.Table.from_arrays(
            [
                pa.array([0], pa.uint32()),
                *[pa.array([bytes(100 << 20)], pa.binary())] * 1,
                *[pa.array([b""], pa.binary())] * 2,
            ],
            schema=SCHEMA,
        ),
        compression="zstd",
    ),
    "hints of odd length": lambda: as_file(
        pa.Table.from_batches([snapshots._batch(columns_of([Record(0, b"k", b"s", b"odd")]))])
    ),
    "of another partition": lambda: as_file(
        pa.Table.from_batches([snapshots._batch(columns_of([Record(3, b"k", b"s", b"")]))])
    ),
}


@pytest.mark.parametrize("what", STRANGE)
def test_an_arrow_file_of_another_kind_is_refused_by_name(memory: MemoryDisk, what: str) -> None:
    disk = partition_with(memory, STRANGE[what](), 1)
    with little_memory(64 << 20):
        found = looked_at(disk)
    assert found.quarantined == {0} and not found.suspect
    assert [one.path for one in found.damages] == [file_path(1, 0)]


def test_no_number_in_an_arrow_file_makes_it_reach_for_memory() -> None:
    content = as_file(rows_as_arrow())
    with little_memory():
        for at in range(8, len(content) - 8, 4):
            for value in (-1, -(2**63), 2**31, 2**40, 2**62):
                forged = bytearray(content)
                struct.pack_into("<q", forged, at, value)
                try:
                    read_arrow(bytes(forged))
                except MalformedBatchError:
                    continue


def test_a_segment_that_is_a_copy_of_a_snapshot_is_no_log(node: Path) -> None:
    last = max(node.glob("log-*"))
    last.write_bytes((node / file_path(1, 0)).read_bytes())
    found = looked_at(RealDisk(node))
    assert found.suspect and segment_path(2) in [one.path for one in found.damages]
