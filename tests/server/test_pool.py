"""A pool of coordinators that grows and shrinks under load, seen by the clients that hold it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray import session as sessions
from dynamo_ray.channels import Channels
from dynamo_ray.core.membership import View
from dynamo_ray.core.pool import last_words, serving
from dynamo_ray.core.settings import settings_from
from dynamo_ray.survey import status
from tests.server.load import Load
from tests.server.loopback import Loopback, run, until

PATIENT = {"suspect_s": 5.0}


def size(client: Any) -> int:
    return len(client.session._channels)


def at_work(cluster: Loopback) -> list[str]:
    """The coordinators that have something in flight."""
    return [name for name, one in cluster.coordinators.items() if one.coordinator.in_flight]


def names(view: View) -> list[str]:
    return [fact.name for fact in serving(view)]


@pytest.fixture(autouse=True)
def a_view_is_asked_for_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "REFRESH_S", 0.5)


def test_it_grows_and_shrinks_under_load_and_no_request_fails(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect(nodes_too=True)
            async with Load(client) as load:
                await load.more(100)
                for name in ("c2", "c3"):
                    await cluster.start_coordinator(name)
                await until(lambda: size(client) == 3)
                await load.more(300)
                assert all(server.requests > 20 for server in cluster.coordinators.values())
                for name in ("c3", "c1"):  # the one that the client began with, too
                    await cluster.end_coordinator(name)
                await load.more(200)
                await until(lambda: size(client) == 1)
                await load.more(200)
            assert load.errors == []
            await load.check(client)

    run(story())


def test_nobody_goes_on_looking_for_who_has_left(tmp_path: Path) -> None:
    """Not the client at its channel, nor at the address it was given; not `status`; no node."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            client = await cluster.connect()
            await until(lambda: size(client) == 2)
            gone = cluster.coordinators["c1"].fact
            assert gone is not None
            seeds = client.session._seed_peers
            assert (gone.host, gone.port) in [peer.address for peer in seeds]
            await cluster.end_coordinator("c1")
            await until(lambda: size(client) == 1)
            await until(lambda: len(client.session._seed_peers) == len(seeds) - 1)
            assert all(peer.closed for peer in seeds if peer.address == (gone.host, gone.port))
            for node in cluster.nodes.values():
                await until(lambda node=node: names(node.view) == ["c2"])
            found = await status(client.session, cluster.credentials)
            assert [one["name"] for one in found.coordinators] == ["c2"]
            await cluster.start_coordinator("c1")
            await until(lambda: size(client) == 2)
            assert (await status(client.session, cluster.credentials)).healthy

    run(story())


def test_who_has_left_stays_gone_after_a_restart_of_all_nodes(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            await cluster.end_coordinator("c2")
            for node in cluster.nodes.values():
                await until(lambda node=node: names(node.view) == ["c1"])
            await cluster.stop_all()
            cluster._pool = ["c1"]
            await cluster.start_all()
            client = await cluster.connect()
            assert names(client.session.view) == ["c1"]

    run(story())


def test_one_that_leaves_finishes_what_it_has_begun(tmp_path: Path) -> None:
    """A put waits at a node that hangs; meanwhile its coordinator is told to leave."""
    settings = settings_from({"n": 1, "r": 1, "w": 1, "times": PATIENT})

    async def story() -> None:
        async with Loopback(tmp_path, nodes=1, settings=settings) as cluster:
            client = await cluster.connect()
            await until(lambda: size(client) == 2)
            await client.put("key", b"before")
            await until(lambda: not at_work(cluster))
            cluster.hang("n1")
            putting = asyncio.create_task(client.put("key", b"meanwhile", timeout_s=5))
            await until(lambda: at_work(cluster))
            [busy] = at_work(cluster)
            ending = asyncio.create_task(cluster.end_coordinator(busy))
            await asyncio.sleep(0.4)
            assert not ending.done() and busy in cluster.coordinators
            cluster.wake("n1")
            await putting
            await ending
            assert (await client.get("key")).values == (b"meanwhile",)

    run(story())


def test_one_that_leaves_does_not_wait_for_ever(tmp_path: Path) -> None:
    """What is cut off then is asked another one with the same put id: it was done, and is once."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            client = await cluster.connect(timeout_s=10)
            await until(lambda: size(client) == 2)
            found = await client.put("key", b"before")
            await until(lambda: not at_work(cluster))
            for server in cluster.coordinators.values():  # what nodes answer does not arrive
                vars(server).update(_on_reply=lambda *_: None, _wake=lambda: None)
            putting = asyncio.create_task(client.put("key", b"after", found.context))
            await until(lambda: at_work(cluster))
            [busy] = at_work(cluster)
            for server in cluster.coordinators.values():
                vars(server).pop("_on_reply")
            begun = asyncio.get_running_loop().time()
            await cluster.end_coordinator(busy, timeout_s=0.4)
            assert asyncio.get_running_loop().time() - begun < 3.0, "it would have taken ten"
            await putting
            found = await client.get("key", r=3, strict=True)
            assert [sibling.value for sibling in found.siblings] == [b"after"]

    run(story())


def test_who_refuses_at_once_does_not_draw_everything(tmp_path: Path) -> None:
    """It never has anything outstanding; and it has not said that it leaves."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            client = await cluster.connect()
            await until(lambda: size(client) == 2)
            refusing = cluster.coordinators["c1"]
            refusing.leaving = True
            async with Load(client, workers=4) as load:
                await load.more(400)
            assert load.errors == [] and size(client) == 2
            assert refusing.requests < 60, "a few each 0.2 s"

    run(story())


def test_a_coordinator_contradicts_the_last_word_of_an_earlier_run(tmp_path: Path) -> None:
    """By a clock that is far ahead; the last word of its own run it obeys."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            client = await cluster.connect()
            node = cluster.nodes["n1"]
            earlier = [replace(one, member=b"an earlier run") for one in serving(node.view)]
            node.learn(last_words(View().with_facts(earlier), ("c2",), 2**47))
            await until(lambda: names(node.view) == ["c1", "c2"])
            await until(lambda: names(client.session.view) == ["c1", "c2"])
            assert not cluster.coordinators["c1"].leaving
            node.learn(last_words(node.view, ("c2",), 0))
            await until(lambda: cluster.coordinators["c1"].leaving)
            await until(lambda: names(client.session.view) == ["c2"])

    run(story())


# ---- whom a client asks


class Way:
    """A channel that does nothing by itself."""

    connected = True

    def __init__(self, *_: Any) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    def set_address(self, address: tuple[str, int]) -> None:
        pass


def test_the_less_laden_is_asked_and_who_is_unwell_last() -> None:
    a, b = Way(), Way()
    channels = Channels({"a": a, "b": b}, None, 0)
    assert [channels.ordered()[0] for _ in range(4)] == [b, a, b, a]
    channels.begun(a, 100)
    channels.begun(b, 1)
    assert [channels.ordered()[0] for _ in range(4)] == [b] * 4
    channels.ended(a, 100)
    assert [channels.ordered()[0] for _ in range(4)] == [a] * 4
    channels.ask_last(a, lambda: well)
    well = False
    assert [channels.ordered() for _ in range(2)] == [[b, a]] * 2
    well = True
    assert channels.ordered() == [a, b]
    a.connected = False
    assert channels.ordered() == [b, a]


def test_the_channel_of_who_has_left_stays_until_what_it_took_is_answered(tmp_path: Path) -> None:
    from tests.core.test_pool import NOW_MS, fact

    view = View().with_facts([fact("c1"), fact("c2")])
    channels = Channels({}, Way, 0)
    channels.follow(view)
    one, other = channels.values()
    channels.begun(one, 3)
    channels.begun(one, 1)
    channels.follow(last_words(view, (), NOW_MS))
    assert channels.values() == [] and channels.ordered() == []
    assert (one.closed, other.closed) == (0, 1)
    channels.ended(one, 3)
    assert one.closed == 0
    channels.ended(one, 1)
    assert one.closed == 1
