"""Comparisons in a running cluster: after a node came back, by command, and what `verify` sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dynamo_ray.core.kinds import REPAIR
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.settings import Limits, Settings, Times
from dynamo_ray.core.upkeep import Compare, Confirm
from dynamo_ray.repairing import repair
from dynamo_ray.server.node import NodeServer
from dynamo_ray.survey import status
from dynamo_ray.verifying import verify
from dynamo_ray.wire.greeting import connect
from tests.server.loopback import Loopback, run, until

# Who is late on a busy machine is not taken for dead: who is back again compares by itself.
SETTINGS = Settings(partitions=8, times=Times(timeout_s=0.5, tick_s=0.02, suspect_s=2.0))
KEYS = [f"key:{i}" for i in range(200)]


def copies(cluster: Loopback) -> list[list[bytes | None]]:
    """Per key what each of its owners holds."""
    ring, found = cluster.charter.ring(), []
    nodes = {server.me: server for server in cluster.nodes.values()}
    for key in KEYS:
        p = partition_of(key.encode(), ring.partitions)
        owners = [nodes[owner] for owner in ring.owners(p) if owner in nodes]
        found.append([one.node.replica.maps[p].get(key.encode()) for one in owners])
    return found


def are_equal(cluster: Loopback) -> bool:
    return all(len(set(of)) == 1 and len(of) == 3 for of in copies(cluster))


def forget(server: NodeServer, count: int) -> int:
    """The node loses keys, and nobody is told: as if it had missed the writes."""
    gone = 0
    for partition, of in enumerate(server.node.replica.maps):
        keys = list(of)[: count - gone]
        for key in keys:
            del of[key]
        server.node.replica.forest.mark([partition] * len(keys), keys)
        gone += len(keys)
    return gone


def test_a_node_that_missed_writes_gets_them_though_nobody_reads(tmp_path: Path) -> None:
    async def story() -> None:
        # No hint is kept: as where the stand-ins are full, or die too.
        settings = Settings(partitions=8, times=SETTINGS.times, limits=Limits(hint_bytes=1))
        async with Loopback(tmp_path, nodes=4, settings=settings) as cluster:
            client = await cluster.connect()
            await client.put_many(dict.fromkeys(KEYS, b"old"), w=3)
            await cluster.kill_node("n3")
            await client.put_many(dict.fromkeys(KEYS, b"new"), w=2)
            await client.delete_many(KEYS[:20], w=2)
            await cluster.start_node("n3", first_start=False)
            assert not are_equal(cluster)
            await until(lambda: are_equal(cluster), 20)
            found = await verify(client.session, cluster.credentials)
            assert found.are_equal and found.partitions == 8 and not found.doubted

    run(story(), 40)


def test_by_command_at_once_and_what_it_did_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(dict.fromkeys(KEYS, b"x"), w=3)
            await cluster.compared()
            lost = forget(cluster.nodes["n2"], 30)
            assert lost == 30
            before = await verify(client.session, cluster.credentials)
            assert not before.are_equal
            assert sum(one.keys for one in before.differences) == 30
            assert all(one.lacking["n2"] == one.keys for one in before.differences)
            assert all(one.examples for one in before.differences)
            heard: list[int] = []
            done = await repair(
                client.session,
                cluster.credentials,
                moved=lambda left, total, keys: heard.append(left),
            )
            assert done.is_whole and heard[-1] == 0
            assert sum(one.comparisons for one in done.nodes) >= 8 * 3
            moved = sum(one.keys_received + one.keys_sent for one in done.nodes)
            assert 30 <= moved <= 2 * 30
            assert are_equal(cluster)
            assert (await verify(client.session, cluster.credentials)).are_equal
            known = await status(client.session, cluster.credentials)
            assert all(node.repair["demanded"] == 0 for node in known.nodes)

    run(story(), 40)


def test_only_the_partition_that_was_asked_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(dict.fromkeys(KEYS, b"x"), w=3)
            await cluster.compared()
            forget(cluster.nodes["n2"], len(KEYS))
            held = [len(of) for of in cluster.nodes["n2"].node.replica.maps]
            assert sum(held) == 0
            wanted = next(iter(cluster.nodes["n2"].node.replica.owned))
            await repair(client.session, cluster.credentials, wanted)
            held = [len(of) for of in cluster.nodes["n2"].node.replica.maps]
            assert [p for p, count in enumerate(held) if count] == [wanted]
            found = await verify(client.session, cluster.credentials, [wanted])
            assert found.are_equal and found.partitions == 1

    run(story(), 40)


def test_what_is_away_is_said_and_not_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(dict.fromkeys(KEYS, b"x"), w=3)
            await cluster.kill_node("n4")
            await until(lambda: all(n._unreachable() for n in cluster.nodes.values()))
            done = await repair(client.session, cluster.credentials)
            assert not done.is_whole
            assert [one.name for one in done.nodes if one.silent] == ["n4"]
            assert any("n4" in one.left_out for one in done.nodes)
            found = await verify(client.session, cluster.credentials)
            assert not found.are_equal and not found.differences
            assert {name for names in found.unread.values() for name in names} == {"n4"}

    run(story(), 40)


def test_a_client_may_look_and_let_compare_and_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            fact = cluster.nodes["n1"].fact
            assert fact is not None
            connection = await connect(fact.host, fact.port, cluster.credentials)
            epoch = cluster.charter.ring().epoch_of(0)
            kind, _ = await connection.request(Compare.KIND, (0, epoch, 0, b""), 5.0)
            assert kind != Refused.KIND
            kind, fields = await connection.request(Compare.KIND, (0, bytes(8), 0, b""), 5.0)
            assert (kind, fields[0]) == (Refused.KIND, Code.OTHER_EPOCH)
            kind, fields = await connection.request(Confirm.KIND, (0, epoch, [], [], []), 5.0)
            assert (kind, fields[0]) == (Refused.KIND, Code.FORBIDDEN)
            for bad in (8, -2, "0", None):
                kind, fields = await connection.request(REPAIR, (bad,), 5.0)
                assert (kind, fields[0]) == (Refused.KIND, Code.BAD_REQUEST)
            connection.close()

    run(story(), 40)


def test_what_differs_for_a_moment_only_is_not_told(tmp_path: Path) -> None:
    """As a write under way does: it has reached one owner and not yet the others."""

    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(dict.fromkeys(KEYS, b"x"), w=3)
            await cluster.compared()
            replica = cluster.nodes["n2"].node.replica
            before = [dict(of) for of in replica.maps]
            assert forget(cluster.nodes["n2"], 30) == 30

            def arrive() -> None:
                for partition, of in enumerate(before):
                    replica.maps[partition].update(of)
                    replica.forest.mark([partition] * len(of), list(of))

            asyncio.get_running_loop().call_later(0.5, arrive)
            assert (await verify(client.session, cluster.credentials)).are_equal

    run(story(), 40)


@pytest.mark.parametrize("partition", [8, 9])
def test_a_partition_that_there_is_not_is_silence(tmp_path: Path, partition: int) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            done = await repair(client.session, cluster.credentials, partition)
            assert all(one.silent for one in done.nodes)

    run(story(), 40)
