"""Whose a data directory is, and where a node listens when its old port is taken."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from dynamo_ray.core.charter import Charter
from dynamo_ray.server.node import open_node
from dynamo_ray.storage.disk import RealDisk
from dynamo_ray.storage.errors import (
    DamagedIdentityError,
    DirectoryInUseError,
    ForeignDirectoryError,
    NewerFormatError,
    StorageError,
)
from dynamo_ray.storage.sealed import read_sealed, write_sealed
from tests.server.loopback import HOST, Loopback, run, until


async def refused(cluster: Loopback, name: str, kind: type[StorageError], match: str) -> None:
    member = cluster.charter.member(name)
    with pytest.raises(kind, match=match):
        await open_node(
            cluster.charter,
            cluster.secrets,
            member,
            str(cluster.folder / name),
            HOST,
            cluster.view(),
        )


def test_a_directory_belongs_to_one_node_of_one_cluster(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x", w=3)
            await refused(cluster, "n1", DirectoryInUseError, f"in use .pid {os.getpid()}")
            await cluster.kill_node("n1")
            await cluster.kill_node("n2")

            own = cluster.charter
            cluster.charter = Charter(os.urandom(16), own.name, own.settings, own.members)
            await refused(cluster, "n1", ForeignDirectoryError, "belongs to cluster")
            cluster.charter = own

            (tmp_path / "n1").rename(tmp_path / "aside")
            (tmp_path / "n2").rename(tmp_path / "n1")
            await refused(cluster, "n1", ForeignDirectoryError, "belongs to node 'n2'")
            (tmp_path / "n1").rename(tmp_path / "n2")
            (tmp_path / "aside").rename(tmp_path / "n1")

            await cluster.start_node("n1")
            await cluster.start_node("n2")
            await cluster.settled()
            assert (await client.get("key", r=3, strict=True)).value == b"x"

    run(story())


def test_a_directory_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x", w=3)
            await cluster.kill_node("n1")
            path = tmp_path / "n1" / "IDENTITY"
            good = path.read_bytes()
            disk = RealDisk(tmp_path / "n1")
            write_sealed(disk, "IDENTITY", {**read_sealed(disk, "IDENTITY"), "format": 99})
            disk.close()
            await refused(cluster, "n1", NewerFormatError, "newer version")
            path.write_bytes(good[:-2])
            await refused(cluster, "n1", DamagedIdentityError, "damaged")
            path.unlink()
            await refused(cluster, "n1", DamagedIdentityError, "no IDENTITY")
            path.write_bytes(good)
            await cluster.start_node("n1")
            await cluster.settled()
            assert (await client.get("key", r=3, strict=True)).value == b"x"

    run(story())


def test_a_taken_port_moves_the_node_and_everybody_learns_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x", w=3)
            before = cluster.nodes["n1"].fact
            assert before is not None
            await cluster.kill_node("n1")
            with socket.create_server((HOST, before.port)):
                await client.put("key", b"y")
                server = await cluster.start_node("n1")
                assert server.fact is not None and server.fact.port != before.port
                await cluster.settled()
                for other in [*cluster.nodes.values(), *cluster.coordinators.values()]:
                    assert other.view.nodes()[server.me].port == server.fact.port
                await until(lambda: cluster.hints() == 0, 10)
                assert (await client.get("key", r=3, strict=True)).values == (b"y",)

    run(story())


def test_a_free_port_is_kept(tmp_path: Path) -> None:
    """So that addresses which others remember stay good."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            before = {name: node.fact.port for name, node in cluster.nodes.items() if node.fact}
            await cluster.kill_all()
            await cluster.start_all()
            after = {name: node.fact.port for name, node in cluster.nodes.items() if node.fact}
            assert before == after

    run(story())


def test_a_node_remembers_where_the_others_are(tmp_path: Path) -> None:
    """Started with an empty view, as by Ray: it finds them by what it kept, and they find it."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x", w=3)
            await cluster.kill_node("n1")
            real, cluster.view = cluster.view, lambda: type(real())()  # type: ignore[method-assign]
            server = await cluster.start_node("n1")
            cluster.view = real  # type: ignore[method-assign]
            await cluster.settled()
            assert len(server.view.nodes()) == 3
            await asyncio.wait_for(client.put("key", b"y", w=3), 5)

    run(story())
