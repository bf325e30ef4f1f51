"""The benchmark of storage, small: every kind of directory is read back whole; what a key costs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from benchmarks import storage
from benchmarks.alone import Alone, load
from benchmarks.workloads import Keyspace


@pytest.mark.parametrize("kind", storage.KINDS)
def test_each_directory_holds_what_it_should_where_it_should(tmp_path: Path, kind: str) -> None:
    storage._fill_kind(tmp_path, 500, storage.KINDS[kind])
    store = storage.opened(tmp_path)
    found = store.recover()
    assert sum(map(len, found.maps)) == 500 and found.complete
    in_snapshots = sum(path.stat().st_size for path in tmp_path.glob("snap-*/*.arrow"))
    in_logs = sum(path.stat().st_size for path in tmp_path.glob("*.dynr"))
    assert bool(in_snapshots) == (storage.KINDS[kind]["held"] > 0)
    assert in_logs > 50_000 or kind == "snapshot"
    store._disk.close()


def test_a_key_costs_less_than_was_aimed_at() -> None:
    """Under 300 bytes beside a 16-byte key and its value, counted exactly; nothing for the GC."""
    replica = storage.new_replica()
    for _ in storage.minted(replica, 60_000, 1000):
        pass
    found = storage._per_key(replica.maps, 0)
    assert found["state_head"] == 100 and found["dicts_tracked_by_gc"] == 0
    assert 150 < found["counted_overhead"] < 300


def test_a_node_alone_serves_and_comes_back(tmp_path: Path) -> None:
    async def story() -> None:
        node, space = Alone("alone"), Keyspace(keys=2000)
        await node.start()
        try:
            await load(node, space)
            assert (await node.ask("snapshot"))["records"] == 2000
            await node.put(b"one", b"more")
            await node.stop()
            await node.start()
            assert await node.get(b"one") == b"more"
            assert await node.get(space.keys[7]) == space.values[7]
            assert (await node.ask("status"))["recovery"]["records"] == 2001
        finally:
            await node.close()

    uvloop.run(asyncio.wait_for(story(), 40))
