"""Partitions change hands while a whole cluster is read: nothing is missed, nothing is false.

Where a key is at W nodes only, a sweep that misses one of these and cannot reach the other has
missed the key.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray import backup as backups
from dynamo_ray.backup import create, opened
from dynamo_ray.core import pages
from dynamo_ray.core.kinds import COPY, SCAN
from dynamo_ray.core.membership import View, merge_views
from dynamo_ray.core.ring import Member
from dynamo_ray.core.sweep import Ask
from dynamo_ray.core.upkeep import Compare, Descend, Enumerate
from dynamo_ray.errors import UnavailableError
from dynamo_ray.repairing import Repaired, repair
from dynamo_ray.restoring import Inside, restore
from dynamo_ray.server.node import NodeServer
from dynamo_ray.session import Session
from dynamo_ray.sweep import Reader, reading, scan
from dynamo_ray.verifying import _Look, verify
from tests.server.loopback import Loopback, run, until
from tests.server.test_changing import join, start
from tests.server.test_sweep import ONE, all_of

KEYS = [b"k%02d" % i for i in range(40)]
Move = Callable[[], Awaitable[None]]


def forget(server: NodeServer) -> None:
    """It never took the writes: W others acknowledged them."""
    held = server.node.replica.maps[0]
    keys = list(held)
    held.clear()
    server.node.replica._mark([0] * len(keys), keys)


async def with_two_copies(cluster: Loopback) -> tuple[Session, list[NodeServer]]:
    """A session, and the owners of the one partition: two have all keys, and the third none.

    From now on the session hears of nothing by itself.
    """
    client = await cluster.connect()
    await client.put_many(dict.fromkeys(KEYS, b"v"), w=3)
    await cluster.compared()
    owners = [cluster.nodes[name] for name in cluster.owners_of(b"k")]
    forget(owners[2])
    refreshing = client.session._refreshing
    assert refreshing is not None
    refreshing.cancel()
    return client.session, owners


async def newcomer(cluster: Loopback, name: str) -> NodeServer:
    """A node that everybody knows by now."""
    new = await join(cluster, name)
    others = [*cluster.nodes.values(), *cluster.coordinators.values()]
    await until(lambda: all(new.me in one.peers for one in others if one is not new))
    await cluster.settled()
    return new


async def move(cluster: Loopback, giver: NodeServer, receiver: NodeServer) -> None:
    """The giver's slot goes to the receiver; all know, and the giver has let go of everything."""
    slot = giver.ring.slots.index(giver.me)
    giver.learn(giver.placement.with_wishes([(slot, receiver.me)], os.urandom(8)))
    others = list(cluster.nodes.values())
    await until(lambda: all(one.ring.slots[slot] == receiver.me for one in others), 20)
    await until(lambda: not giver.node.replica.maps[0], 20)


def before_question(
    monkeypatch: pytest.MonkeyPatch, is_it: Callable[[Ask], bool], act: Move
) -> list[int]:
    """Do it once, before the first question that is meant; how often it was done."""
    read_page, done = Reader._page, list[int]()

    async def page(reader: Reader, kind: int, partition: int, ask: Ask) -> Any:
        if not done and is_it(ask):
            done.append(1)
            await act()
        return await read_page(reader, kind, partition, ask)

    monkeypatch.setattr(Reader, "_page", page)
    return done


def test_what_changed_hands_since_the_reader_was_opened_is_read_of_who_has_it(
    tmp_path: Path,
) -> None:
    """Two joined whom the reader does not know, and both copies went there. Nothing failed."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=ONE) as cluster:
            session, (first, second, _) = await with_two_copies(cluster)
            async with reading(session, cluster.credentials) as reader:
                await move(cluster, first, await newcomer(cluster, "n4"))
                await move(cluster, second, await newcomer(cluster, "n5"))
                assert (await all_of(reader)).keys() == set(KEYS)
                assert [one.name for one in reader.members] == ["n1", "n2", "n3", "n4", "n5"]
            found = [key async for page in scan(session, cluster.credentials) for key in page]
            assert found == KEYS

    run(story())


@pytest.mark.parametrize("kind", [COPY, SCAN])
@pytest.mark.parametrize("is_new", [False, True])
def test_a_partition_that_goes_to_another_node_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, is_new: bool
) -> None:
    """In the middle of its pages, after the receiver was read, and the other copy is away."""
    monkeypatch.setattr(pages, "COPY_KEYS", 7)
    monkeypatch.setattr(pages, "SCAN_KEYS", 7)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=4, settings=ONE) as cluster:
            session, (first, second, third) = await with_two_copies(cluster)
            owners = {first.me, second.me, third.me}
            [spare] = [one for one in cluster.nodes.values() if one.me not in owners]

            async def act() -> None:
                receiver = await newcomer(cluster, "n5") if is_new else spare
                await move(cluster, first, receiver)
                await cluster.kill_node(cluster.owners_of(b"k")[1])

            done = before_question(monkeypatch, lambda ask: bool(ask.after and ask.epoch), act)
            async with reading(session, cluster.credentials) as reader:
                found = []
                async for rows in reader._read(kind, 0):
                    found += rows.keys
                assert found == KEYS and done
                assert reader.missing == {second.me}

    run(story())


def test_a_stand_in_that_joined_a_moment_ago_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps one of two copies, and who opens the reader has not heard of it."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=ONE) as cluster:
            client = await cluster.connect()
            refreshing = client.session._refreshing
            assert refreshing is not None
            refreshing.cancel()
            new = await newcomer(cluster, "n4")
            names = cluster.owners_of(b"k")
            await cluster.kill_node(names[2])
            await client.put_many(dict.fromkeys(KEYS, b"v"), w=3)
            await until(lambda: cluster.hints() == len(KEYS))
            monkeypatch.setattr(new.node.replica, "on_tick", lambda *_: [])
            await cluster.start_node(names[2], first_start=False)
            forget(cluster.nodes[names[0]])
            await cluster.kill_node(names[1])
            async with reading(client.session, cluster.credentials) as reader:
                assert (await all_of(reader)).keys() == set(KEYS)
            assert cluster.hints() == len(KEYS), "or the test shows nothing"

    run(story())


def test_a_backup_while_a_partition_moves_is_whole_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COPY_KEYS", 7)

    async def story() -> None:
        async with Loopback(tmp_path / "a", nodes=4, settings=ONE) as cluster:
            session, (first, second, _) = await with_two_copies(cluster)

            async def act() -> None:
                await move(cluster, first, await newcomer(cluster, "n5"))
                await move(cluster, second, await newcomer(cluster, "n6"))

            done = before_question(monkeypatch, lambda ask: ask.after >= b"k20", act)
            where, credentials = str(tmp_path / "backups"), cluster.credentials
            made = await create(session, credentials, where, "1", lambda *_: None)
            assert done and made.counts.keys == len(KEYS)
            folder, made = opened(f"{where}/{made.name}")
            assert backups.verify(folder, made, lambda *_: None) == {}
            assert made.origin.complete == ["n1", "n2", "n3", "n4", "n5", "n6"]

    run(story())


def test_a_replacement_that_has_copied_everything_is_read_in_the_place_of_the_old_node(
    tmp_path: Path,
) -> None:
    """Until then it counts as missing, as it is in doubt."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=4, settings=ONE) as cluster:
            session, (first, second, _) = await with_two_copies(cluster)
            names = cluster.owners_of(b"k")
            async with reading(session, cluster.credentials) as reader:
                await cluster.kill_node(names[0])
                heir = Member(os.urandom(8), "n5")
                known = merge_views(second.view, View(ends={first.me: heir.node}))
                new = await start(cluster, heir, known)
                assert new.node.replica.in_doubt
                await until(lambda: not new.node.replica.in_doubt, 20)
                await cluster.kill_node(names[1])
                assert (await all_of(reader)).keys() == set(KEYS)
                assert reader.missing == {second.me}

    run(story())


def test_who_stays_behind_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners that know other owners than everybody else are no proof of anything."""
    monkeypatch.setattr("dynamo_ray.core.following.TRIES", 3)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=4, settings=ONE) as cluster:
            session, (first, second, third) = await with_two_copies(cluster)
            before = second.ring
            await move(cluster, first, await newcomer(cluster, "n5"))
            second.node._ring = before
            async with reading(session, cluster.credentials) as reader:
                assert (await all_of(reader)).keys() == set(KEYS)
                assert reader.missing == {second.me}
                third.node._ring = before
                with pytest.raises(UnavailableError, match="3 of 5 nodes"):
                    await all_of(reader)

    run(story())


def test_verify_compares_those_who_are_owners_by_now(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=4, settings=ONE) as cluster:
            session, (first, *_) = await with_two_copies(cluster)
            await move(cluster, first, await newcomer(cluster, "n5"))
            found = await verify(session, cluster.credentials)
            assert not found.unread and len(found.differences) == 1
            [difference] = found.differences
            assert difference.keys == len(KEYS) and difference.lacking["n5"] == 0
            assert difference.lacking[cluster.owners_of(b"k")[2]] == len(KEYS)

    run(story())


@pytest.mark.parametrize("step", [Compare, Enumerate])
def test_verify_tells_nothing_false_of_a_partition_that_moves_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: type
) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=4, settings=ONE) as cluster:
            session, (first, second, third) = await with_two_copies(cluster)
            new = await newcomer(cluster, "n5")
            ask, done = _Look._ask, list[int]()

            async def asked(look: _Look, node: bytes, message: Any) -> Any:
                if isinstance(message, step) and node == first.me and not done:
                    done.append(1)
                    await move(cluster, first, new)
                    third.node.replica.maps[0].update(second.node.replica.maps[0])
                    third.node.replica._mark([0] * len(KEYS), KEYS)
                return await ask(look, node, message)

            monkeypatch.setattr(_Look, "_ask", asked)
            found = await verify(session, cluster.credentials)
            assert done and found.are_equal and not found.doubted

    run(story())


async def repaired(cluster: Loopback, session: Session, act: Move) -> Repaired:
    """A repair of everything, while something happens once it has begun."""
    done = []

    def moved(left: int, total: int, keys: int) -> None:
        if not done:
            done.append(asyncio.ensure_future(act()))

    found = await repair(session, cluster.credentials, moved=moved)
    await done[0]
    return found


def test_a_repair_is_of_those_who_own_a_partition_in_the_end(tmp_path: Path) -> None:
    """The first owner, who was to compare, has given the partition away before it came to it."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=4, settings=ONE) as cluster:
            session, (first, second, third) = await with_two_copies(cluster)
            forget(second)
            new = await newcomer(cluster, "n5")
            first.node.rounds.next = lambda: None  # it never comes to it
            for one in cluster.nodes.values():
                one.node.rounds._due = lambda other: None  # only what is demanded
            found = await repaired(cluster, session, lambda: move(cluster, first, new))
            assert found.is_whole and [node.name for node in found.nodes][-1] == "n5"
            assert len({len(one.node.replica.maps[0]) for one in (new, second, third)}) == 1

    run(story())


def test_verify_waits_for_what_a_node_gets_that_was_about_to_give_its_slot_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed for a cut-over it takes no writes, for longer than a write is under way."""
    monkeypatch.setattr("dynamo_ray.verifying.SETTLE_S", 0.2)

    async def story(is_on_its_way: bool) -> bool:
        async with Loopback(tmp_path / str(is_on_its_way), nodes=4, settings=ONE) as cluster:
            session, (first, second, third) = await with_two_copies(cluster)
            if is_on_its_way:
                [spare] = cluster.nodes.keys() - set(cluster.owners_of(b"k"))
                receiver = cluster.nodes[spare].me
                for one in cluster.nodes.values():
                    one.node.handover.on_tick = lambda *_: []  # as if it took its time
                view = first.placement.with_wishes([(0, receiver)], os.urandom(8))
                first.learn(view)

            def arrive() -> None:
                third.node.replica.maps[0].update(second.node.replica.maps[0])
                third.node.replica._mark([0] * len(KEYS), KEYS)

            asyncio.get_running_loop().call_later(0.7, arrive)
            return (await verify(session, cluster.credentials)).are_equal

    assert run(story(True)) and not run(story(False))


def test_verify_says_who_went_silent_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is left holds the same: that is no proof of anything."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=ONE) as cluster:
            session, (_, _, third) = await with_two_copies(cluster)
            ask = _Look._ask

            async def asked(look: _Look, node: bytes, message: Any) -> Any:
                is_lost = isinstance(message, Descend) and node == third.me
                return None if is_lost else await ask(look, node, message)

            monkeypatch.setattr(_Look, "_ask", asked)
            found = await verify(session, cluster.credentials)
            name = cluster.owners_of(b"k")[2]
            assert not found.are_equal and found.unread == {0: [name]}

    run(story())


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_restore_goes_to_those_who_are_owners_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    """Two owners are others than whoever restores believes, and a third is away."""
    monkeypatch.setattr("dynamo_ray.restoring.RETRY_FOR_S", 0.5)

    async def story() -> None:
        async with Loopback(tmp_path / "a", nodes=4, settings=ONE) as cluster:
            session, (first, second, _) = await with_two_copies(cluster)
            where, view = str(tmp_path / "backups"), cluster.view()
            made = await create(session, cluster.credentials, where, "1", lambda *_: None)
            new = await newcomer(cluster, "n5")
            await move(cluster, first, new)
            [spare] = cluster.nodes.keys() - {*cluster.owners_of(b"k"), "n5"}
            await move(cluster, second, cluster.nodes[spare])
            await cluster.kill_node(cluster.owners_of(b"k")[2])
            for one in (new, cluster.nodes[spare]):
                forget(one)
            inside = Inside(cluster.charter, view, cluster.secrets)
            archived = opened(f"{where}/{made.name}")
            done = await restore(inside, *archived, lambda *_: None, dry_run)
            name = cluster.owners_of(b"k")[2]
            assert done.keys == len(KEYS) and done.behind == [name]
            if dry_run:
                assert done.comparison is not None and done.comparison.new == len(KEYS)
            else:
                for one in (new, cluster.nodes[spare]):
                    assert sorted(one.node.replica.maps[0]) == KEYS

    run(story())
