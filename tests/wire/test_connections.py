"""Connections without a network: calls, replies, batching, bounds, clocks, each step by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dynamo_ray.wire import PING, Failure, FrameError, FrameFault, Options, pack
from dynamo_ray.wire.options import ignore

ECHO, SILENT = 7, 8


def test_a_call_is_answered(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        replies: list[Any] = []
        call = pair.near.call(
            ECHO, [b"v", [1, None]], lambda *reply: replies.append(reply), replies.append
        )
        pair.near.flush()
        pair.carry()
        assert replies == [(ECHO, [b"v", [1, None]])]
        assert call > 0 and pair.near.in_flight == 0


def test_both_sides_may_call_and_ids_do_not_meet(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        pair.near._handler = pair.far._handler
        for speaker in (pair.near, pair.far):
            for n in range(5):
                net.ends.call(speaker, ECHO, n)
        pair.near.flush()
        pair.far.flush()
        pair.carry()
        assert net.ends.all() == [[n] for n in (0, 1, 2, 3, 4)] * 2


def test_a_one_way_message_has_no_call_and_gets_no_reply(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        heard: list[Any] = []

        def handler(connection: Any, call: int, kind: int, fields: list[Any]) -> None:
            heard.append((call, kind, fields))
            connection.reply(call, kind, fields)

        pair = new_pair(handler)
        assert pair.near.send(3, [b"x"]) is None
        pair.near.flush()
        pair.far.data_received(pair.near_wire.writes.pop())
        assert heard == [(0, 3, [b"x"])]
        assert pair.far_wire.writes == []


def test_what_is_said_in_one_turn_leaves_in_one_write(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        for n in range(50):
            net.ends.call(pair.near, ECHO, n)
        pair.near.send(3, [])
        assert pair.near_wire.writes == []
        await asyncio.sleep(0)
        assert len(pair.near_wire.writes) == 1
        pair.far.data_received(pair.near_wire.writes.pop())
        assert len(pair.far_wire.writes) == 1, (
            "fifty replies leave when the chunk is done, in one write"
        )
        pair.near.data_received(pair.far_wire.writes.pop())
        assert net.ends.all() == [[n] for n in range(50)]


def test_a_chunk_flushes_every_connection_that_it_made_speak(
    on_one_loop: Any, new_pair: Any
) -> None:
    """A coordinator hears one client and asks three nodes: one write each, before the next turn."""

    @on_one_loop
    async def _(net: Any) -> None:
        nodes = [new_pair() for _ in range(3)]

        def ask_nodes(connection: Any, call: int, kind: int, fields: list[Any]) -> None:
            for node in nodes:
                net.ends.call(node.near, ECHO, *fields)

        client = new_pair(ask_nodes)
        for n in range(4):
            client.near.send(3, [n])
        client.near.flush()
        client.far.data_received(client.near_wire.writes.pop())
        assert [len(node.near_wire.writes) for node in nodes] == [1, 1, 1]
        for node in nodes:
            node.carry()


def test_an_idle_connection_speaks_on_the_very_next_turn(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        for _ in range(3):
            net.ends.call(pair.near, ECHO)
            await asyncio.sleep(0)
            assert len(pair.near_wire.writes) == 1
            pair.carry()


def test_a_late_reply_is_counted_and_ignored(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        net.ends.call(pair.near, ECHO, timeout_s=0.01)
        pair.near.flush()
        pair.now += 1
        await net.until(lambda: net.ends.complete())
        assert net.ends.all() == [Failure.TIMED_OUT]
        pair.carry()
        assert pair.near.late_replies == 1
        assert net.ends.all() == [Failure.TIMED_OUT]


def test_calls_time_out_each_at_its_own_time(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        slow = net.ends.call(pair.near, SILENT, timeout_s=3.0)
        quick = net.ends.call(pair.near, SILENT, timeout_s=0.01)
        never = net.ends.call(pair.near, SILENT)
        pair.now += 0.01
        await net.until(lambda: net.ends.of[quick])
        assert not net.ends.of[slow]
        pair.now += 3.0
        pair.near._on_alarm()
        assert net.ends.of[slow] == [Failure.TIMED_OUT] and not net.ends.of[never]
        pair.near.abort()


def test_a_closed_connection_loses_each_call_once(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        for n in range(5):
            net.ends.call(pair.near, ECHO, n)
        pair.near.flush()
        pair.near.connection_lost(None)
        pair.near.connection_lost(ConnectionResetError("again"))
        pair.near.abort()
        pair.near.close()
        assert net.ends.all() == [Failure.LOST] * 5
        assert pair.closed == ["closed by the other side"]
        pair.carry()
        assert net.ends.all() == [Failure.LOST] * 5


def test_what_never_left_is_unsent(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        left = net.ends.call(pair.near, ECHO)
        pair.near.flush()
        stayed = net.ends.call(pair.near, ECHO)
        pair.near.connection_lost(ConnectionResetError("reset"))
        after = net.ends.call(pair.near, ECHO)
        assert [net.ends.of[n] for n in (left, stayed, after)] == [
            [Failure.LOST],
            [Failure.UNSENT],
            [Failure.UNSENT],
        ]
        assert pair.near.send(3, []) is Failure.UNSENT
        assert not pair.near.ping()


def test_closing_hands_over_what_was_said(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        pair.near.pause_writing()
        pair.near.send(3, [b"last words"])
        net.ends.call(pair.near, ECHO)
        pair.near.close()
        assert b"last words" in b"".join(pair.near_wire.writes)
        assert net.ends.all() == [Failure.LOST], "it was handed over, so it may have been received"
        assert pair.near_wire.closed and not pair.near_wire.aborted


def test_calls_in_flight_are_bounded(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(max_in_flight=3)
        for n in range(5):
            net.ends.call(pair.near, ECHO, n)
        assert net.ends.all() == [Failure.OVERLOADED] * 2
        assert pair.near.ping(), "a ping is outside the bound"
        pair.near.flush()
        pair.carry()
        assert pair.near.round_trip_s is not None
        net.ends.call(pair.near, ECHO, 9)
        pair.near.flush()
        pair.carry()
        assert sorted(net.ends.all()[-1]) == [9]


def test_bytes_that_wait_are_bounded(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(max_out_bytes=10_000)
        pair.near.pause_writing()
        pair.near_wire.stuck = 4_000
        for _ in range(3):
            net.ends.call(pair.near, ECHO, b"x" * 5_000)
        assert net.ends.all() == [Failure.OVERLOADED] * 2, "what the transport still holds counts"
        assert pair.near.send(3, [b"x" * 5_000]) is Failure.OVERLOADED
        assert pair.near.ping()
        pair.near.resume_writing()
        pair.carry()
        assert pair.near.round_trip_s is not None


def test_the_bound_holds_before_anything_was_written(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(max_out_bytes=10_000)
        for _ in range(30):
            net.ends.call(pair.near, ECHO, b"x" * 1_000)
        assert net.ends.all() == [Failure.OVERLOADED] * 21
        pair.near.flush()
        pair.carry()


def test_one_frame_always_may_be_said(on_one_loop: Any, new_pair: Any) -> None:
    """Any state that a merge can produce can be sent, also where the bound is set low."""

    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(max_out_bytes=100)
        net.ends.call(pair.near, ECHO, b"x" * 5_000)
        net.ends.call(pair.near, ECHO, b"y")
        pair.near.flush()
        pair.carry()
        assert net.ends.of == {0: [[b"x" * 5_000]], 1: [Failure.OVERLOADED]}


def test_a_frame_that_the_other_side_does_not_read_is_not_said(
    on_one_loop: Any, new_pair: Any
) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(max_frame_bytes=5_000)
        net.ends.call(pair.near, ECHO, b"x" * 5_000)
        assert net.ends.all() == [Failure.TOO_LONG]
        assert pair.near.send(3, [b"x" * 5_000]) is Failure.TOO_LONG
        with pytest.raises(FrameError) as caught:
            pair.far.reply(1, ECHO, [b"x" * 5_000])
        assert caught.value.fault is FrameFault.TOO_LONG
        assert pair.near.connected and pair.far.connected


def test_while_the_transport_pauses_everything_stays_here(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        pair.near.pause_writing()
        for n in range(3):
            net.ends.call(pair.near, ECHO, n)
        await asyncio.sleep(0)
        assert pair.near_wire.writes == []
        pair.near.resume_writing()
        assert len(pair.near_wire.writes) == 1
        pair.carry()


def test_a_pause_that_comes_before_the_flush_holds(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        net.ends.call(pair.near, ECHO)
        pair.near.pause_writing()
        await asyncio.sleep(0)
        assert pair.near_wire.writes == []
        pair.near.resume_writing()
        pair.carry()


def test_a_ping_overtakes_what_waits(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        pair.near.pause_writing()
        net.ends.call(pair.near, ECHO, b"x" * 1_000)
        pair.near.ping()
        pair.near.resume_writing()
        assert pair.near_wire.writes[0].startswith(pack([3, PING, int(pair.now * 1000)]))
        pair.carry()


def test_who_does_not_take_replies_is_not_listened_to(on_one_loop: Any, new_pair: Any) -> None:
    """Replies have no bound of their own: it is the requests that must stop."""

    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(max_out_bytes=3_000)
        pair.far.pause_writing()
        for n in range(5):
            assert pair.far_wire.reading is (n < 3)
            pair.far.reply(2 * n + 1, ECHO, [b"x" * 1_000])
        pair.far.resume_writing()
        assert pair.far_wire.reading and len(pair.far_wire.writes) == 1


def test_only_the_accepting_side_stops_reading(on_one_loop: Any, new_pair: Any) -> None:
    """If both sides did, each could wait for the other for ever."""

    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(max_out_bytes=1_000)
        pair.near.pause_writing()
        for n in range(5):
            pair.near.reply(2 * n + 2, ECHO, [b"x" * 1_000])
        assert pair.near_wire.reading


def test_a_connection_that_takes_nothing_is_given_up(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair(stall_s=0.03)
        net.ends.call(pair.near, ECHO)
        pair.near.flush()
        pair.near_wire.stuck = 3
        pair.near.pause_writing()
        await asyncio.sleep(0.02)
        pair.near_wire.stuck = 2  # slow is not stuck
        await asyncio.sleep(0.02)
        assert pair.near.connected
        await net.until(lambda: not pair.near.connected)
        assert "took nothing" in pair.closed[0] and pair.near_wire.aborted
        assert net.ends.all() == [Failure.LOST]


def test_garbage_ends_the_connection_and_only_it(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair, other = new_pair(), new_pair()
        net.ends.call(pair.near, SILENT)
        pair.near.flush()
        pair.near.data_received(b"HTTP/1.1 400 Bad Request")
        assert net.ends.all() == [Failure.LOST]
        assert pair.near.fault is not None and pair.near.fault.fault is FrameFault.BAD_MAGIC
        assert pair.near_wire.aborted and "garbage" in pair.closed[0]
        assert other.near.connected


def test_a_callback_that_raises_is_reported_and_the_rest_goes_on(
    on_one_loop: Any, new_pair: Any
) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        def handler(connection: Any, call: int, kind: int, fields: list[Any]) -> None:
            if fields[0] == 1:
                raise ValueError("a bug in the handler")
            connection.reply(call, kind, fields)

        def bad_reply(*_: Any) -> None:
            raise KeyError("a bug in a callback")

        pair = new_pair(handler)
        for n in range(3):
            net.ends.call(pair.near, ECHO, n)
        pair.near.call(ECHO, [3], bad_reply, bad_reply)
        net.ends.call(pair.near, ECHO, 4)
        pair.near.call(ECHO, [1], bad_reply, bad_reply)
        pair.near.flush()
        pair.carry()
        assert net.ends.all() == [[0], [2], [4]]
        pair.near.abort()
        assert (pair.near.callback_faults, pair.far.callback_faults) == (2, 2)
        assert [type(fault["exception"]) for fault in net.faults] == [
            ValueError,
            ValueError,
            KeyError,
            KeyError,
        ]
        net.faults.clear()


def test_a_callback_may_call_and_close(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        replies: list[Any] = []

        def again(kind: int, fields: list[Any]) -> None:
            replies.append(fields)
            if fields[0] < 3:
                pair.near.call(ECHO, [fields[0] + 1], again, replies.append)
            else:
                pair.near.close()

        pair.near.call(ECHO, [0], again, replies.append)
        pair.near.call(SILENT, [0], again, replies.append)
        pair.near.flush()
        pair.carry()
        assert replies == [[0], [1], [2], [3], Failure.LOST]


def test_after_closing_in_a_callback_the_rest_of_the_chunk_is_not_heard(
    on_one_loop: Any, new_pair: Any
) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        heard: list[int] = []

        def handler(connection: Any, call: int, kind: int, fields: list[Any]) -> None:
            heard.append(fields[0])
            connection.close()

        pair = new_pair(handler)
        for n in range(3):
            pair.near.send(3, [n])
        pair.near.flush()
        pair.far.data_received(pair.near_wire.writes.pop())
        assert heard == [0]


def test_the_remote_clock_is_read_and_carried_forward(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        assert pair.near.reading_ms == 5_000 and pair.near.remote_expiry(300) == 5_300
        pair.now += 1.5
        assert pair.near.remote_expiry(300) == 6_800
        assert pair.near.reading_age_s() == 1.5
        heard: list[float] = []
        assert pair.near.ping(heard.append)
        assert not pair.near.ping(heard.append), "one at a time"
        pair.near.flush()
        chunk = pair.near_wire.writes.pop()
        pair.now += 0.25
        pair.far.data_received(chunk)
        answer = pair.far_wire.writes.pop()
        pair.now += 0.25
        pair.near.data_received(answer)
        assert heard == [1002.0] == [pair.near.heard_at]
        assert pair.near.round_trip_s == 0.5
        assert pair.near.reading_ms == 1_001_750, "the clock of the other side when it answered"
        assert pair.near.remote_expiry(300) == 1_002_050 <= pair.now * 1000 + 300
        assert pair.far.reading_ms == 1_001_500, "and a ping tells the sender's"


def test_a_paused_program_makes_requests_look_older_not_fresher(
    on_one_loop: Any, new_pair: Any
) -> None:
    """The pong lay in a buffer for a minute. Heard late, its reading makes the estimate too low."""

    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        pair.near.ping()
        pair.near.flush()
        pair.far.data_received(pair.near_wire.writes.pop())
        pair.now += 60
        pair.near.data_received(pair.far_wire.writes.pop())
        assert pair.near.remote_expiry(500) < pair.now * 1000


@pytest.mark.parametrize("body", [[], [b"no number"], [True], [None]])
def test_a_ping_without_a_reading_changes_no_reading(
    on_one_loop: Any, new_pair: Any, body: list[Any]
) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        pair.far.data_received(pack([1, PING, *body]) + pack([0, PING, *body]))
        assert pair.far.reading_ms == 5_000
        assert len(pair.far_wire.writes) == 1
        pair.near.ping()
        pair.near.data_received(pack([1, PING, *body]))
        assert pair.near.reading_ms == 5_000


def test_replies_nobody_asked_for_do_no_harm(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        pair = new_pair()
        pair.near.data_received(b"".join(pack([call, 5, b"x"]) for call in (1, 3, 99, 2**63 + 1)))
        assert pair.near.late_replies == 4 and pair.near.connected


def test_request_is_the_awaitable_form(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        connection = await net.connect(await net.listen())
        assert await connection.request(ECHO, [b"x"], 2.0) == (ECHO, [b"x"])
        with pytest.raises(Exception, match="timed out"):
            await connection.request(SILENT, [], 0.01)
        waiting = asyncio.create_task(connection.request(SILENT, []))
        await asyncio.sleep(0)
        waiting.cancel()
        lost = asyncio.create_task(connection.request(SILENT, []))
        await asyncio.sleep(0.01)
        connection.abort()
        with pytest.raises(Exception, match="lost"):
            await lost


def test_values_of_a_megabyte_and_batches_travel(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        connection = await net.connect(await net.listen())
        value = bytes(range(256)) * 4096
        for n in range(8):
            net.ends.call(connection, ECHO, n, value)
        net.ends.call(connection, ECHO, [value] * 20)
        await net.until(net.ends.complete)
        assert net.ends.all() == [[n, value] for n in range(8)] + [[[value] * 20]]


def test_many_calls_in_flight_each_get_their_own_reply(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        connection = await net.connect(await net.listen())
        for n in range(1000):
            net.ends.call(connection, ECHO, n, b"x" * (n % 300), timeout_s=5.0)
        await net.until(net.ends.complete)
        assert net.ends.all() == [[n, b"x" * (n % 300)] for n in range(1000)]


def test_a_flood_that_nobody_reads_is_bounded(on_net: Any) -> None:
    """A client asks for 60 MB and reads nothing: the server keeps little, and serves others."""

    @on_net
    async def _(net: Any) -> None:
        value = b"x" * 100_000
        listener = await net.listen(
            lambda connection, call, kind, _: connection.reply(call, kind, [value]),
            options=Options(max_out_bytes=1_000_000),
        )
        deaf = await net.connect(listener, max_in_flight=10_000)
        deaf._transport.pause_reading()
        for _ in range(12):
            for _ in range(50):
                deaf.call(ECHO, [], ignore, ignore)
            await asyncio.sleep(0.002)
        [served] = listener.connections
        assert served._unsent_bytes() < 1_000_000 + 2 * len(value) + (2 << 20)
        well = await net.connect(listener)
        assert (await well.request(ECHO, [], 8.0))[1] == [value]
        deaf._transport.resume_reading()
        await net.until(lambda: deaf.in_flight == 0)


def test_both_loops_say_lost_once_when_the_other_side_dies(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        closed: list[Any] = []
        listener = await net.listen(on_close=lambda _, reason: closed.append(reason))
        connection = await net.connect(listener)
        for _ in range(10):
            net.ends.call(connection, SILENT)
        await net.until(lambda: listener.connections)
        await asyncio.sleep(0.02)
        next(iter(listener.connections)).abort("for the test")
        await net.until(net.ends.complete)
        assert net.ends.all() == [Failure.LOST] * 10
        assert closed == ["for the test"] and not connection.connected


def test_writes_on_real_sockets_are_batched(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        connection = await net.connect(await net.listen())
        writes = count_writes(connection)
        for n in range(100):
            net.ends.call(connection, ECHO, n)
        await net.until(net.ends.complete)
        assert writes == [1]


def count_writes(connection: Any) -> list[int]:
    """How often this connection writes, from now on."""
    counted = [0]
    transport = connection._transport

    class Counting:
        def write(self, chunk: bytes) -> None:
            counted[0] += 1
            transport.write(chunk)

        def __getattr__(self, name: str) -> Callable[..., Any]:
            return getattr(transport, name)  # type: ignore[no-any-return]

    connection._transport = Counting()
    return counted
