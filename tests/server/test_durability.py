"""When an acknowledgement may leave, at each durability level, and what a failing disk does."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray.core.settings import Settings
from dynamo_ray.errors import OperationTimeoutError
from dynamo_ray.server import node as node_module
from dynamo_ray.server.node import NodeServer
from dynamo_ray.storage import disk as disk_module
from dynamo_ray.storage.errors import SyncFailedError
from tests.server.load import Load
from tests.server.loopback import Loopback, run, until

ONE = {"nodes": 1, "coordinators": 1}


def one_node(durability: str) -> Settings:
    return Settings(n=1, r=1, w=1, durability=durability)


def test_synced_waits_for_the_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("synced"), **ONE) as cluster:
            client = await cluster.connect()
            vault = cluster.nodes["n1"].vault
            gate, begun, real = threading.Event(), threading.Event(), vault.sync

            def slow() -> None:
                begun.set()
                assert gate.wait(5)
                real()

            monkeypatch.setattr(vault, "sync", slow)
            put = asyncio.ensure_future(client.put("key", b"x"))
            read = asyncio.ensure_future(client.get("key"))
            await until(begun.is_set)
            more = [asyncio.ensure_future(client.put(f"key:{i}", b"x")) for i in range(50)]
            await until(lambda: vault.wants_sync)
            assert not put.done() and vault.synced < vault.appended
            gate.set()
            await asyncio.gather(put, read, *more)
            assert vault.synced == vault.appended, "every answer waited for its fsync"

    run(story())


def test_synced_shares_fsyncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("synced"), **ONE) as cluster:
            client = await cluster.connect()
            vault = cluster.nodes["n1"].vault
            count, real = [0], vault.sync

            def counted() -> None:
                count[0] += 1
                time.sleep(0.005)  # as a disk that has to work for it
                real()

            monkeypatch.setattr(vault, "sync", counted)
            await asyncio.gather(*(client.put(f"key:{i}", b"x") for i in range(500)))
            assert 1 <= count[0] < 50

    run(story())


def test_written_waits_for_the_append_and_not_for_the_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("written"), **ONE) as cluster:
            client = await cluster.connect()
            node = cluster.nodes["n1"]
            gate, real = threading.Event(), node.vault.sync

            def slow() -> None:
                assert gate.wait(10)
                real()

            monkeypatch.setattr(node.vault, "sync", slow)
            await client.put("key", b"x")
            schedule = node._schedule
            monkeypatch.setattr(node, "_schedule", lambda: None)
            put = asyncio.ensure_future(client.put("key", b"y"))
            await until(lambda: node._appends)
            read = asyncio.ensure_future(client.get("key"))
            await asyncio.sleep(0.05)
            assert not put.done() and not read.done(), "nor is it shown before it is in the log"
            monkeypatch.setattr(node, "_schedule", schedule)
            schedule()
            await put
            assert (await read).value == b"y"
            gate.set()

    run(story())


def test_written_syncs_soon_by_itself(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("written"), **ONE) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x")
            vault = cluster.nodes["n1"].vault
            await until(lambda: not vault.wants_sync, 3)

    run(story())


def test_an_error_in_what_an_fsync_lets_go_is_logged_and_no_end_of_fsyncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every hint, every move and every proof at this node would wait for ever."""

    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("written"), **ONE) as cluster:
            client = await cluster.connect()
            server = cluster.nodes["n1"]

            def broken(position: int) -> list[Any]:
                raise RuntimeError("a defect")

            monkeypatch.setattr(server.node, "on_synced", broken)
            await client.put("key", b"x")
            await until(lambda: "a defect" in caplog.text, 5)
            monkeypatch.undo()
            await client.put("key", b"y")
            await until(lambda: not server.vault.wants_sync, 5)

    run(story())


def test_a_hint_is_kept_until_its_owner_has_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 8: before anyone gives up a copy, it is durable elsewhere, whatever the level."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            await cluster.kill_node("n1")
            await client.put_many({f"key:{i}": b"x" for i in range(50)})
            await until(lambda: cluster.hints() > 0)
            kept = cluster.hints()
            owner = await cluster.start_node("n1")
            gate, begun, real = threading.Event(), threading.Event(), owner.vault.sync

            def slow() -> None:
                begun.set()
                assert gate.wait(10)
                real()

            monkeypatch.setattr(owner.vault, "sync", slow)
            await until(begun.is_set)
            await until(lambda: sum(map(len, owner.node.replica.maps)) >= kept)
            await asyncio.sleep(0.3)
            assert cluster.hints() == kept, "delivered, and not yet durable"
            gate.set()
            await until(lambda: cluster.hints() == 0)

    run(story())


def test_no_test_of_a_cluster_waits_for_this_machines_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or timeouts would be met on one machine and not on the next (tests/server/loopback.py)."""
    fsyncs: list[int] = []
    monkeypatch.setattr(disk_module, "_sync", fsyncs.append)
    monkeypatch.setattr(os, "fsync", fsyncs.append)

    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("synced"), **ONE) as cluster:
            client = await cluster.connect()
            node = cluster.nodes["n1"]
            await client.put("key", b"x")
            assert node.vault.synced
            await node.snapshot()
            await cluster.kill_node("n1")
            await cluster.start_node("n1", first_start=False)

    run(story())
    assert fsyncs == []


def test_memory_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("memory"), **ONE) as cluster:
            client = await cluster.connect()
            node = cluster.nodes["n1"]
            schedule = node._schedule
            monkeypatch.setattr(node, "_schedule", lambda: None)
            await client.put("key", b"x")
            assert (await client.get("key")).value == b"x"
            assert node._appends, "the log has not got it yet"
            monkeypatch.setattr(node, "_schedule", schedule)
            schedule()

    run(story())


class FullDisk:
    """Appends and writes of one node's directory fail as on a full disk, while `on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, small_too: bool) -> None:
        self.on = False
        self.refused = 0
        real_append, real_write = disk_module.RealDisk.append, disk_module.RealDisk.write
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def append(disk: Any, path: str, content: bytes) -> None:
            if self.on and disk.name == str(folder):
                self.refused += 1
                raise disk_module.WriteFailedError(path, 0, str(full)) from full
            real_append(disk, path, content)

        def write(disk: Any, path: str, parts: Any) -> None:
            if self.on and small_too and disk.name == str(folder):
                raise disk_module.WriteFailedError(path, 0, str(full)) from full
            real_write(disk, path, parts)

        monkeypatch.setattr(disk_module.RealDisk, "append", append)
        monkeypatch.setattr(disk_module.RealDisk, "write", write)


@pytest.mark.parametrize("durability", ["written", "synced"])
def test_a_full_disk_makes_a_node_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """The cluster goes on without a failed request; with space it is a new incarnation."""
    monkeypatch.setattr(node_module, "RENEW_EVERY_S", 0.05)
    full = FullDisk(monkeypatch, tmp_path / "n1", small_too=True)

    async def story() -> None:
        async with Loopback(tmp_path, settings=Settings(durability=durability)) as cluster:
            client = await cluster.connect()
            node = cluster.nodes["n1"]
            before = node.incarnation
            async with Load(client) as load:
                await load.more(100)
                full.on = True
                await until(lambda: node.status()["state"] == "read-only")
                await load.more(200)
                assert node.status()["state"] == "read-only" and full.refused
                full.on = False
                await until(lambda: node.status()["state"] == "up")
                await load.more(100)
            assert load.errors == []
            assert node.incarnation > before
            await load.check(client)
            await until(lambda: cluster.hints() == 0, 10)
            held = {key.encode(): cluster.states_of(key.encode()) for key in load.acknowledged}
            await cluster.kill_node("n1")
            await cluster.start_node("n1")
            await cluster.settled()
            for key, states in held.items():
                assert cluster.states_of(key)["n1"] == states["n1"], "its log and its map are one"
            await load.check(client)

    run(story())


def test_everybodys_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by every receiver: unavailable, and nothing applied; reads go on."""
    monkeypatch.setattr(node_module, "RENEW_EVERY_S", 0.05)
    disks = [FullDisk(monkeypatch, tmp_path / f"n{i}", small_too=True) for i in (1, 2, 3)]

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect()
            await client.put("key", b"before", w=3)
            for one in disks:
                one.on = True
            for _ in range(2):
                (end,) = await asyncio.gather(client.put("key", b"x"), return_exceptions=True)
                assert type(end).__name__ == "UnavailableError"
            assert (await client.get("key")).values == (b"before",)
            for one in disks:
                one.on = False
            await until(
                lambda: all(node.status()["state"] == "up" for node in cluster.nodes.values())
            )
            await client.put("key", b"after")
            assert (await client.get("key", r=3, strict=True)).values == (b"after",)

    run(story())


@pytest.mark.parametrize("where", ["sync", "append"])
def test_a_failed_fsync_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Bytes that the system dropped cannot be promised, and a second try proves nothing.

    An append may meet it, too: where it starts a new segment of the log.
    """
    ended = threading.Event()

    def end(code: int) -> None:
        ended.set()
        raise RuntimeError("the process would have ended here")

    monkeypatch.setattr(os, "_exit", end)

    async def story() -> None:
        async with Loopback(tmp_path, settings=one_node("synced"), **ONE) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x")
            store = cluster.nodes["n1"].vault._store

            def fail(*_: Any) -> Any:
                raise SyncFailedError("log", "the test says so")

            monkeypatch.setattr(store, {"sync": "sync", "append": "append_columns"}[where], fail)
            with pytest.raises(OperationTimeoutError):
                await client.put("key", b"y", timeout_s=0.3)
            await until(ended.is_set)
            monkeypatch.undo()
            await cluster.kill_node("n1")

    run(story())


def test_a_snapshot_while_serving(tmp_path: Path) -> None:
    """Writes go on meanwhile; a start from the snapshot and the log finds all of them."""

    async def story() -> None:
        settings = Settings(partitions=4)  # each is a file with an fsync of its own
        async with Loopback(tmp_path, nodes=3, settings=settings) as cluster:
            client = await cluster.connect()
            await client.put_many({f"old:{i}": b"x" for i in range(500)})
            async with Load(client) as load:
                await load.more(50)
                for node in cluster.nodes.values():
                    await node.snapshot()
                await load.more(50)
                await asyncio.gather(*(node.snapshot() for node in cluster.nodes.values()))
                await load.more(50)
            assert load.errors == []
            for name in cluster.nodes:
                assert list((tmp_path / name).glob("snap-*")), "it is there, under its own name"
            await cluster.kill_all()
            await cluster.start_all()
            client = await cluster.connect()
            await load.check(client)
            found = await client.get_many([f"old:{i}" for i in range(500)], r=3, strict=True)
            assert all(one.value == b"x" for one in found.values())
            for node in cluster.nodes.values():
                assert not node.vault.recovery["quarantined"] and not node.vault.recovery["suspect"]

    run(story())


def test_large_appends_leave_the_loop_free(tmp_path: Path) -> None:
    """They go to a thread, and what comes meanwhile keeps its place in the log's order."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect(timeout_s=9)
            in_threads: list[int] = []
            for node in cluster.nodes.values():
                _count(node, in_threads)
            large = bytes(400 * 1024)
            for turn in range(3):
                items = {f"large:{i}": large + b"%d" % turn for i in range(6)}
                await asyncio.gather(
                    client.put_many(items), *(client.put(f"small:{i}", b"x") for i in range(50))
                )
            assert in_threads
            await client.close()
            await cluster.kill_all()
            await cluster.start_all()
            client = await cluster.connect(timeout_s=9)
            found = await client.get_many([f"large:{i}" for i in range(6)], r=2, strict=True)
            assert all(one.values == (large + b"2",) for one in found.values())

    run(story())


def _count(node: NodeServer, calls: list[int]) -> None:
    real: Callable[..., Any] = node.vault.append
    loop_thread = threading.get_ident()

    def append(batch: Any) -> Any:
        if threading.get_ident() != loop_thread:
            calls.append(len(batch))
        return real(batch)

    node.vault.append = append  # type: ignore[method-assign]
