"""Every byte of a small directory is cut at and flipped: nothing is silently wrong or missing.

For each file of a node that was closed, and each place in it: the file ends there; one bit of the
byte there is flipped (another one at each place); the whole byte is. Whatever comes of it, what is
held was written once, and what is not held as it should be lies in partitions that are doubted, or
the start is refused. Each case is one overlay over one disk, so the whole matrix takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest

from dynamo_ray.core.version import Kind
from dynamo_ray.storage import sealed, snapshot
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.damage import NODE, PARTITIONS
from dynamo_ray.storage.errors import DamagedIdentityError
from dynamo_ray.storage.examine import examine
from dynamo_ray.storage.log import REACHED, segment_path
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.rehearsal import Rehearsal
from dynamo_ray.storage.snapshot import MANIFEST, directory
from dynamo_ray.storage.store import Store
from tests.storage.disks import MemoryDisk
from tests.storage.stores import (
    held,
    looked_at,
    opening,
    replayed,
    silently_wrong,
    started,
    written_by_a_node,
)

BEFORE = [written_by_a_node(n) for n in (3, 4, 5)]  # in partitions 1, 1 and 2
AFTER = [
    [written_by_a_node(3, b"newer")],
    [written_by_a_node(8), written_by_a_node(4, kind=Kind.TOMBSTONE)],
    [written_by_a_node(5)._replace(state=None), written_by_a_node(9)._replace(hints=b"node-abc")],
]
EVER = {*BEFORE, *(one for group in AFTER for one in group)}
TRUTH = replayed([*BEFORE, *(one for group in AFTER for one in group)])


def whole(after: list[list[Record]]) -> MemoryDisk:
    """A snapshot, the log since then in two segments (one if it is short), and a clean end."""
    disk = MemoryDisk()
    store = started(disk, segment_bytes=800)
    store.append(BEFORE)
    taking = store.begin_snapshot()
    for partition in {one.partition for one in BEFORE}:
        taking.write(partition, [one for one in BEFORE if one.partition == partition])
    taking.finish()
    for group in after:
        store.append(group)
    store.cut_log()
    store.close()
    return disk.killed()


@pytest.fixture(autouse=True)
def files_alike_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files but one are the same from case to case."""
    monkeypatch.setattr(sealed, "unseal", lru_cache(maxsize=64)(sealed.unseal))
    monkeypatch.setattr(snapshot, "read_arrow", lru_cache(maxsize=64)(snapshot.read_arrow))


DISK = whole(AFTER)
SHORT = whole(AFTER[:1])
FILES = sorted(path for path in DISK.contents() if path not in ("LOCK",))


def damaged(content: bytes) -> Iterator[tuple[str, int, bytes]]:
    """The file, cut and flipped at each of its places."""
    for at, byte in enumerate(content):
        yield "cut", at, content[:at]
        for how, mask in (("bit", 1 << at % 8), ("byte", 0xFF)):
            yield how, at, content[:at] + bytes([byte ^ mask]) + content[at + 1 :]


def started_with(path: str, content: bytes | None, disk: MemoryDisk = DISK) -> Recovery:
    """What a start finds if one file is other than it was written, or gone."""
    changed = Rehearsal(disk)
    changed.remove(path) if content is None else changed.write(path, [content])
    return looked_at(changed)


def test_the_directory_has_one_of_everything() -> None:
    assert held(looked_at(Rehearsal(DISK))) == TRUTH
    assert {"IDENTITY", REACHED, f"{directory(1)}/{MANIFEST}"} < set(FILES)
    assert sum(path.startswith("log-") for path in FILES) == 2
    assert sum(path.endswith(".arrow") for path in FILES) == 2
    assert examine(DISK, opening()).damages == []


@pytest.mark.parametrize("path", [path for path in FILES if path != "IDENTITY"])
def test_no_cut_and_no_flip_is_silently_wrong(path: str) -> None:
    # On top of a partition's file less log will do, and takes less time.
    disk, after = (SHORT, AFTER[:1]) if path.endswith(".arrow") else (DISK, AFTER)
    truth = replayed([*BEFORE, *(one for group in after for one in group)])
    for how, at, content in damaged(disk.read(path)):
        found = started_with(path, content, disk)
        assert not silently_wrong(found, truth, EVER), (how, at)
        assert found.damages or found.torn_bytes, (how, at, "nobody said so")
        costs = {one.cost for one in found.damages}
        assert found.suspect == (NODE in costs)
        assert bool(found.quarantined) == (PARTITIONS in costs)
    gone = started_with(path, None)
    assert not silently_wrong(gone, TRUTH, EVER) and gone.doubted, "a file that is gone is missed"


def test_no_cut_and_no_flip_of_the_identity_is_accepted() -> None:
    for _, _, content in damaged(DISK.read("IDENTITY")):
        with pytest.raises(DamagedIdentityError):
            started_with("IDENTITY", content)
    with pytest.raises(DamagedIdentityError):
        started_with("IDENTITY", None)


def test_a_partition_file_costs_its_partition_and_no_more() -> None:
    for path in FILES:
        if path.endswith(".arrow"):
            partition = int(path[-11:-6])
            for _, _, content in damaged(SHORT.read(path)[:50]):
                found = started_with(path, content, SHORT)
                assert found.doubted == found.quarantined == {partition}


def test_an_open_log_that_is_cut_ends_where_a_crash_can_have_ended_it() -> None:
    # Only a closed log says how far it had come. Of one that was not, a cut at the very end cannot
    # be told from a write that a crash tore: then what is held is what was held at some time.
    disk = MemoryDisk()
    store = started(disk)
    groups = [BEFORE, *AFTER[1:]]
    for group in groups:
        store.append(group)
    disk = disk.killed()
    log = segment_path(1)
    once = [replayed(one for group in groups[:n] for one in group) for n in range(4)]
    for at in range(disk.size(log)):
        changed = Rehearsal(disk)
        changed.truncate(log, at)
        found = looked_at(changed)
        assert held(found) in once
        assert found.torn_bytes or found.suspect or held(found) == TRUTH or found.position < 3


def test_two_damages_at_once_are_two() -> None:
    changed = Rehearsal(DISK)
    partition_file = next(path for path in FILES if path.endswith(".arrow"))
    last = max(path for path in FILES if path.startswith("log-"))
    for path in (partition_file, last):
        content = bytearray(DISK.read(path))
        content[90] ^= 4
        changed.write(path, [bytes(content)])
    found = Store.open(changed, opening()).recover()
    assert {one.path for one in found.damages} >= {partition_file, last}
    assert not silently_wrong(found, TRUTH, EVER)
