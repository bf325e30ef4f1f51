"""Nodes that come and go in whole clusters over loopback, while clients read and write."""

from __future__ import annotations

import os
from pathlib import Path

from dynamo_ray.core.membership import View
from dynamo_ray.core.plan import moves_due
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings, Times
from dynamo_ray.server.node import NodeServer, open_node
from tests.server.load import Load
from tests.server.loopback import HOST, Loopback, run, until

SETTINGS = Settings(partitions=32, times=Times(repair_s=2.0))
KEYS = {f"key:{i}": b"%d" % i * 20 for i in range(600)}


async def join(cluster: Loopback, name: str, known: View | None = None) -> NodeServer:
    """A new node starts, of which nobody has heard."""
    view = known or next(iter(cluster.nodes.values())).view
    member = Member(os.urandom(8), name)
    folder = str(cluster.folder / name)
    args = cluster.charter, cluster.secrets, member, folder, HOST, view
    server = await open_node(*args, first_start=False)
    cluster.nodes[name] = server
    return server


async def balanced(cluster: Loopback, timeout_s: float = 30.0) -> None:
    """Commit until nothing has to move, and everybody knows."""

    def is_balanced() -> bool:
        members = [*cluster.nodes.values(), *cluster.coordinators.values()]
        one = next(iter(cluster.nodes.values())).placement
        moves = moves_due(one)
        if moves:
            view = one.with_wishes(moves.items(), os.urandom(8))
            next(iter(cluster.nodes.values())).learn(view)
        epochs = {member.ring.epoch for member in members}
        return not moves and not one.under_way and len(epochs) == 1

    await until(is_balanced, timeout_s)


def owned(cluster: Loopback) -> dict[str, int]:
    return {name: len(server.node.replica.owned) for name, server in cluster.nodes.items()}


def test_a_node_joins_under_load_and_gets_its_share(tmp_path: Path) -> None:
    async def main() -> None:
        async with Loopback(tmp_path, nodes=5, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            async with Load(client, workers=4) as load:
                await load.more(50)
                await join(cluster, "n6")
                await balanced(cluster)
                await load.more(50)
            assert load.errors == [] and load.doubled == []
            await load.check(client)
            assert owned(cluster)["n6"] == 16
            found = await client.get_many(list(KEYS))
            assert {key: one.value for key, one in found.items()} == KEYS

    run(main())
