"""What members tell of themselves: status and scan, with everybody there and with some missing."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from dynamo_ray import cluster as clusters
from dynamo_ray.core.settings import Settings
from dynamo_ray.errors import AuthenticationError, ClusterNotFoundError, UnavailableError
from dynamo_ray.survey import status
from dynamo_ray.sweep import scan
from dynamo_ray.wire.keys import client_credentials, client_token
from tests.server.loopback import Loopback, Threaded, run, until


def test_status_of_a_whole_cluster(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, zones=("a", "b")) as cluster:
            client = await cluster.connect()
            await until(lambda: len(client.session._channels) == 2)
            await client.put_many({f"key:{i}": b"x" for i in range(100)}, w=3)
            found = await status(client.session, client_credentials(cluster.token))
            assert found.healthy and found.name == "loopback"
            assert found.cluster_id == cluster.charter.cluster_id.hex()
            assert (found.n, found.r, found.w, found.partitions) == (3, 2, 2, 256)
            assert found.durability == "written"
            assert [node.name for node in found.nodes] == ["n1", "n2", "n3", "n4", "n5"]
            assert [node.zone for node in found.nodes] == ["a", "b", "a", "b", "a"]
            for node in found.nodes:
                server = cluster.nodes[node.name]
                assert server.fact is not None
                assert (node.state, node.pid, node.hints) == ("up", os.getpid(), {})
                assert node.address == f"{server.fact.host}:{server.fact.port}"
                assert node.incarnation == server.incarnation.hex()
                assert node.log_bytes > 0 and node.longest_hold_ms >= 0
            assert sum(node.keys for node in found.nodes) == 300
            assert [one["name"] for one in found.coordinators] == ["c1", "c2"]
            assert all(one["state"] == "up" for one in found.coordinators)
            plain = json.loads(json.dumps(found.to_dict()))
            assert plain["schema"] == "dynamo_ray.status/1" and plain["healthy"]

    run(story())


def test_status_while_one_is_away(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            await cluster.kill_node("n1")
            cluster.hang("n2")
            hung = cluster.charter.member("n2").node
            await until(
                lambda: all(hung in c.detector.suspected for c in cluster.coordinators.values())
            )
            await client.put_many({f"key:{i}": b"x" for i in range(100)})
            await until(lambda: cluster.hints() > 0)
            found = await status(client.session, client_credentials(cluster.token))
            states = {node.name: node.state for node in found.nodes}
            assert not found.healthy and states["n1"] == "down"
            assert states["n2"] == "down" or states["n2"].startswith("suspected by")
            kept = [node.hints for node in found.nodes if node.hints]
            assert kept and all(set(hints) <= {"n1", "n2"} for hints in kept)
            cluster.wake("n2")
            await cluster.start_node("n1")
            await cluster.settled()
            await until(lambda: cluster.hints() == 0, 10)
            found = await status(client.session, client_credentials(cluster.token))
            assert found.healthy

    run(story())


def test_scan_finds_every_key_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=Settings(partitions=32)) as cluster:
            client = await cluster.connect()
            wanted = {f"key:{i}".encode() for i in range(700)}
            await client.put_many(dict.fromkeys(wanted, b"x"), w=3)
            lone = await cluster.connect()
            only = cluster.owners_of(b"only")[2]
            for name in cluster.owners_of(b"only")[:2]:
                cluster.hang(name)
            await lone.put("only", b"x", w=1, timeout_s=3)
            for name in cluster.owners_of(b"only")[:2]:
                cluster.wake(name)
            assert cluster.states_of(b"only")[only] is not None
            credentials = client_credentials(cluster.token)
            pages = [page async for page in scan(client.session, credentials)]
            keys = [key for page in pages for key in page]
            assert len(keys) == len(set(keys)) and set(keys) == wanted | {b"only"}

            await cluster.settled()
            await cluster.kill_node("n1")
            keys = [key async for page in scan(client.session, credentials) for key in page]
            assert set(keys) == wanted | {b"only"}, "two owners of everything are left"
            for name in ("n2", "n3", "n4", "n5"):
                await cluster.kill_node(name)
            with pytest.raises(
                UnavailableError, match="0 of 5 nodes gave all they hold of partition"
            ):
                [page async for page in scan(client.session, credentials)]

    run(story())


def test_scan_pages_through_a_large_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_ray.core.pages.SCAN_KEYS", 7)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect()
            wanted = {os.urandom(1 + i % 40) for i in range(3000)}
            await client.put_many(dict.fromkeys(wanted, b"x"), w=3)
            pages = [page async for page in scan(client.session, client_credentials(cluster.token))]
            assert {key for page in pages for key in page} == wanted

    run(story(), 30)


def test_status_and_scan_by_address(tmp_path: Path) -> None:
    """As the command line does it, with no loop running and no Ray."""
    with Threaded(tmp_path, nodes=3) as threaded:
        token = threaded.cluster.token
        with clusters.client_at(threaded.address, token, timeout_s=5) as client:
            client.put_many({f"key:{i}": b"x" for i in range(50)})
        assert clusters.status(threaded.address, token).healthy
        keys = [key for page in clusters.scan(threaded.address, token) for key in page]
        assert len(keys) == 50
        pages = clusters.scan(threaded.address, token)
        next(pages)
        pages.close()
        with pytest.raises(AuthenticationError):
            clusters.status(threaded.address, client_token(bytes(32)))
        with pytest.raises(AuthenticationError):
            next(clusters.scan(threaded.address, "no token"))
        address = threaded.address
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynamo_ray.connecting.CONNECT_S", 0.3)
        with pytest.raises(ClusterNotFoundError):
            clusters.status(address, token)


def test_a_survey_is_bounded_in_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            for name in ("n1", "n2", "n3", "n4", "n5"):
                cluster.hang(name)
            began = asyncio.get_running_loop().time()
            found = await status(client.session, client_credentials(cluster.token))
            assert asyncio.get_running_loop().time() - began < 2
            assert not found.healthy
            for name in ("n1", "n2", "n3", "n4", "n5"):
                cluster.wake(name)

    run(story())


def test_status_and_scan_may_be_called_inside_a_running_loop(tmp_path: Path) -> None:
    """As in a notebook: the caller's loop cannot run another coroutine meanwhile."""
    with Threaded(tmp_path, nodes=3) as threaded:

        async def notebook() -> tuple[str, list[bytes]]:
            name = clusters.status(threaded.address, threaded.cluster.token).name
            keys = [k for p in clusters.scan(threaded.address, threaded.cluster.token) for k in p]
            return name, keys

        assert asyncio.run(notebook()) == ("loopback", [])


def test_a_scan_finds_what_stand_ins_keep_and_says_nothing_rather_than_a_part(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            first, second, _ = cluster.owners_of(b"k")
            await cluster.kill_node(first)
            await client.put("k", b"v")
            credentials = client_credentials(cluster.token)
            pages = [page async for page in scan(client.session, credentials)]
            assert pages == [[b"k"]]
            await cluster.kill_node(second)
            with pytest.raises(UnavailableError, match=r"3 of 5 nodes .* fewer than 4"):
                async for _ in scan(client.session, client_credentials(cluster.token)):
                    pass

    run(story())
