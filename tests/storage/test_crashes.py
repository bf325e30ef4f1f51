"""A node is killed or unplugged at each of its disk's changes: nothing durable is lost.

One life with everything in it (appends, syncs, a snapshot taken while appends go on, the log cut,
a clean end, a second start) is repeated, each time ending one step later. What must hold then:
recovery raises nothing; what it holds is what some number of the appends made, at least all that
were durable; what is not doubted is right; and the node goes on from there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import cache

import pytest

from dynamo_ray.storage.codec import Record
from tests.storage.disks import BYTES_LEFT, NAMES_LEFT, MemoryDisk, Stopped
from tests.storage.stores import (
    PARTITIONS,
    RANDOM8,
    held,
    looked_at,
    record,
    recovered,
    replayed,
    started,
)

SEGMENT = 1500
GROUPS = [
    [record(0), record(1)],
    [record(2)],
    [Record(1, b"key 1", b"newer", b"node-abc")],
    [record(3), record(4)],
    [Record(0, b"key 0", None, b"")],
    [record(5), record(6, size=200)],
    [Record(2, b"key 2", b"newest", b"")],
]


class Life:
    """What a node did until it was stopped: how many groups it appended, how many were durable."""

    def __init__(self, disk: MemoryDisk, durability: str) -> None:
        self.disk = disk
        self.durability = durability
        self.begun = 0
        self.appended = 0
        self.durable = 0
        self.incarnations: list[bytes] = []

    def run(self) -> None:
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        store, _ = recovered(self.disk, SEGMENT, durability=self.durability)
        self.incarnations.append(store.new_incarnation(1_000, RANDOM8))
        for group in GROUPS[:3]:
            self.append(store, group)
            yield
        self.sync(store)
        taking = store.begin_snapshot()
        for partition in range(PARTITIONS):
            if partition == 3:
                self.append(store, GROUPS[3])
            now = replayed(one for group in GROUPS[: self.appended] for one in group)
            kept = {b"key 1": b"node-abc"}
            taking.write(
                partition,
                [Record(p, k, s, kept.get(k, b"")) for k, (p, s) in now.items() if p == partition],
            )
            yield
        self.append(store, GROUPS[4])
        taking.finish()
        store.cut_log()
        yield
        self.append(store, GROUPS[5])
        self.sync(store)
        store.close()
        self.durable = self.appended
        store, found = recovered(self.disk, SEGMENT, durability=self.durability)
        assert found.complete
        self.incarnations.append(store.new_incarnation(1_000, RANDOM8))
        self.append(store, GROUPS[6])

    def append(self, store, group) -> None:  # type: ignore[no-untyped-def]
        self.begun += 1
        store.append(group)
        self.appended = self.begun

    def sync(self, store) -> None:  # type: ignore[no-untyped-def]
        store.sync()
        self.durable = self.appended


@cache
def lives(durability: str) -> list[tuple[int, Life]]:
    """The same life, ended at each step. What is left of its disk is a copy: it can be shared."""
    ended: list[tuple[int, Life]] = []
    while True:
        life = Life(MemoryDisk(), durability)
        life.disk.stop_at = stop = len(ended) + 1
        try:
            life.run()
        except Stopped:
            ended.append((stop, life))
        else:
            return ended


def states_after(least: int, most: int) -> list[dict[bytes, tuple[int, bytes]]]:
    return [replayed(one for group in GROUPS[:n] for one in group) for n in range(least, most + 1)]


def test_there_are_many_places_to_stop() -> None:
    assert len(lives("written")) > 70


def test_killed_anywhere_nothing_that_was_appended_is_lost() -> None:
    for stop, life in lives("written"):
        left = life.disk.killed()
        found = looked_at(left)
        assert held(found) in states_after(life.appended, life.begun), stop
        assert found.complete and not found.quarantined, (stop, found.notes)
        goes_on(left, life, "boot 1")


@pytest.fixture(scope="module")
def tried() -> set[Hashable]:
    """Where a life was stopped and what was left of its disk: most power losses leave the same."""
    return set()


@pytest.mark.parametrize("how", BYTES_LEFT)
@pytest.mark.parametrize("names", NAMES_LEFT)
def test_unplugged_anywhere_nothing_durable_is_lost(
    names: str, how: str, tried: set[Hashable]
) -> None:
    for stop, life in lives("synced"):
        left = life.disk.unplugged(names, how)
        case = stop, how == "garbage", frozenset(left.contents().items()), frozenset(left.now)
        if case in tried:
            continue
        found = looked_at(left, boot_id="boot 2", durability="synced")
        assert not found.suspect, (stop, found.notes)
        assert any(
            all(held(found).get(key) == what for key, what in truth.items() if sure(found, what))
            for truth in states_after(life.durable, life.begun)
        ), (stop, life.disk.calls[-1])
        if how != "garbage":
            assert found.complete and held(found) in states_after(life.durable, life.begun)
        goes_on(left, life, "boot 2")
        tried.add(case)


def sure(found, what) -> bool:  # type: ignore[no-untyped-def]
    """Whether the node vouches for what it holds there."""
    return what[0] not in found.doubted


def goes_on(left: MemoryDisk, life: Life, boot_id: str) -> None:
    """One more append, and a start that finds it; under an incarnation never seen before."""
    before = held(looked_at(left.killed(), boot_id=boot_id))
    store = started(left, boot_id=boot_id, durability="synced")
    assert store.identity.incarnation not in life.incarnations
    store.append([record(77)])
    assert held(looked_at(left.killed(), boot_id=boot_id)) == {**before, **replayed([record(77)])}


def test_a_power_loss_below_synced_is_doubted_wherever_it_comes() -> None:
    for stop, life in lives("written"):
        left = life.disk.unplugged("synced", "synced")
        found = looked_at(left, boot_id="boot 2")
        lost = life.appended > life.durable and held(found) not in states_after(
            life.appended, life.begun
        )
        assert not (lost and found.complete), stop
