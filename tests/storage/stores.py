"""What the tests of storage share: a node's opening, records, and what a recovery should hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.version import Kind, State, Version, encode
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.frames import Owner
from dynamo_ray.storage.ownership import Opening
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.store import Store

CLUSTER, NODE, OTHER = b"C" * 16, b"N" * 8, b"O" * 8
OWNER = Owner(CLUSTER, NODE)
PARTITIONS = 8
WRITER = b"w" * 30
RANDOM8 = b"r" * 8
Held = dict[bytes, tuple[int, bytes]]


def opening(**changes: Any) -> Opening:
    """A node's opening in its first boot."""
    usual = {
        "cluster_id": CLUSTER,
        "node_id": None,
        "fresh_id": NODE,
        "name": "n1",
        "partitions": PARTITIONS,
        "durability": "written",
        "boot_id": "boot 1",
        "now_ms": 1_000,
        "first_start": True,
    }
    return Opening(**{**usual, **changes})


def recovered(disk: Disk, segment_bytes: int = 1 << 20, **changes: Any) -> tuple[Store, Recovery]:
    """A store that has read its directory."""
    store = Store.open(disk, opening(**changes), segment_bytes=segment_bytes)
    return store, store.recover()


def started(disk: Disk, segment_bytes: int = 1 << 20, **changes: Any) -> Store:
    """A store that takes records."""
    store, _ = recovered(disk, segment_bytes, **changes)
    store.new_incarnation(1_000, RANDOM8)
    return store


def looked_at(disk: Disk, **changes: Any) -> Recovery:
    """What a start finds; the directory is let go of as a killed process would."""
    _, found = recovered(disk, **changes)
    disk.close()
    return found


def record(n: int, size: int = 40) -> Record:
    """The n-th record of a test: a key of its own, and a state that only it has."""
    return Record(n % PARTITIONS, b"key %d" % n, (b"state %d " % n).ljust(size, b"."), b"")


def written_by_a_node(n: int, value: bytes = b"", kind: Kind = Kind.VALUE) -> Record:
    """A record as a node writes it: its key lies in its partition, its state is canonical."""
    key, dot = b"key %d" % n, Dot(WRITER, n + 1)
    payload = b"" if kind == Kind.TOMBSTONE else value or b"value %d" % n
    version = Version(dot, kind, 1_000 + n, 0, n.to_bytes(16, "big"), payload)
    state = encode(State(Clock({WRITER: n + 1}), (version,)))
    return Record(partition_of(key, PARTITIONS), key, state, b"")


def silently_wrong(found: Recovery, truth: Held, ever: Iterable[Record]) -> list[bytes]:
    """The keys that are not as they should be, in partitions that nobody doubts."""
    got = held(found)
    places = {key: partition for partition, key, _, _ in ever}
    made_up = {(key, *what) for key, what in got.items()} - {(k, p, s) for p, k, s, _ in ever if s}
    assert not made_up, "nobody ever wrote this"
    wrong = {key for key in {*got, *truth} if got.get(key) != truth.get(key)}
    return [key for key in wrong if places[key] not in found.doubted]


def held(found: Recovery) -> Held:
    """All keys with their partitions and states."""
    return {
        key: (partition, state)
        for partition, of in enumerate(found.maps)
        for key, state in of.items()
    }


def replayed(records: Iterable[Record]) -> Held:
    """What should be held after these records: the dumb twin of recovery."""
    after: Held = {}
    for partition, key, state, _ in records:
        if state is None:
            after.pop(key, None)
        else:
            after[key] = partition, state
    return after
