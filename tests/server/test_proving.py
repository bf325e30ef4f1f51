"""A node whose log cannot be proved complete counts for reads again once others were compared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dynamo_ray.core.settings import settings_from
from dynamo_ray.errors import UnavailableError
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
            await until(
                lambda: not any(s.node.replica.in_doubt for s in cluster.nodes.values()), 20
            )
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
            await until(lambda: not server.node.replica.in_doubt, 20)
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
            await until(lambda: not server.node.replica.in_doubt, 20)
            assert len(server.node.replica.maps[0]) == 25

    run(story())


def test_a_node_that_lost_its_disk_too_proves_nothing(tmp_path: Path) -> None:
    """With W of 3 the empty page of one other owner once was enough, though it knew nothing."""
    settings = settings_from({"partitions": 4, "w": 3, "r": 1})

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=settings) as cluster:
            client = await cluster.connect()
            await client.put("k", b"v")
            for name in ("n1", "n2", "n3"):
                await cluster.kill_node(name)
            for name in ("n1", "n2"):
                (tmp_path / name).rename(tmp_path / f"lost {name}")
                await cluster.start_node(name, first_start=False)
            n1, n2 = (cluster.nodes[name] for name in ("n1", "n2"))
            await until(lambda: n2.me in n1.peers and n1.peers[n2.me].connected)
            await asyncio.sleep(1.5)
            assert len(n1.node.replica.doubted) == len(n2.node.replica.doubted) == 4
            await cluster.start_node("n3")
            await until(lambda: not n1.node.replica.in_doubt and not n2.node.replica.in_doubt, 20)
            assert None not in cluster.states_of(b"k").values()

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
