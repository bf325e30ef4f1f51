"""A node whose log cannot be proved complete counts for reads again once others were compared."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from dynamo_ray.core.settings import settings_from
from dynamo_ray.errors import UnavailableError
from dynamo_ray.server import node as nodes
from dynamo_ray.server import vault
from tests.server.loopback import Loopback, run, until


async def crash_all(cluster: Loopback) -> None:
    for name in list(cluster.nodes):
        await cluster.kill_node(name)


def test_after_a_power_loss_nodes_compare_and_count_again(tmp_path: Path, monkeypatch) -> None:
    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            keys = [f"k{i}" for i in range(300)]
            await client.put_many(dict.fromkeys(keys, b"v"))
            await crash_all(cluster)
            monkeypatch.setattr(vault, "boot_id", lambda: "another boot")
            for member in cluster.charter.members:
                await cluster.start_node(member.name)
            assert all(server.node.replica.doubted for server in cluster.nodes.values())
            await cluster.settled()
            await until(lambda: not any(s.node.replica.doubted for s in cluster.nodes.values()), 20)
            found = await client.get_many([*keys, "never written"])
            assert sum(one.found for one in found.values()) == len(keys)
            assert not any(one.degraded for one in found.values())

    run(story())


def test_what_others_hold_is_merged_before_a_lost_disk_counts(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            await client.put("k", b"v")
            name = cluster.owners_of(b"k")[0]
            await cluster.kill_node(name)
            (tmp_path / name).rename(tmp_path / "lost")
            server = await cluster.start_node(name, first_start=False)
            assert len(server.node.replica.doubted) == 256
            await until(lambda: not server.node.replica.doubted, 20)
            assert cluster.states_of(b"k")[name] is not None

    run(story())


def test_large_states_are_compared_in_pages_that_fit_an_answer(tmp_path: Path) -> None:
    # Pages were counted in keys only: one longer than a frame was never answered, and so the
    # partition never counted again.
    limits = {"value_bytes": 4096, "sibling_bytes": 8192, "batch_bytes": 8192, "frame_bytes": 16384}
    settings = settings_from({"partitions": 1, "limits": limits})

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=settings) as cluster:
            client = await cluster.connect()
            for i in range(25):
                await client.put(f"k{i}", b"v" * 3000, w=3)
            await cluster.kill_node("n1")
            (tmp_path / "n1").rename(tmp_path / "lost")
            server = await cluster.start_node("n1", first_start=False)
            await until(lambda: not server.node.replica.doubted, 20)
            assert len(server.node.replica.maps[0]) == 25

    run(story())


def test_a_page_that_is_on_its_way_to_the_log_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    """One busy key once made the comparison of its partition start over, again and again."""
    settings, begun = settings_from({"partitions": 1}), []

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=settings) as cluster:
            client = await cluster.connect()
            await client.put("k", b"v", w=3)
            await cluster.kill_node("n1")
            (tmp_path / "n1").rename(tmp_path / "lost")
            busy = dict.fromkeys(("n2", "n3"), 5)
            for name in busy:
                queue = cluster.nodes[name].node.replica.queue
                monkeypatch.setattr(queue, "shown_at", partial(shown_at, busy, name))
            whole = nodes.prove
            monkeypatch.setattr(nodes, "prove", lambda server: begun.append(1) or whole(server))
            server = await cluster.start_node("n1", first_start=False)
            await until(lambda: not server.node.replica.doubted, 10)
            assert busy == {"n2": 0, "n3": 0}
            assert len(begun) <= 2, "the first may come before the others are reached"

    def shown_at(busy: dict[str, int], name: str, keys: object) -> int:
        busy[name] = max(0, busy[name] - 1)
        return busy[name]

    run(story())


def test_a_proof_does_not_overtake_an_append_in_a_thread(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            server = cluster.nodes["n1"]
            server._appending = True
            proof = asyncio.create_task(server.prove(frozenset({0})))
            await asyncio.sleep(0.05)
            assert server._appending and not proof.done()
            server._appending = False
            await asyncio.wait_for(proof, 5)

    run(story())


def test_nothing_is_proved_while_the_others_are_silent(tmp_path: Path, monkeypatch) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            client = await cluster.connect()
            await client.put("k", b"v")
            await crash_all(cluster)
            monkeypatch.setattr(vault, "boot_id", lambda: "another boot")
            server = await cluster.start_node("n1")
            await until(lambda: server.detector.suspected, 5)
            assert server.node.replica.doubted
            with pytest.raises(UnavailableError):
                await client.get("never written", timeout_s=0.5)

    run(story())
