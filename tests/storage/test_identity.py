"""Whose directory it is, who is refused, and that no writer id is ever used twice (rule 2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.storage import identity as identities
from dynamo_ray.storage.disk import Disk, RealDisk
from dynamo_ray.storage.errors import (
    DamagedFileError,
    DamagedIdentityError,
    DirectoryInUseError,
    DirectoryRefusedError,
    ForeignDirectoryError,
    NewerFormatError,
    WriteFailedError,
)
from dynamo_ray.storage.frames import SEGMENT_BYTES
from dynamo_ray.storage.identity import Identity, next_incarnation
from dynamo_ray.storage.log import segment_path
from dynamo_ray.storage.sealed import seal, unseal, write_sealed
from dynamo_ray.storage.store import Store
from tests.storage.disks import BYTES_LEFT, NAMES_LEFT, MemoryDisk, Stopped
from tests.storage.stores import NODE, OTHER, RANDOM8, looked_at, opening, record, started


def used(disk: Disk) -> None:
    """Live in the directory once, with one record."""
    store = started(disk)
    store.append([record(0)])
    store.close()


# ---- incarnations


def test_an_incarnation_is_the_wall_time_and_eight_random_bytes() -> None:
    store = started(MemoryDisk())
    made = store.new_incarnation(0x0123456789AB, b"12345678")
    assert made == bytes.fromhex("0123456789ab") + b"12345678" and len(made) == 14


def test_incarnations_only_rise_over_restarts_and_clocks_that_go_back() -> None:
    disk = MemoryDisk()
    made = []
    for now_ms in (5_000, 4_000, 0, 5_001, 9_000):
        store = Store.open(disk, opening())
        store.recover()
        made += [store.new_incarnation(now_ms, RANDOM8), store.new_incarnation(now_ms, RANDOM8)]
        disk = disk.killed()
    assert made == sorted(set(made))
    times = [int.from_bytes(one[:6], "big") for one in made]
    assert times == [5_000, 5_001, 5_002, 5_003, 5_004, 5_005, 5_006, 5_007, 9_000, 9_001]


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**60), st.binary(min_size=8, max_size=8))
def test_law_the_next_incarnation_is_greater_and_fits(last: int, now: int, chance: bytes) -> None:
    before = last.to_bytes(6, "big") + b"\xff" * 8
    after = next_incarnation(before, now, chance)
    assert len(after) == 14 and after[6:] == chance
    assert after[:6] > before[:6] or last == identities.LAST_MS


def test_an_incarnation_is_durable_before_it_is_known() -> None:
    disk = MemoryDisk()
    store = Store.open(disk, opening())
    store.recover()
    disk.calls.clear()
    made = store.new_incarnation(7, RANDOM8)
    assert disk.calls[:4] == [
        "write IDENTITY.new",
        "sync IDENTITY.new",
        "rename IDENTITY",
        "sync_dir ",
    ]
    for how in BYTES_LEFT:
        for names in NAMES_LEFT:
            assert Store.open(disk.unplugged(names, how), opening()).identity.incarnation == made


def test_an_incarnation_that_no_crash_lets_be_used_twice() -> None:
    for stop in range(1, 5):
        for names in NAMES_LEFT:
            for how in BYTES_LEFT:
                disk = MemoryDisk()
                store = started(disk)
                first = store.identity.incarnation
                disk.stop_at = stop
                with pytest.raises(Stopped):
                    store.new_incarnation(2_000, RANDOM8)
                later = started(disk.unplugged(names, how), boot_id="boot 2")
                assert later.identity.incarnation > first


def test_a_full_disk_gives_no_incarnation_and_keeps_the_last() -> None:
    disk = MemoryDisk()
    store = started(disk)
    before = store.identity
    disk.room = 10
    with pytest.raises(WriteFailedError):
        store.new_incarnation(9_000, RANDOM8)
    assert store.identity == before
    disk.room = None
    assert store.new_incarnation(9_000, RANDOM8) > before.incarnation


# ---- who is refused


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"cluster_id": b"D" * 16}, ForeignDirectoryError, "belongs to cluster 4343"),
        ({"node_id": OTHER}, ForeignDirectoryError, "belongs to node 'n1'"),
        ({"partitions": 16}, ForeignDirectoryError, "made for 8 partitions, not for 16"),
    ],
)
def test_a_directory_of_somebody_else_is_refused_and_left_alone(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], says: str
) -> None:
    used(RealDisk(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.name != "LOCK"}
    with pytest.raises(error, match=says) as refused:
        Store.open(RealDisk(tmp_path), opening(**changes))
    assert str(tmp_path) in str(refused.value) and "; " in str(refused.value)
    assert before == {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.name != "LOCK"
    }
    Store.open(RealDisk(tmp_path), opening()).close()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    store = Store.open(RealDisk(tmp_path), opening())
    with pytest.raises(DirectoryInUseError, match="stop that node first"):
        Store.open(RealDisk(tmp_path), opening())
    store.close()
    Store.open(RealDisk(tmp_path), opening()).close()


def test_a_newer_format_is_refused_not_misread() -> None:
    disk = MemoryDisk()
    used(disk)
    content = unseal(disk.read("IDENTITY"))
    content.pop("checksum", None)
    newer = disk.killed()
    write_sealed(newer, "IDENTITY", {**content, "format": 2, "more": []})
    with pytest.raises(NewerFormatError, match="newer version"):
        Store.open(newer, opening())
    newer = disk.killed()
    header = bytearray(newer.read(segment_path(1))[:SEGMENT_BYTES])
    header[8:10] = b"\0\2"
    header[-4:] = crc32(header[:-4]).to_bytes(4, "big")
    newer.write(segment_path(2), [bytes(header)])
    with pytest.raises(NewerFormatError, match="format 2"):
        Store.open(newer, opening())


def test_no_changed_byte_of_the_identity_is_read_as_another() -> None:
    disk = MemoryDisk()
    used(disk)
    content = disk.read("IDENTITY")
    for at in range(len(content)):
        for mask in (0x01, 0x20, 0x80):
            changed = bytearray(content)
            changed[at] ^= mask
            damaged = disk.killed()
            damaged.write("IDENTITY", [bytes(changed)])
            with pytest.raises(DamagedIdentityError, match="replace the node"):
                Store.open(damaged, opening())


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff", seal({}), seal({"format": "1"})],
)
def test_what_is_no_identity_is_refused(content: bytes) -> None:
    disk = MemoryDisk()
    used(disk)
    disk.write("IDENTITY", [content])
    with pytest.raises(DamagedIdentityError):
        Store.open(disk, opening())


@pytest.mark.parametrize(
    "change", [{"partitions": "8"}, {"created_ms": 1.5}, {"doubted": [1, 1]}, {"more": 1}]
)
def test_an_identity_with_other_fields_is_refused(change: dict[str, object]) -> None:
    disk = MemoryDisk()
    used(disk)
    disk.write("IDENTITY", [seal({**unseal(disk.read("IDENTITY")), **change})])
    with pytest.raises(DamagedIdentityError, match="fields"):
        Store.open(disk, opening())


def test_an_identity_that_is_gone_is_not_replaced_by_a_new_one() -> None:
    disk = MemoryDisk()
    used(disk)
    disk.remove("IDENTITY")
    with pytest.raises(DamagedIdentityError, match="no IDENTITY"):
        Store.open(disk, opening())


def test_a_refusal_lets_go_of_the_lock() -> None:
    disk = MemoryDisk()
    used(disk)
    for wrong in (opening(cluster_id=b"D" * 16), opening(node_id=OTHER)):
        with pytest.raises(DirectoryRefusedError):
            Store.open(disk, wrong)
    assert not disk.locked


# ---- new nodes


def test_an_empty_directory_takes_the_id_it_is_given_or_a_fresh_one() -> None:
    assert Store.open(MemoryDisk(), opening()).identity.node_id == NODE
    assert Store.open(MemoryDisk(), opening(node_id=OTHER)).identity.node_id == OTHER
    disk = MemoryDisk()
    used(disk)
    assert Store.open(disk, opening(fresh_id=OTHER)).identity.node_id == NODE
    disk.close()
    assert Store.open(disk, opening(node_id=NODE, name="renamed")).identity.node_id == NODE


def test_an_empty_directory_is_complete_only_at_the_first_start() -> None:
    assert looked_at(MemoryDisk()).complete
    lost = MemoryDisk()
    assert looked_at(lost, first_start=False).doubted == frozenset(range(8))
    assert looked_at(lost).doubted == frozenset(range(8)), "it stays so"


def test_a_crash_at_the_first_start_is_a_first_start_again() -> None:
    for stop in range(1, 9):
        for names in NAMES_LEFT:
            for how in BYTES_LEFT:
                disk = MemoryDisk()
                disk.stop_at = stop
                with pytest.raises(Stopped):
                    Store.open(disk, opening())
                assert looked_at(disk.unplugged(names, how)).complete


# ---- sealed files


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_law_what_was_sealed_is_unsealed(content: dict[str, object]) -> None:
    content.pop("checksum", None)
    assert unseal(seal(content)) == content


def test_a_sealed_file_is_text_that_people_can_read() -> None:
    disk = MemoryDisk()
    used(disk)
    text = disk.read("IDENTITY").decode()
    assert '"name": "n1"' in text and '"node_id": "4e4e4e4e4e4e4e4e"' in text


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + b" ",
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b'"a": 1', b'"a": 1.0'),
        lambda text: text.replace(b'"a": 1', b'"a": 2, "a": 1'),
    ],
)
def test_nothing_but_the_sealed_bytes_is_unsealed(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DamagedFileError):
        unseal(change(seal({"a": 1})))


def test_an_identity_has_no_field_that_is_not_kept() -> None:
    disk = MemoryDisk()
    whole = Identity(
        b"C" * 16, NODE, "n1", 8, 5, b"i" * 14, "boot", "synced", doubted=frozenset({1, 7})
    )
    identities.save(disk, whole)
    assert identities.load(disk) == whole
