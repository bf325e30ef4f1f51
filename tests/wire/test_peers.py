"""Peers: a connection that comes back, at a measured pace, and tells of it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from dynamo_ray.wire import Backoff, Failure, Options, RefusedError, UnreachableError

ECHO, SILENT = 7, 8


def listening(peer_log: list[Any]) -> dict[str, Any]:
    return {
        "on_up": lambda connection: peer_log.append("up"),
        "on_down": lambda reason: peer_log.append(f"down: {reason}"),
    }


def test_backoff_doubles_up_to_its_most_and_starts_again() -> None:
    backoff = Backoff(0.05, 1.0, Random(3))
    steps = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for most in steps:
        assert most / 2 <= backoff.next_s() <= most
    backoff.reset()
    assert backoff.next_s() <= 0.05


def test_backoff_differs_between_peers() -> None:
    """A hundred peers of a restarted node must not come at the same moment."""
    firsts = {Backoff(0.05, 1.0, Random(seed)).next_s() for seed in range(100)}
    assert len(firsts) == 100


def test_the_first_call_of_a_lazy_peer_fails_at_once_and_connects(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        peer = net.peer(listener.port)
        first = net.ends.call(peer, ECHO)
        assert net.ends.of[first] == [Failure.UNSENT]
        assert peer.send(3, []) is Failure.UNSENT and peer.remote_expiry(1) == 0
        assert await peer.wait_connected(5.0) and peer.connected
        net.ends.call(peer, ECHO, 1)
        await net.until(net.ends.complete)
        assert net.ends.all()[1:] == [[1]]
        assert peer.remote_expiry(100) > 0


def test_a_peer_comes_back_when_the_server_does(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        log: list[Any] = []
        listener = await net.listen()
        peer = net.peer(listener.port, **listening(log))
        peer.start()
        await net.until(lambda: peer.connected)
        net.ends.call(peer, SILENT)
        await asyncio.sleep(0.01)
        await listener.close()
        await net.until(lambda: not peer.connected)
        assert net.ends.all() == [Failure.LOST]
        assert net.ends.of[net.ends.call(peer, ECHO)] == [Failure.UNSENT]
        await net.until(lambda: isinstance(peer.problem, UnreachableError))
        again = await net.listen(port=listener.port)
        await net.until(lambda: peer.connected)
        assert peer.problem is None
        net.ends.call(peer, ECHO, 2)
        await net.until(net.ends.complete)
        assert net.ends.all()[-1] == [2] and again.counts["admitted"] == 1
        assert [line.split(":")[0] for line in log] == ["up", "down", "up"]


def test_attempts_slow_down(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        attempts: list[float] = []
        loop = asyncio.get_running_loop()

        async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            attempts.append(loop.time())
            writer.close()

        server = await asyncio.start_server(slam, "127.0.0.1", 0)
        net.closing.append(server.close)
        options = Options(backoff_first_s=0.02, backoff_most_s=0.16)
        peer = net.peer(server.sockets[0].getsockname()[1], options)
        peer.start()
        await net.until(lambda: len(attempts) == 7)
        gaps = [b - a for a, b in pairwise(attempts)]
        for gap, most in zip(gaps, [0.02, 0.04, 0.08, 0.16, 0.16, 0.16], strict=True):
            assert most * 0.45 <= gap <= most + 0.5
        assert not peer.connected


def test_a_server_that_drops_us_at_once_is_spared(on_net: Any) -> None:
    """To be admitted is not yet success: the pace is kept until a connection has held a while."""

    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen(
            on_open=lambda connection: asyncio.get_running_loop().call_soon(connection.abort)
        )
        peer = net.peer(listener.port, Options(backoff_first_s=0.02, backoff_most_s=0.2))
        peer.start()
        await asyncio.sleep(0.5)
        assert listener.counts["admitted"] <= 9
        await net.until(lambda: listener.counts["admitted"] >= 2)


def test_pings_bring_news_readings_and_round_trips(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        heard: list[float] = []
        peer = net.peer(listener.port, on_heard=heard.append)
        peer.start()
        await net.until(lambda: len(heard) >= 1)
        first = peer.connection.reading_ms
        await net.until(lambda: len(heard) >= 3)
        assert peer.connection.reading_ms > first
        assert heard == sorted(heard) and peer.connection.heard_at == heard[-1]
        assert 0 < peer.round_trip_s < 1
        [served] = listener.connections
        assert served.reading_ms > first, "the other side learns our clock by the same pings"


def test_whatever_arrives_is_news_of_the_other_side(on_net: Any) -> None:
    """A busy server may be late to answer pings, and is heard all the same."""

    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        heard: list[float] = []
        peer = net.peer(listener.port, Options(interval_s=0.02), on_heard=heard.append)
        peer.start()
        await net.until(lambda: peer.round_trip_s is not None)
        [served] = listener.connections
        vars(served)["_heed_ping"] = lambda call, fields: None
        await asyncio.sleep(0.1)
        pongs = len(heard)
        served.send(ECHO, (b"unasked",))
        await net.until(lambda: len(heard) > pongs)
        assert heard[-1] == peer.connection.arrived_at > peer.connection.heard_at


def test_a_peer_that_does_not_answer_pings_is_left_and_tried_again(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        log: list[Any] = []
        listener = await net.listen()
        options = Options(interval_s=0.02, missed_pings=3, backoff_first_s=0.01, connect_s=5.0)
        peer = net.peer(listener.port, options, **listening(log))
        peer.start()
        await net.until(lambda: peer.connected and peer.round_trip_s is not None)
        [served] = listener.connections
        served._transport.pause_reading()
        net.ends.call(peer, ECHO)
        await net.until(lambda: len(log) >= 3)
        assert log == ["up", "down: silent for 3 pings", "up"]
        assert net.ends.all() == [Failure.LOST]


def test_a_program_that_was_stopped_blames_nobody(on_net: Any) -> None:
    """Pings are counted, not timed: one late tick is one missed ping at most."""

    @on_net
    async def _(net: Any) -> None:
        log: list[Any] = []
        listener = await net.listen()
        peer = net.peer(listener.port, Options(interval_s=0.01, missed_pings=2), **listening(log))
        peer.start()
        await net.until(lambda: peer.round_trip_s is not None)
        time.sleep(0.3)
        await asyncio.sleep(0.1)
        assert log == ["up"]


def test_single_missed_pings_do_not_add_up(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        log: list[Any] = []
        heard: list[float] = []
        listener = await net.listen()
        options = Options(interval_s=0.02, missed_pings=3)
        peer = net.peer(listener.port, options, on_heard=heard.append, **listening(log))
        assert await peer.wait_connected(5.0)
        await net.until(lambda: listener.connections)
        [served] = listener.connections
        for _ in range(5):
            served._transport.pause_reading()
            await net.until(lambda missed=peer._missed: peer._missed > missed)
            served._transport.resume_reading()
            before = len(heard)
            await net.until(lambda before=before: len(heard) > before + 1)
        assert log == ["up"]


def test_a_connection_that_speaks_is_not_silent(on_net: Any) -> None:
    """Others ping it too (`listen`), so that a ping is always out when the beat comes."""

    @on_net
    async def _(net: Any) -> None:
        log: list[Any] = []
        listener = await net.listen()
        options = Options(interval_s=0.02, missed_pings=3)
        peer = net.peer(listener.port, options, **listening(log))
        assert await peer.wait_connected(5.0)
        peer.connection._pings[1 << 40] = (0.0, lambda at: None)  # one that is never answered
        for _ in range(30):
            net.ends.call(peer, ECHO)
            await asyncio.sleep(0.01)
        assert log == ["up"]
        await net.until(lambda: len(log) >= 2)
        assert log[1] == "down: silent for 3 pings"


def test_a_sign_of_life_is_asked_for_and_seen(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        peer = net.peer(listener.port, Options(interval_s=5.0))
        assert peer.listen()(), "who is not connected is not silent: its loss is told otherwise"
        assert await peer.wait_connected(5.0)
        await net.until(lambda: listener.connections and peer.round_trip_s is not None)
        lives = peer.listen()
        await net.until(lives)
        [served] = listener.connections
        served._transport.pause_reading()
        lives = peer.listen()
        await asyncio.sleep(0.05)
        assert not lives()
        served._transport.resume_reading()
        await net.until(lives)


def test_starting_twice_connects_once(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        peer = net.peer(listener.port)
        peer.start()
        peer.start()
        net.ends.call(peer, ECHO)
        assert await peer.wait_connected(5.0)
        peer.start()
        await asyncio.sleep(0.05)
        assert listener.counts["admitted"] == 1


def test_a_connection_that_is_lost_as_it_comes_up_is_tried_again(on_net: Any) -> None:
    """Garbage right behind the welcome: the peer is told of a connection that has ended already."""

    @on_net
    async def _(net: Any) -> None:
        def spoil_the_first(connection: Any) -> None:
            if listener.counts["admitted"] == 1:
                connection._transport.write(b"x" * 12)

        listener = await net.listen(on_open=spoil_the_first)
        peer = net.peer(listener.port)
        peer.start()
        await net.until(lambda: peer.connected)
        net.ends.call(peer, ECHO, 1)
        await net.until(net.ends.complete)
        assert net.ends.all() == [[1]] and listener.counts["admitted"] == 2


def test_another_address_is_gone_to_at_once(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        log: list[Any] = []
        old, new = await net.listen(), await net.listen()
        peer = net.peer(
            old.port, Options(backoff_first_s=5.0, backoff_most_s=5.0), **listening(log)
        )
        peer.start()
        await net.until(lambda: peer.connected)
        net.ends.call(peer, SILENT)
        await asyncio.sleep(0.01)
        peer.set_address(("127.0.0.1", new.port))
        assert not peer.connected and net.ends.all() == [Failure.LOST]
        await net.until(lambda: peer.connected, 4.0)
        assert log == ["up", "down: another address", "up"]
        await net.until(lambda: not old.connections and len(new.connections) == 1)
        peer.set_address(("127.0.0.1", new.port))
        assert peer.connected, "the same address changes nothing"


def test_another_address_ends_an_attempt_and_a_wait(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        net.closing.append(server.close)
        new = await net.listen()
        for start_s in (0.02, 0.3):
            options = Options(connect_s=0.1, backoff_first_s=9.0, backoff_most_s=9.0)
            peer = net.peer(server.sockets[0].getsockname()[1], options)
            peer.start()
            await asyncio.sleep(start_s)
            assert not peer.connected
            peer.set_address(("127.0.0.1", new.port))
            assert await peer.wait_connected(5.0)


def test_an_idle_peer_only_notes_another_address(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        old, new = await net.listen(), await net.listen()
        peer = net.peer(old.port)
        peer.set_address(("127.0.0.1", new.port))
        await asyncio.sleep(0.05)
        assert not new.counts
        assert await peer.wait_connected(5.0) and new.counts["admitted"] == 1 and not old.counts


def test_a_closed_peer_stays_closed(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        log: list[Any] = []
        listener = await net.listen()
        peer = net.peer(listener.port, **listening(log))
        peer.start()
        await net.until(lambda: peer.connected)
        net.ends.call(peer, SILENT)
        peer.close()
        peer.close()
        assert not peer.connected and log == ["up", "down: closed by this side"]
        net.ends.call(peer, ECHO)
        peer.set_address(("127.0.0.1", 1))
        assert not await peer.wait_connected(0.1)
        await net.until(lambda: not listener.connections)
        assert len(net.ends.all()) == 2 and listener.counts["admitted"] == 1


def test_closing_while_connecting_or_waiting_leaves_nothing(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        for wait_s in (0, 0.001, 0.003):
            peer = net.peer(listener.port)
            peer.start()
            await asyncio.sleep(wait_s)
            peer.close()
        await net.until(lambda: not listener.connections and not listener.strangers)
        waiting = net.peer(1)
        waiting.start()
        await net.until(lambda: waiting.problem is not None)
        waiting.close()
        await asyncio.sleep(0.05)
        assert not waiting.connected


def test_a_refused_peer_says_why_and_keeps_trying(on_net: Any, secret: bytes) -> None:
    """The secret may be on its way to the server: rotation must not need an order."""

    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen(secrets=[b"o" * 32])
        peer = net.peer(listener.port)
        assert not await peer.wait_connected(0.1)
        assert isinstance(peer.problem, RefusedError)
        listener.honour([b"o" * 32, secret])
        assert await peer.wait_connected(5.0) and peer.problem is None


def test_calls_made_while_going_down_end_once_each(on_net: Any) -> None:
    """A machine above answers a lost call by another one, right inside the callback."""

    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        ends: list[Any] = []
        peer = net.peer(listener.port)
        assert await peer.wait_connected(5.0)

        def again(failure: Failure) -> None:
            ends.append(failure)
            if len(ends) < 6:
                peer.call(ECHO, [], lambda *_: None, again)

        for _ in range(3):
            peer.call(SILENT, [], lambda *_: None, again)
        await asyncio.sleep(0.01)
        [served] = listener.connections
        served.abort()
        await net.until(lambda: len(ends) >= 6)
        assert ends.count(Failure.LOST) == 3 and ends.count(Failure.UNSENT) >= 3
        await net.until(lambda: peer.connected)


def test_options_travel_to_the_connection(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        peer = net.peer(listener.port, dataclasses.replace(Options(), max_in_flight=2))
        assert await peer.wait_connected(5.0)
        for _ in range(3):
            net.ends.call(peer, ECHO)
        await net.until(net.ends.complete)
        assert net.ends.all().count(Failure.OVERLOADED) == 1


@pytest.mark.parametrize("hook", ["on_up", "on_down"])
def test_a_hook_that_raises_does_not_stop_the_peer(on_net: Any, hook: str) -> None:
    @on_net
    async def _(net: Any) -> None:
        def broken(_: Any) -> None:
            told.append(1)
            if len(told) == 1:
                raise ValueError("a bug in a hook")

        told: list[int] = []
        listener = await net.listen()
        peer = net.peer(listener.port, **{hook: broken})
        peer.start()
        await net.until(lambda: listener.connections)
        await asyncio.sleep(0.02)
        next(iter(listener.connections)).abort()
        await net.until(lambda: listener.counts["admitted"] == 2 and peer.connected)
        assert net.faults
        net.faults.clear()
