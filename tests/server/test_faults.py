"""Clusters under load while their parts are killed, hung and started again (Dynamo §4.6, §4.8).

The stories run over real sockets and real logs in one process; what the others see of a killed or
hung server is what they would see of a killed or stopped process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from dynamo_ray.core.settings import Settings, settings_from
from tests.server.load import Load
from tests.server.loopback import Loopback, run, until

GAP_S = 1.5  # of silence that a dead or hung node may cost everybody together


def all_keys(load: Load) -> list[bytes]:
    return [key.encode() for keys in load.keys for key in keys]


def are_connected(client: Any) -> bool:
    """Whether the client has a connection to every coordinator that it knows."""
    return all(channel.connected for channel in client.session._channels.values())


def test_an_owner_is_killed_under_load(tmp_path: Path) -> None:
    """No request fails; stand-ins take its place, and give it everything back."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            async with Load(client) as load:
                await load.more(200)
                await cluster.kill_node("n1")
                await load.more(400)
                owned = [key for key in all_keys(load) if "n1" in cluster.owners_of(key)]
                assert owned
                await until(lambda: cluster.hints() > 0)
            assert load.errors == []
            assert load.longest_gap_s < GAP_S
            back = await cluster.start_node("n1")
            assert back.vault.recovery["records"] > 0, "what it had is in its log"
            await cluster.settled()
            await until(lambda: cluster.hints() == 0, 10)
            assert cluster.differing(all_keys(load)) == []
            await load.check(client)

    run(story())


def test_two_of_three_owners_are_killed(tmp_path: Path) -> None:
    """A sloppy quorum goes on with stand-ins; a strict one says that it cannot."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            first, second, _ = cluster.owners_of(b"key")
            await client.put("key", b"before", w=3, strict=True)
            await cluster.kill_node(first)
            await cluster.kill_node(second)
            await until(
                lambda: all(len(c.detector.suspected) == 2 for c in cluster.coordinators.values())
            )
            found = await client.get("key")
            assert found.value == b"before" and found.degraded
            await client.put("key", b"after", found.context)
            found = await client.get("key")
            assert found.value == b"after" and found.degraded
            assert not (await client.get("key", r=1)).degraded
            (refused,) = await asyncio.gather(
                client.put("key", b"x", strict=True), return_exceptions=True
            )
            assert type(refused).__name__ == "UnavailableError"
            assert (refused.required, refused.alive) == (2, 1) and refused.retryable
            (refused,) = await asyncio.gather(
                client.get("key", strict=True), return_exceptions=True
            )
            assert type(refused).__name__ == "UnavailableError"
            (refused,) = await asyncio.gather(client.get("other:1"), return_exceptions=True)
            await cluster.start_node(first)
            await cluster.start_node(second)
            await cluster.settled()
            await until(lambda: cluster.hints() == 0, 10)
            assert cluster.differing([b"key"]) == []
            found = await client.get("key", r=3, strict=True)
            assert found.values == (b"after",) and not found.degraded

    run(story())


def test_nothing_is_not_found_where_owners_are_missing(tmp_path: Path) -> None:
    """A stand-in's "I hold nothing" never counts: unavailable, not absent."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            for owner in cluster.owners_of(b"absent")[:2]:
                await cluster.kill_node(owner)
            (refused,) = await asyncio.gather(client.get("absent"), return_exceptions=True)
            assert type(refused).__name__ == "UnavailableError"
            assert (await client.get("absent", r=1)).found is False

    run(story())


def test_coordinators_are_killed_in_the_middle_of_requests(tmp_path: Path) -> None:
    """The client goes to another one with the same put ids: nothing fails, nothing is there twice.

    A put that both coordinators had made would show as a second version of the same value.
    """

    async def story() -> None:
        async with Loopback(tmp_path, coordinators=3) as cluster:
            client = await cluster.connect(nodes_too=True)
            await until(lambda: len(client.session._channels) == 3)
            async with Load(client, workers=32) as load:
                for name in ("c1", "c2"):
                    await load.more(100)
                    busy = cluster.coordinators[name]
                    await until(lambda busy=busy: busy.coordinator.in_flight > 0)
                    await cluster.kill_coordinator(name)
                    await load.more(100)
                    await cluster.start_coordinator(name)
                    await until(lambda: are_connected(client))
            assert load.errors == []
            assert load.doubled == []
            await load.check(client)

    run(story())


def test_all_coordinators_are_replaced(tmp_path: Path) -> None:
    """The new ones have other addresses; a client that knows only the old ones finds them."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x")
            before = set(cluster.addresses)
            for name in ("c1", "c2"):
                await cluster.kill_coordinator(name)
            (refused,) = await asyncio.gather(client.get("key"), return_exceptions=True)
            assert type(refused).__name__ == "UnavailableError"
            for name in ("c1", "c2"):
                await cluster.start_coordinator(name)
            assert not before & set(cluster.addresses)

            async def again() -> bool:
                ends = await asyncio.gather(client.get("key"), return_exceptions=True)
                return not isinstance(ends[0], Exception)

            deadline = asyncio.get_running_loop().time() + 5
            while not await again():
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.02)

    run(story())


def test_a_node_that_starts_again_is_another_writer(tmp_path: Path) -> None:
    """Rule 2: a new incarnation, later than the last, at every start; killed or closed alike."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            client = await cluster.connect()
            seen = [cluster.nodes["n1"].incarnation]
            for end in ("kill", "close"):
                await client.put("key", end.encode(), w=3)
                if end == "kill":
                    await cluster.kill_node("n1")
                else:
                    await cluster.nodes.pop("n1").close()
                await cluster.start_node("n1")
                await cluster.settled()
                seen.append(cluster.nodes["n1"].incarnation)
            assert len(set(seen)) == 3 and sorted(seen) == seen

            def heard() -> set[bytes]:
                me, pool = cluster.nodes["n1"].me, cluster.coordinators.values()
                return {one.view.nodes()[me].incarnation for one in pool}

            # At the same port the connections are there before the news is.
            await until(lambda: heard() == {seen[-1]})
            assert (await client.get("key", r=3, strict=True)).value == b"close"

    run(story())


def test_a_hung_node_costs_less_than_its_suspicion_and_no_request(tmp_path: Path) -> None:
    """It closes nothing and answers nothing; others mint long before silence makes it suspected.

    Many more requests than may be in flight: what goes on after an answer is in nobody's way.
    """
    settings = settings_from({"times": {"suspect_s": 2.0}, "limits": {"in_flight": 32}})

    async def story() -> None:
        async with Loopback(tmp_path, settings=settings) as cluster:
            client = await cluster.connect()
            coordinators = cluster.coordinators.values()
            async with Load(client) as load:
                await load.more(200)
                cluster.hang("n2")
                hung = cluster.charter.member("n2").node
                await until(
                    lambda: any(hung in c.coordinator.speculation.slow for c in coordinators)
                )
                assert not any(hung in c.detector.suspected for c in coordinators)
                await load.more(100)
                await until(lambda: all(hung in c.detector.suspected for c in coordinators), 10)
                await load.more(100)
                cluster.wake("n2")
                await cluster.settled()
                await load.more(100)
            assert load.errors == []
            assert load.slowest_s < settings.times.suspect_s
            await until(lambda: cluster.hints() == 0, 10)
            await load.check(client)

    run(story())


def test_a_node_that_was_stopped_for_a_moment_mints_nothing_when_it_wakes(tmp_path: Path) -> None:
    """What waited in its socket was minted elsewhere and replaced; it would stand beside that."""
    settings = settings_from({"times": {"suspect_s": 3.0}})

    async def story() -> None:
        async with Loopback(tmp_path, coordinators=1, settings=settings) as cluster:
            client = await cluster.connect()
            speculation = cluster.coordinators["c1"].coordinator.speculation
            cluster.hang(cluster.owners_of(b"key")[0])
            await client.put("key", b"0")
            assert len(speculation.slow) == 1
            for i in range(1, 5):
                await client.put("key", b"%d" % i)
            cluster.wake(cluster.owners_of(b"key")[0])
            await until(lambda: not speculation.slow)
            assert (await client.get("key", r=3, strict=True)).values == (b"4",)

    run(story())


def test_a_hung_coordinator_costs_a_moment_and_no_request(tmp_path: Path) -> None:
    """Its sockets stay open and it says nothing; one request finds that out for all the others."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            await until(lambda: len(client.session._channels) == 2 and are_connected(client))
            async with Load(client) as load:
                await load.more(200)
                cluster.hang("c1")
                await load.more(400)
                assert load.errors == []
                assert load.longest_gap_s < 1.0
            alone = await cluster.connect()
            loop, slow = asyncio.get_running_loop(), 0
            for i in range(20):
                begun = loop.time()
                await alone.put("single", b"%d" % i)
                slow += loop.time() - begun > 0.2
            assert slow <= 2, f"{slow} of 20 requests waited for the coordinator that hangs"
            cluster.wake("c1")
            await cluster.settled()
            await load.check(client, siblings=True)

    run(story())


def test_a_coordinator_that_is_cut_off_from_the_nodes_costs_no_request(tmp_path: Path) -> None:
    """Clients reach it, it suspects everybody, and the other one does not."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            await until(lambda: len(client.session._channels) == 2 and are_connected(client))
            await client.put_many({f"key:{i}": b"0" for i in range(100)})
            cut = cluster.coordinators["c1"]
            for peer in cut.peers.values():
                peer.connection._transport.pause_reading()
            await until(lambda: len(cut.detector.suspected) == 5, 10)
            vars(cut.detector)["on_tick"] = lambda now: frozenset()  # though it dials anew
            async with Load(client) as load:
                await load.more(300)
                assert load.errors == []
            assert len(cut.detector.suspected) == 5
            found = await client.get_many([f"key:{i}" for i in range(100)], strict=True)
            assert {one.value for one in found.values()} == {b"0"}
            await load.check(client)

    run(story())


def test_what_waited_at_a_hung_coordinator_is_not_begun_when_it_wakes(tmp_path: Path) -> None:
    """Another coordinator did it long ago, it was replaced, and its put id is forgotten.

    Requests to a coordinator once had a time-out that began when they were read: the coordinator
    put the old value over newer ones, and nobody was told.
    """
    settings = settings_from({"limits": {"remembered_puts": 2}})

    async def story() -> None:
        async with Loopback(tmp_path, settings=settings) as cluster:
            client = await cluster.connect(timeout_s=0.8)
            await until(lambda: len(client.session._channels) == 2 and are_connected(client))
            cluster.hang("c1")
            for i in range(
                4
            ):  # the first of them goes to the coordinator that hangs, or the second
                await client.put("key", b"old %d" % i)
            for i in range(20):
                await client.put("key", b"new %d" % i)
            await asyncio.sleep(1.0)
            cluster.wake("c1")
            await cluster.settled()
            await asyncio.sleep(0.2)
            assert cluster.coordinators["c1"].requests > 0, "it did read what waited"
            assert (await client.get("key")).values == (b"new 19",)

    run(story())


def test_late_replies_are_counted_and_ignored(tmp_path: Path) -> None:
    settings = settings_from({"times": {"linger_s": 0.1, "suspect_s": 2.0}})

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1, settings=settings) as cluster:
            client = await cluster.connect()
            await client.put("key", b"x", w=3)
            coordinator = cluster.coordinators["c1"]
            last = cluster.owners_of(b"key")[-1]
            cluster.hang(last)
            for i in range(5):
                await client.get("key", r=1, timeout_s=0.2)
                await client.put("key", b"%d" % i, w=1, timeout_s=0.2)
            await until(lambda: coordinator.coordinator.in_flight == 0)
            assert coordinator.status()["late_replies"] == 0
            cluster.wake(last)
            await until(lambda: coordinator.status()["late_replies"] > 0)
            assert (await client.get("key")).values == (b"4",)

    run(story())


def test_what_came_too_late_is_not_done(tmp_path: Path) -> None:
    """A mint that waited in hung nodes' sockets until its caller had given up makes no dot."""
    settings = Settings(n=3, r=1, w=1)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=settings) as cluster:
            client = await cluster.connect()
            owners = cluster.owners_of(b"late")
            for owner in owners:
                cluster.hang(owner)
            ends = await asyncio.gather(
                client.put("late", b"late", timeout_s=0.3), return_exceptions=True
            )
            assert type(ends[0]).__name__ == "OperationTimeoutError"
            assert ends[0].maybe_applied and ends[0].required == 1
            await asyncio.sleep(0.3)
            for owner in owners:
                cluster.wake(owner)
            await cluster.settled()
            await client.put("after", b"x", w=3)
            found = await client.get("late", r=3, strict=True)
            assert not found.found

    run(story())


def test_the_whole_cluster_stops_and_starts_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            async with Load(client) as load:
                await load.more(400)
            await client.put("gone", b"x")
            await client.delete("gone")
            await client.close()
            await cluster.stop_all()
            await cluster.start_all()
            client = await cluster.connect()
            await load.check(client)
            assert not (await client.get("gone")).found
            recovered = [node.vault.recovery for node in cluster.nodes.values()]
            assert all(one["torn_bytes"] == 0 and not one["suspect"] for one in recovered)
            assert not any(node.node.replica.in_doubt for node in cluster.nodes.values())
            async with Load(client, name="again") as load:
                await load.more(100)

    run(story())


def test_everything_is_killed_at_once(tmp_path: Path) -> None:
    """What was acknowledged was with the operating system, so it is there again."""

    async def story() -> None:
        async with Loopback(tmp_path) as cluster:
            client = await cluster.connect()
            async with Load(client) as load:
                await load.more(400)
                await cluster.kill_all()
                load._going = False
            acknowledged = dict(load.acknowledged)
            await client.close()
            await cluster.start_all()
            client = await cluster.connect()
            assert acknowledged
            await load.check(client, siblings=True)
            async with Load(client, name="again") as load:
                await load.more(100)

    run(story())


def test_a_cluster_of_one_node(tmp_path: Path) -> None:
    async def story() -> None:
        settings = Settings(n=1, r=1, w=1)
        async with Loopback(tmp_path, nodes=1, coordinators=1, settings=settings) as cluster:
            client = await cluster.connect()
            async with Load(client) as load:
                await load.more(100)
            found = await client.get_many(load.acknowledged)
            assert all(one.found for one in found.values())
            await cluster.kill_node("n1")
            (refused,) = await asyncio.gather(client.put("key", b"x"), return_exceptions=True)
            assert type(refused).__name__ == "UnavailableError"
            await cluster.start_node("n1")
            await cluster.settled()
            await client.put("key", b"x")

    run(story())


def test_a_coordinator_reaches_the_nodes_before_it_lets_clients_in(tmp_path: Path) -> None:
    """Else its first puts would go to stand-ins; and it does not wait for the dead for long."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3) as cluster:
            server = await cluster.start_coordinator("c3")
            assert all(peer.connected for peer in server.peers.values())
            await cluster.kill_node("n1")
            server = await asyncio.wait_for(cluster.start_coordinator("c4"), 2)
            assert sum(peer.connected for peer in server.peers.values()) == 2

    run(story())
