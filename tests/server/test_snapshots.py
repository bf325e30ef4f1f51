"""Snapshots while serving: what is in one whatever happens between slices, when one is taken."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray.core.pace import BYTES_A_SECOND, LONGEST_S, rest_s
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Limits, Settings, Times
from dynamo_ray.server import snapshots, vault
from dynamo_ray.server.node import NodeServer
from dynamo_ray.server.snapshots import slice_of
from dynamo_ray.storage.codec import Columns
from dynamo_ray.storage.snapshot import NewSnapshot, file_path, read_arrow
from tests.server.loopback import Loopback, run, until

ONE = Settings(n=1, r=1, w=1, partitions=1)


def in_last_snapshot(node: NodeServer, partitions: int = 1) -> dict[bytes, tuple[bytes, bytes]]:
    """What the node's last snapshot holds: state and hints by key."""
    number = node.status()["snapshot"]["generation"]
    held: dict[bytes, tuple[bytes, bytes]] = {}
    for partition in range(partitions):
        path = file_path(number, partition)
        if node.vault._disk.exists(path):
            _, keys, states, hints = read_arrow(node.vault._disk.read(path))
            held |= {
                k: (s, h) for k, s, h in zip(keys, states, hints, strict=True) if s is not None
            }
            assert len(set(keys)) == len(keys)
    return held


def between_slices(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Do something on the loop before each slice is copied; it gets the slice's number."""
    real, number = slice_of, [0]

    def copy(replica: Replica, partition: int, keys: list[bytes]) -> tuple[Columns, int]:
        act(number[0])
        number[0] += 1
        return real(replica, partition, keys)

    monkeypatch.setattr(snapshots, "slice_of", copy)


def test_keys_that_change_come_and_go_between_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in's dict, while copies go home: deletions move what an iterator has not reached."""
    monkeypatch.setattr(snapshots, "SLICE_KEYS", 16)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client = await cluster.connect()
            node = cluster.nodes["n1"]
            await client.put_many({f"old:{i}": b"x" for i in range(400)})
            of = node.node.replica.maps[0]
            before = dict(of)

            def churn(number: int) -> None:
                for key in list(of)[:5]:  # forgotten, as after a hint was delivered
                    del of[key]
                for i in range(40):  # enough to make the dict move what it has
                    of[b"new:%d:%d" % (number, i)] = before[b"old:0"]
                of[b"old:399"] = before[b"old:398"]

            between_slices(monkeypatch, churn)
            written = await node.snapshot()
            assert written["files"] == 1 and written["records"] > 200
            held = in_last_snapshot(node)
            stayed = {key for key in before if key in of}
            assert stayed <= held.keys() <= before.keys(), "all that did not go, and nothing new"
            assert 100 < len(stayed) < 400
            assert held[b"old:399"] == (before[b"old:398"], b""), "as it was at its slice"

    run(story())


def test_hints_are_those_of_the_slice(tmp_path: Path) -> None:
    async def story() -> None:
        settings = Settings(partitions=4)
        async with Loopback(tmp_path, nodes=4, coordinators=1, settings=settings) as cluster:
            client = await cluster.connect()
            await cluster.kill_node("n1")
            await client.put_many({f"key:{i}": b"x" for i in range(200)})
            await until(lambda: cluster.hints() > 0)
            for node in cluster.nodes.values():
                await node.snapshot()
                held, hints = in_last_snapshot(node, 4), node.node.replica.hints
                assert {key: h for key, (_, h) in held.items() if h} == hints.of_key
            await cluster.kill_all()
            for name in ("n2", "n3", "n4"):
                node = await cluster.start_node(name)
                assert node.vault.recovery["records"] >= len(node.node.replica.hints)
            assert cluster.hints() > 0

    run(story())


def test_a_slice_is_bounded_in_keys_and_bytes() -> None:
    settings = Settings(partitions=2)
    large = snapshots.SLICE_BYTES // 4
    maps: list[dict[bytes, bytes]] = [{}, {b"%d" % i: bytes(large) for i in range(64)}]
    replica = Replica(bytes(8), settings, maps, frozenset())
    keys = list(maps[1])
    columns, looked_at = slice_of(replica, 1, keys)
    assert looked_at == 4 and columns == Columns([1] * 4, keys[:4], [bytes(large)] * 4, [])
    del maps[1][keys[1]]
    columns, looked_at = slice_of(replica, 1, keys)
    assert looked_at == 4 and columns.keys == [keys[0], *keys[2:4]]
    huge = {b"huge": bytes(8 * snapshots.SLICE_BYTES)}
    maps[0].update(huge)
    assert slice_of(replica, 0, [b"huge"])[0].states == list(huge.values())
    assert slice_of(replica, 0, [b"gone"]) == (Columns([], [], [], []), 1)


def test_law_slices_together_are_the_partition() -> None:
    maps: list[dict[bytes, bytes]] = [{b"%d" % i: os.urandom(i) for i in range(700)}]
    replica = Replica(bytes(8), ONE, maps, frozenset({0}))
    keys, at, seen = list(maps[0]), 0, {}
    while at < len(keys):
        columns, looked_at = slice_of(replica, 0, keys[at : at + 100])
        seen.update(zip(columns.keys, columns.states, strict=True))
        at += looked_at
    assert seen == maps[0]


def test_background_work_rests() -> None:
    assert rest_s(0.001, 0.001, 10) == pytest.approx(0.003), "a quarter of a core at most"
    assert rest_s(0.008, 0.001, 10) == pytest.approx(0.008), "half of the time with the disk"
    tenth = BYTES_A_SECOND // 10
    assert rest_s(0.001, 0.001, tenth) == pytest.approx(0.099), "and so many bytes a second"
    assert rest_s(60.0, 0.0, 1) == rest_s(0.0, 0.0, 2**40) == LONGEST_S, "and is done one day"
    assert rest_s(0.0, 0.0, 0) == 0


def test_it_rests_after_each_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def rest(took_s: float, on_core_s: float, size: int) -> float:
        assert took_s > 0 and on_core_s > 0
        sizes.append(size)
        return 0.02

    monkeypatch.setattr(snapshots, "rest_s", rest)
    monkeypatch.setattr(snapshots, "SLICE_KEYS", 100)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            await client.put_many({f"key:{i}": bytes(100) for i in range(1000)})
            written = await node.snapshot()
            assert written["seconds"] > 0.02 * len(sizes) and len(sizes) == 11
            assert sum(sizes) > 1000 * 100, "the bytes that were written"

    run(story())


def test_the_loop_is_free_between_the_slices_of_one_large_partition(tmp_path: Path) -> None:
    """Beside 60,000 keys in one partition others get their turn: the longest hold is told."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client = await cluster.connect()
            for at in range(0, 60_000, 5_000):
                await client.put_many({f"{i:016}": bytes(100) for i in range(at, at + 5_000)})
            node, turns = cluster.nodes["n1"], 0
            taking = node.snapshot()
            while not taking.done():
                await asyncio.sleep(0)
                turns += 1
            written = taking.result()
            assert written["records"] == 60_000 and turns > 60_000 / snapshots.SLICE_KEYS
            assert 0 < written["hold_ms"] < 100, "a bound for a busy machine; benchmarks tell more"
            assert node.status()["longest_hold_ms"] >= written["hold_ms"] - 0.1

    run(story())


# ---- when


def clocked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves on, for the vault alone."""
    ahead = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return time.monotonic() + ahead[0]

        time_ns = staticmethod(time.time_ns)

    monkeypatch.setattr(vault, "time", Clock)
    return ahead


def test_one_is_taken_by_age_if_anything_was_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = clocked(monkeypatch)
    settings = Settings(n=1, r=1, w=1, partitions=4, times=Times(snapshot_s=1000.0))

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=settings) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            maps = node.node.replica.maps
            ahead[0] += 2000
            assert not node.vault.wants_snapshot(maps), "nothing was appended"
            await client.put("key", b"x")
            await until(lambda: node.status()["snapshot"])
            assert node.status()["snapshot"]["records"] == 1 and node.vault.log_bytes == 0
            await client.put("key", b"y")
            assert not node.vault.wants_snapshot(maps), "it is young"
            await node.snapshot()
            ahead[0] += 2000
            assert not node.vault.wants_snapshot(maps), "nothing since"
            await cluster.stop_all()
            await cluster.start_all()
            node = cluster.nodes["n1"]
            ahead[0] += 2000
            assert not node.vault.wants_snapshot(maps), "a stop and a start are nothing to hold"

    run(story())


def test_one_is_taken_by_the_size_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "SNAPSHOT_BYTES", 200_000)

    async def story() -> None:
        settings = Settings(n=1, r=1, w=1, partitions=4)
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=settings) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            await client.put("key", bytes(100_000))
            await asyncio.sleep(0.3)
            assert node.status()["snapshot"] == {}
            for _ in range(3):
                await client.put("key", bytes(100_000))
            await until(lambda: node.status()["snapshot"])
            assert node.status()["snapshot"]["bytes"] > 100_000

    run(story())


def test_the_log_that_a_snapshot_holds_goes_once_no_retry_can_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = clocked(monkeypatch)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            await client.put("key", b"x")
            await node.snapshot()
            await client.put("key", b"y")
            old = tmp_path / "n1" / "log-0000000000000001.dynr"
            await asyncio.sleep(0.3)
            assert old.exists(), "put ids are remembered from it (rule 7)"
            ahead[0] += 15  # a mark of how far the log is comes every ten seconds
            await until(lambda: len(node.vault._marks) > 1)
            assert old.exists()
            ahead[0] += 130
            await until(lambda: not old.exists())
            await cluster.kill_all()
            await cluster.start_all()
            client = await cluster.connect()
            assert (await client.get("key")).value == b"y"

    run(story())


def test_who_asks_while_one_is_taken_waits_for_that(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            await client.put_many({f"key:{i}": b"x" for i in range(5000)})
            first, second = await asyncio.gather(node.snapshot(), node.snapshot())
            assert first == second and first["generation"] == 1
            assert (await node.snapshot())["generation"] == 2

    run(story())


# ---- when it cannot be finished


def test_an_append_that_fails_meanwhile_makes_it_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SLICE_KEYS", 50)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            await client.put_many({f"key:{i}": b"x" for i in range(500)})

            def void(number: int) -> None:
                taking = node.vault._store._taking
                if number == 3 and taking is not None:
                    taking.is_void = True

            between_slices(monkeypatch, void)
            assert "an append failed" in (await node.snapshot())["problem"]
            assert not list((tmp_path / "n1").glob("snap-*")) and node.status()["snapshot"] == {}
            monkeypatch.undo()
            assert (await node.snapshot())["records"] == 500

    run(story())


@pytest.mark.parametrize("when", ["writing", "resting"])
def test_a_node_that_closes_waits_for_the_thread_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Nobody may write in the directory any more once another process may open it."""
    real = NewSnapshot.abandon

    def abandon_slowly(taking: NewSnapshot) -> None:
        time.sleep(0.3)
        real(taking)

    monkeypatch.setattr(NewSnapshot, "abandon", abandon_slowly)
    if when == "resting":
        monkeypatch.setattr(
            snapshots, "rest_s", lambda took_s, on_core_s, size: 30.0 if size else 0.0
        )

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            await client.put_many({f"key:{i}": b"x" for i in range(20_000)})
            taking = node.snapshot()
            await until(lambda: bool(list((tmp_path / "n1").glob("snap-*/*"))))
            began = time.monotonic()
            await node.close()
            assert time.monotonic() - began < 4
            assert taking.done() and "closing" in taking.result()["problem"]
            assert not list((tmp_path / "n1").glob("snap-*")), "what was begun is gone"

    run(story())


def test_a_loop_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "LOOP_S", 0.1)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=ONE) as cluster:
            client, node = await cluster.connect(), cluster.nodes["n1"]
            await client.put("key", b"x")
            taking: Any = snapshots.Snapshotting(node)
            monkeypatch.setattr(taking, "_look", lambda look, seen: None)
            assert "half a minute" in (await taking.take())["problem"]

    run(story())


def test_limits_of_values_do_not_matter_to_it(tmp_path: Path) -> None:
    """A value of a megabyte is a slice of its own."""

    async def story() -> None:
        settings = Settings(n=1, r=1, w=1, partitions=1, limits=Limits())
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=settings) as cluster:
            client, node = await cluster.connect(timeout_s=9), cluster.nodes["n1"]
            await client.put_many({f"key:{i}": bytes(1 << 20) for i in range(5)})
            written = await node.snapshot()
            assert written["records"] == 5 and written["bytes"] > 5 << 20

    run(story())
