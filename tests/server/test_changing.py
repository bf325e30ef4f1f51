"""Nodes that come and go in whole clusters over loopback, while clients read and write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamo_ray.core.membership import View, merge_views
from dynamo_ray.core.plan import moves_due
from dynamo_ray.core.rebuild import Rebuild
from dynamo_ray.core.ring import Member, partition_of
from dynamo_ray.core.settings import Settings, Times
from dynamo_ray.core.upkeep import Offer, Seal
from dynamo_ray.server.node import NodeServer, open_node
from tests.server.load import Load
from tests.server.loopback import HOST, Loopback, run, until

# Who is late on a busy machine is not taken for dead: that would refuse requests.
SETTINGS = Settings(partitions=32, times=Times(repair_s=2.0, suspect_s=2.0, timeout_s=5.0))
KEYS = {f"key:{i}": b"%d" % i * 20 for i in range(600)}


async def join(cluster: Loopback, name: str) -> NodeServer:
    """A new node starts, of which nobody has heard."""
    known = next(iter(cluster.nodes.values())).view
    return await start(cluster, Member(os.urandom(8), name), known)


async def start(cluster: Loopback, member: Member, known: View) -> NodeServer:
    """A node that the charter does not know."""
    folder = str(cluster.folder / member.name)
    args = cluster.charter, cluster.secrets, member, folder, HOST, known
    server = await open_node(*args, first_start=False)
    cluster.nodes[member.name] = server
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
            assert load.errors == []
            await load.check(client, siblings=True)  # a retry may have made one (rule 7)
            assert owned(cluster)["n6"] == 16
            found = await client.get_many(list(KEYS))
            assert {key: one.value for key, one in found.items()} == KEYS

    run(main())


def test_a_node_hands_over_what_it_has_under_load_and_goes(tmp_path: Path) -> None:
    async def main() -> None:
        async with Loopback(tmp_path, nodes=5, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            async with Load(client, workers=4) as load:
                going = cluster.nodes["n2"]
                going.weigh(0.0)
                await balanced(cluster)
                await until(lambda: not len(going.node.replica.hints), 10)
                assert not going.node.replica.owned
                cluster.nodes["n1"].learn(View(ends={going.me: b""}))
                await until(lambda: going.status()["state"] == "removed")
                await until(
                    lambda: all(going.me not in s.peers for s in cluster.coordinators.values())
                )
                await cluster.kill_node("n2")
                await load.more(50)
            assert load.errors == []
            await load.check(client, siblings=True)  # a retry may have made one (rule 7)
            found = await client.get_many(list(KEYS), r=3, strict=True)
            assert {key: one.value for key, one in found.items()} == KEYS

    run(main())


def test_what_a_node_gave_away_is_let_go_of(tmp_path: Path) -> None:
    async def main() -> None:
        async with Loopback(tmp_path, nodes=4, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            await join(cluster, "n5")
            await balanced(cluster)

            def are_owned() -> bool:
                return all(
                    not of or partition in server.node.replica.owned
                    for server in cluster.nodes.values()
                    for partition, of in enumerate(server.node.replica.maps)
                )

            await until(are_owned, 20)

    run(main())


def test_a_dead_node_is_replaced_under_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with Loopback(tmp_path, nodes=5, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            async with Load(client, workers=4) as load:
                old = cluster.nodes["n2"].me
                await cluster.kill_node("n2")
                await load.more(50)
                known = next(iter(cluster.nodes.values())).view
                new = Member(os.urandom(8), "n6")
                server = await start(cluster, new, merge_views(known, View(ends={old: new.node})))
                await until(lambda: len(server.node.replica.owned) in (19, 20), 10)
                await until(lambda: not server.node.replica.in_doubt, 20)
                await until(lambda: not server.node.handover.closed, 10)
                await load.more(50)
            assert load.errors == []
            await load.check(client, siblings=True)
            await until(lambda: not cluster.hints(), 10)
            assert {s.ring.epoch for s in cluster.nodes.values()} == {server.ring.epoch}
            held = server.node.replica.maps
            for key in KEYS:
                partition = partition_of(key.encode(), 32)
                assert (key.encode() in held[partition]) == (partition in server.node.replica.owned)

    run(main())


def test_a_move_does_not_wait_for_the_regular_fsync(tmp_path: Path) -> None:
    """Its partition is closed meanwhile. It asks for one though nothing is left to append."""

    async def main() -> None:
        settings = Settings(n=1, r=1, w=1, partitions=16, times=Times(sync_s=600.0))
        async with Loopback(tmp_path, nodes=1, settings=settings) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            await join(cluster, "n2")
            await balanced(cluster, 20)
            assert owned(cluster) == {"n1": 8, "n2": 8}

    run(main())


def test_what_was_inherited_is_in_doubt_over_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has said that the slots are its own, and copied nothing of them yet: rule 9.

    A node that had given such a partition away, or promised to keep it, has no doubt of it on disk.
    """

    async def main() -> None:
        async with Loopback(tmp_path, nodes=4, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            heir, old = cluster.nodes["n4"], cluster.nodes["n2"].me
            await cluster.kill_node("n2")
            monkeypatch.setattr(Rebuild, "on_tick", lambda *args: [])
            heir.learn(View(ends={old: heir.me}))
            await until(lambda: heir.node.replica.in_doubt, 10)
            await until(lambda: heir.node.handover.is_idle and not heir.node.handover.closed, 10)
            doubted = heir.node.replica.in_doubt
            await cluster.kill_node("n4")
            again = await cluster.start_node("n4", first_start=False)
            assert again.node.replica.in_doubt == doubted
            monkeypatch.undo()
            await until(lambda: not again.node.replica.in_doubt, 20)
            found = await client.get_many(list(KEYS), r=2, strict=True)
            assert {key: one.value for key, one in found.items()} == KEYS

    run(main())


class Giver:
    """Who sealed, and is dead when the answer comes."""

    role = "peer"

    def __init__(self) -> None:
        self.answers: list[object] = []

    def reply(self, *answer: object) -> None:
        """Nobody hears it."""
        self.answers.append(answer)


def test_a_promise_that_comes_late_is_none_for_what_was_inherited_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took a seal, its disk stalled, and its giver died after it had gone on: it is the heir.

    The promise, once on disk, would say that the partition is complete, in memory and at a start.
    """

    async def main() -> None:
        async with Loopback(tmp_path, nodes=4, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            heir, old = cluster.nodes["n4"], cluster.nodes["n2"].me
            owned = heir.node.replica.owned
            slot = next(
                at
                for at, owner in enumerate(heir.ring.slots)
                if owner == old and at // 3 not in owned
            )
            await cluster.kill_node("n2")
            monkeypatch.setattr(Rebuild, "on_tick", lambda *args: [])
            giver, free, waiting = Giver(), heir.log_is_free, []

            async def late() -> None:
                waiting.append(None)
                if len(waiting) == 1:  # the promise, until the doubt is on disk
                    await until(lambda: slot // 3 in heir.vault._store.doubted, 10)
                await free()

            monkeypatch.setattr(heir, "log_is_free", late)
            (offered,) = heir.node.receiver.on_offer("", Offer(slot // 3, slot, 1))
            seal = Seal(slot // 3, slot, 1, offered.message.token)
            heir._perform(heir.node.receiver.on_seal((giver, 1), seal))
            await until(lambda: waiting)
            heir.learn(View(ends={old: heir.me}))
            await until(lambda: heir.node.handover.is_idle and not heir.node.handover.closed, 10)
            await until(lambda: giver.answers, 10)
            assert slot // 3 in heir.node.replica.in_doubt
            await cluster.kill_node("n4")
            again = await cluster.start_node("n4", first_start=False)
            assert slot // 3 in again.node.replica.in_doubt

    run(main())


def test_all_start_again_where_they_were(tmp_path: Path) -> None:
    async def main() -> None:
        async with Loopback(tmp_path, nodes=4, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(KEYS)
            await join(cluster, "n5")
            await balanced(cluster)
            before = cluster.nodes["n1"].ring.epoch
            await until(lambda: all(s.vault.is_kept(s.view) for s in cluster.nodes.values()))
            newcomer = next(m for m in cluster.nodes["n5"].ring.members if m.name == "n5")
            await cluster.kill_all()
            await start(cluster, newcomer, View())
            await cluster.start_all()
            await until(lambda: {s.ring.epoch for s in cluster.nodes.values()} == {before}, 10)
            again = await cluster.connect()
            found = await again.get_many(list(KEYS), r=3, strict=True)
            assert {key: one.value for key, one in found.items()} == KEYS

    run(main())
