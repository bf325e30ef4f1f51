"""A connection between two sides that know each other: calls, replies, one-way messages, pings.

Both sides use the same class; who connected and who accepted shows only in the ids of calls (see
calls.py). Nothing here awaits and nothing is allocated per message beyond the message itself: a
call leaves two callbacks in a table.

What is said during one turn of the loop leaves in one write. Whatever the handling of a chunk makes
us say, on any connection, is written when that chunk is done; what is said at another time is
written on the loop's next turn. So nothing waits for a timer, and when much is going on it leaves
together by itself.

Bounds: calls and one-way messages are refused, with a reason and at once, when too many calls are
in flight or too many bytes wait. Replies and pings are outside these bounds, so that load is never
taken for death; instead, the accepting side stops reading from a connection that does not take its
replies. (Only the accepting side: if both did, both could wait for each other.) A connection that
takes no byte at all for `stall_s` is given up.

Callbacks may be called before `call` returns, when it is refused. A callback that raises is
reported to the loop's exception handler and counted; the connection goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from dynamo_ray.wire.calls import Calls, OnFailure, OnReply
from dynamo_ray.wire.errors import CallError, Failure, FrameError, FrameFault
from dynamo_ray.wire.frames import HEADER_BYTES, FrameReader, pack
from dynamo_ray.wire.handshake import Admitted, Welcome
from dynamo_ray.wire.options import Handler, Options, ignore
from dynamo_ray.wire.turns import turn_of

PING = 0  # the one kind that belongs to the wire: [call, 0, the sender's clock]
CLOSED_HERE = "closed by this side"
CLOSED_THERE = "closed by the other side"
_LINGER_S = 1.0  # how long a closed connection may take to hand over what was said before


class Connection(asyncio.Protocol):
    """Made by connect() and serve() when the handshake is over. Belongs to the loop that made it.

    role        what the connecting side is: "peer" or "client"
    welcome     what the accepting side told about itself; None on the accepting side
    reading_ms  the other side's monotonic clock when it was last heard, at heard_at of ours
    """

    def __init__(
        self,
        met: Welcome | Admitted,
        role: str,
        handler: Handler,
        *,
        options: Options,
        on_close: Callable[[Connection, str], None] = ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.role = role
        self.welcome = met if isinstance(met, Welcome) else None
        self.reading_ms = met.reading_ms
        self.heard_at = clock()
        self.round_trip_s: float | None = None
        self.closed_by: str | None = None  # why it ended; None while it is open
        self.fault: FrameError | None = None  # the garbage that ended it
        self.late_replies = 0
        self.chunks = 0  # how often something arrived, a sign of life; and when that was last
        self.arrived_at = self.heard_at
        self.callback_faults = 0
        self.on_close = on_close
        self._accepting = self.welcome is None
        self._parity = 0 if self._accepting else 1
        self._calls = Calls(last=-self._parity)
        self._waiting = self._calls.waiting
        self._pings: dict[int, tuple[float, Callable[[float], None]]] = {}
        self._handler = handler
        self._options = options
        self._max_in_flight = options.max_in_flight
        self._max_out_bytes = options.max_out_bytes
        self._longest = met.max_frame_bytes + HEADER_BYTES
        self._clock = clock
        self._reader = FrameReader(options.max_frame_bytes)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._paused = False
        self._deaf = False  # not reading, because our replies are not taken
        self._unheeded: list[list[Any]] = []  # read before that, and not yet handled
        self._alarm: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    # ---- what the owner says

    @property
    def connected(self) -> bool:
        return self.closed_by is None

    @property
    def address(self) -> object:
        return self._transport.get_extra_info("peername")

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def call(
        self,
        kind: int,
        fields: Sequence[Any],
        on_reply: OnReply,
        on_failure: OnFailure,
        timeout_s: float | None = None,
    ) -> int:
        """Exactly one of the two is called, once. Returns the call's id; 0 if refused at once."""
        calls = self._calls
        if self.closed_by is not None:
            return _refused(on_failure, Failure.UNSENT)
        if len(self._waiting) >= self._max_in_flight:
            return _refused(on_failure, Failure.OVERLOADED)
        call = calls.last + 2
        frame = pack((call, kind, *fields))
        size = len(frame)
        if size > self._longest or self._paused or self._out_bytes + size > self._max_out_bytes:
            refusal = self._refusal(size)
            if refusal is not None:
                return _refused(on_failure, refusal)
        calls.last = call
        self._waiting[call] = (on_reply, on_failure)
        if timeout_s is not None and calls.limit(call, self._clock() + timeout_s):
            self._set_alarm(timeout_s)
        self._say(frame)
        return call

    def send(self, kind: int, fields: Sequence[Any]) -> Failure | None:
        """Say it and expect nothing. None if it will be sent; otherwise why it was refused."""
        if self.closed_by is not None:
            return Failure.UNSENT
        frame = pack((0, kind, *fields))
        refusal = self._refusal(len(frame))
        if refusal is None:
            self._say(frame)
        return refusal

    def reply(self, call: int, kind: int, fields: Sequence[Any]) -> None:
        """Answer a call, outside the bounds. FrameError if it is longer than they read there."""
        if self.closed_by is not None or not call:
            return
        frame = pack((call, kind, *fields))
        if len(frame) > self._longest:
            detail = f"a reply of {len(frame)} bytes, the other side reads {self._longest}"
            raise FrameError(FrameFault.TOO_LONG, detail)
        self._say(frame)
        if self._accepting and (self._paused or self._out_bytes > self._max_out_bytes):
            self._hold_requests()

    def ping(self, on_pong: Callable[[float], None] = ignore) -> bool:
        """Ask for the other side's clock; on_pong(time of hearing). False if one is under way."""
        if self.closed_by is not None or self._pings:
            return False
        calls = self._calls
        calls.last += 2
        self._pings[calls.last] = (self._clock(), on_pong)
        self._say_first(pack((calls.last, PING, self._now_ms())))
        return True

    async def request(
        self, kind: int, fields: Sequence[Any], timeout_s: float | None = None
    ) -> tuple[int, list[Any]]:
        """The awaitable form of call: (kind, fields) of the reply, or CallError."""
        ended: asyncio.Future[tuple[int, list[Any]]] = asyncio.get_running_loop().create_future()

        def on_reply(kind: int, fields: list[Any]) -> None:
            if not ended.done():
                ended.set_result((kind, fields))

        def on_failure(failure: Failure) -> None:
            if not ended.done():
                ended.set_exception(CallError(failure))

        self.call(kind, fields, on_reply, on_failure, timeout_s)
        return await ended

    def remote_expiry(self, timeout_ms: int) -> int:
        """The reading of the other side's clock at which something asked now is too old.

        The last reading was older than its arrival by the way it travelled, so this errs to the
        early side: a request may be dropped too soon, never too late. If the other side's clock
        stood still since (a machine asleep), it would err the other way: ask `reading_age_s` before
        something that must not be done late.
        """
        return self.reading_ms + int((self._clock() - self.heard_at) * 1000) + timeout_ms

    def reading_age_s(self) -> float:
        return self._clock() - self.heard_at

    def close(self, reason: str = CLOSED_HERE) -> None:
        """Fail what waits, hand over what was said, close. Not taken in a second, it is dropped."""
        if self.closed_by is None:
            self._paused = False  # the transport keeps what it cannot hand over yet
            self.flush()
            self._end(reason)
            self._transport.close()
            self._loop.call_later(_LINGER_S, self._transport.abort)

    def abort(self, reason: str = CLOSED_HERE) -> None:
        """Close at once."""
        self._end(reason)
        self._transport.abort()

    # ---- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._transport.set_write_buffer_limits(high=self._options.high_water_bytes)
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)

    def data_received(self, chunk: bytes) -> None:
        turn = self._turn
        turn.receiving = True
        self.chunks += 1
        self.arrived_at = self._clock()
        try:
            self._heed(self._reader.feed(chunk))
        except FrameError as error:
            self.fault = error
            self.abort(f"garbage received: {error}")
        finally:
            turn.receiving = False
            turn.flush()

    def pause_writing(self) -> None:
        self._paused = True
        if self._stall is None:
            self._watch_stall(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()
        self._hear_again()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(CLOSED_THERE if error is None else f"lost: {error}")

    def flush(self) -> None:
        """Hand what was said to the transport, in one write. While it asks for a pause, keep it."""
        out = self._out
        if not out or self._paused:
            return
        self._out, self._out_bytes = [], 0
        self._calls.sent = self._calls.last
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._deaf:
            self._loop.call_soon(self._hear_again)

    # ---- inside

    def _heed(self, messages: list[list[Any]]) -> None:
        handler, parity, take = self._handler, self._parity, self._waiting.pop
        if self._unheeded:
            self._unheeded += messages
            return
        for at, message in enumerate(messages):
            if self._deaf:
                self._unheeded = messages[at:]
                break
            call, kind, *fields = message
            try:
                if call and call & 1 == parity:
                    waiting = take(call, None)
                    if waiting is not None:
                        waiting[0](kind, fields)
                    else:
                        self._heed_pong(call, fields)
                elif kind == PING:
                    self._heed_ping(call, fields)
                else:
                    handler(self, call, kind, fields)
            except Exception as error:
                self._report(error)
            if self.closed_by is not None:
                break

    def _heed_ping(self, call: int, fields: list[Any]) -> None:
        self._heed_reading(fields)
        if call:
            self._say_first(pack((call, PING, self._now_ms())))

    def _heed_pong(self, call: int, fields: list[Any]) -> None:
        asked = self._pings.pop(call, None)
        if asked is None:
            self.late_replies += 1
        elif self._heed_reading(fields):
            asked_at, on_pong = asked
            self.round_trip_s = self.heard_at - asked_at
            on_pong(self.heard_at)

    def _heed_reading(self, fields: list[Any]) -> bool:
        if not fields or type(fields[0]) is not int:
            return False
        self.reading_ms = fields[0]
        self.heard_at = self._clock()
        return True

    def _hear_again(self) -> None:
        """Our replies were taken: go on with what was read already, then read on."""
        if not self._deaf or self._paused or self.closed_by is not None:
            return
        self._deaf = False
        unheeded, self._unheeded = self._unheeded, []
        self._heed(unheeded)
        if not self._deaf:
            self._transport.resume_reading()

    def _hold_requests(self) -> None:
        """Stop reading while more replies wait than the other side may leave untaken."""
        if not self._deaf and self._unsent_bytes() > self._max_out_bytes:
            self._deaf = True
            self._transport.pause_reading()

    def _say_first(self, frame: bytes) -> None:
        """Before what else waits here: a ping behind megabytes would measure them."""
        self._say(frame)
        self._out.insert(0, self._out.pop())

    def _say(self, frame: bytes) -> None:
        if not self._out and not self._paused:
            self._turn.add(self, self._loop)
        self._out.append(frame)
        self._out_bytes += len(frame)

    def _refusal(self, size: int) -> Failure | None:
        if size > self._longest:
            return Failure.TOO_LONG
        unsent = self._unsent_bytes()
        too_much = unsent + size > self._max_out_bytes
        return Failure.OVERLOADED if unsent and too_much else None

    def _unsent_bytes(self) -> int:
        return self._out_bytes + (self._transport.get_write_buffer_size() if self._paused else 0)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _set_alarm(self, delay_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(delay_s, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        for _, on_failure in self._calls.expired(self._clock()):
            self._fail(on_failure, Failure.TIMED_OUT)
        following = self._calls.next_deadline()
        if following is not None and self._alarm is None:
            self._set_alarm(max(0.001, following - self._clock()))

    def _watch_stall(self, unsent: int) -> None:
        self._stall = self._loop.call_later(self._options.stall_s, self._on_stall, unsent)

    def _on_stall(self, before: int) -> None:
        self._stall = None
        unsent = self._transport.get_write_buffer_size()
        if self.closed_by is None and self._paused:
            if unsent >= before:
                self.abort(f"the other side took nothing for {self._options.stall_s:g} s")
            else:
                self._watch_stall(unsent)

    def _end(self, reason: str) -> None:
        if self.closed_by is not None:
            return
        self.closed_by = reason
        self._out, self._out_bytes = [], 0
        self._pings.clear()
        for timer in (self._alarm, self._stall):
            if timer is not None:
                timer.cancel()
        for (_, on_failure), failure in self._calls.take_all():
            self._fail(on_failure, failure)
        try:
            self.on_close(self, reason)
        except Exception as error:
            self._report(error)

    def _fail(self, on_failure: OnFailure, failure: Failure) -> None:
        try:
            on_failure(failure)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        self.callback_faults += 1
        message = "a callback of a wire connection raised"
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "protocol": self}
        )


def _refused(on_failure: OnFailure, failure: Failure) -> int:
    on_failure(failure)
    return 0
