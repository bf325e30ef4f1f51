"""Peer: one address, and the connection to it, kept up as well as it can be.

    IDLE ─ start / first call ─► CONNECTING ─ admitted ─► UP
                                     ▲   │ failed          │ lost, silent, or another address
                                     │   ▼                 ▼
                                     └─ WAITING ◄──────────┘   50 ms, doubling to 1 s, jittered

A call while it is not up fails at once: whom to ask instead is for the caller to decide, without
waiting for us. While it is up the other side is pinged; each answer is news of it (on_heard) and a
fresh reading of its clock, and whatever else has come since is news, too. Several pings in a row
without an answer end the connection, since a flow that a fault has stalled may stay stalled long
after the fault is gone. They are counted, not timed: a program that was itself stopped for a minute
has heard nobody for a minute, and must not conclude anything from that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from dynamo_ray.wire.calls import OnFailure, OnReply
from dynamo_ray.wire.connections import CLOSED_HERE, Connection
from dynamo_ray.wire.errors import Failure, WireError
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import Credentials
from dynamo_ray.wire.options import DEFAULTS, Handler, Options, ignore

Address = tuple[str, int]


@dataclass(frozen=True)
class Hooks:
    """What a Peer tells. handler is for what the other side says unasked."""

    on_up: Callable[[Connection], None] = ignore
    on_down: Callable[[str], None] = ignore
    on_heard: Callable[[float], None] = ignore
    handler: Handler = ignore


NO_HOOKS = Hooks()


def _always() -> bool:
    return True


class Backoff:
    """How long to wait before the next attempt: doubling, less up to half by chance. No clock."""

    def __init__(self, first_s: float, most_s: float, rng: Random) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._rng = rng
        self._next_s = first_s

    def next_s(self) -> float:
        delay_s = self._next_s
        self._next_s = min(self._most_s, 2 * delay_s)
        return delay_s * (0.5 + 0.5 * self._rng.random())

    def reset(self) -> None:
        self._next_s = self._first_s


class Peer:
    """One per address. Belongs to one loop; made anywhere, started inside that loop."""

    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        *,
        rng: Random,
        hooks: Hooks = NO_HOOKS,
        options: Options = DEFAULTS,
    ) -> None:
        self.address = address
        self.credentials = credentials  # may be replaced; the next attempt uses it
        self.connection: Connection | None = None
        self.problem: WireError | None = None  # why the last attempt failed
        self._hooks = hooks
        self._options = options
        self._backoff = Backoff(options.backoff_first_s, options.backoff_most_s, rng)
        self._closed = False
        self._attempt: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the next attempt, or of the next ping
        self._missed = 0
        self._arrived = 0
        self._came_up = asyncio.Event()

    # ---- what the owner says

    @property
    def connected(self) -> bool:
        return self.connection is not None

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def round_trip_s(self) -> float | None:
        return None if self.connection is None else self.connection.round_trip_s

    def start(self) -> None:
        """Connect now, unless that is already under way."""
        if not self._closed and not self._under_way():
            self._loop = asyncio.get_running_loop()
            self._begin()

    def call(
        self,
        kind: int,
        fields: Sequence[Any],
        on_reply: OnReply,
        on_failure: OnFailure,
        timeout_s: float | None = None,
    ) -> int:
        """As Connection.call. When not connected: UNSENT at once, and it begins to connect."""
        connection = self.connection
        if connection is not None:
            return connection.call(kind, fields, on_reply, on_failure, timeout_s)
        self.start()
        on_failure(Failure.UNSENT)
        return 0

    def send(self, kind: int, fields: Sequence[Any]) -> Failure | None:
        if self.connection is not None:
            return self.connection.send(kind, fields)
        self.start()
        return Failure.UNSENT

    def set_address(self, address: Address) -> None:
        """Go there instead, at once. Calls in flight at the old address are LOST."""
        if address == self.address or self._closed:
            return
        self.address = address
        under_way = self._under_way()
        self._stop("another address")
        self._backoff.reset()
        if under_way:
            self.start()

    def listen(self) -> Callable[[], bool]:
        """Ask for a sign of life; the answer tells, later, whether one came since.

        A lost connection counts as one: its loss is told to whoever called.
        """
        connection = self.connection
        if connection is None:
            return _always
        before = connection.chunks
        connection.ping(self._hooks.on_heard)
        return lambda: connection.chunks != before or connection is not self.connection

    def remote_expiry(self, timeout_ms: int) -> int:
        """As Connection.remote_expiry; 0 when not connected."""
        return 0 if self.connection is None else self.connection.remote_expiry(timeout_ms)

    async def wait_connected(self, timeout_s: float) -> bool:
        """True as soon as it is up, False after that time."""
        self.start()
        try:
            await asyncio.wait_for(self._came_up.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """For good. Calls in flight are LOST."""
        self._closed = True
        self._stop(CLOSED_HERE)

    # ---- connecting

    def _under_way(self) -> bool:
        return self.connection is not None or self._attempt is not None or self._timer is not None

    def _begin(self) -> None:
        self._timer = None
        self._attempt = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        host, port = self.address
        try:
            connection = await connect(
                host, port, self.credentials, handler=self._hooks.handler, options=self._options
            )
        except WireError as error:
            self._attempt, self.problem = None, error
            self._wait()
        else:
            self._attempt, self.problem = None, None
            self._up(connection)

    def _wait(self) -> None:
        self._timer = self._loop.call_later(self._backoff.next_s(), self._begin)

    def _up(self, connection: Connection) -> None:
        if not connection.connected:  # lost between its making and this moment
            self._wait()
            return
        connection.on_close = self._on_close
        self.connection = connection
        self._up_at = self._loop.time()
        self._missed = 0
        self._came_up.set()
        self._beat()
        self._hooks.on_up(connection)

    def _on_close(self, connection: Connection, reason: str) -> None:
        if connection is self.connection:
            if self._loop.time() - self._up_at > self._options.backoff_most_s:
                self._backoff.reset()  # not earlier: a server that drops us at once is spared
            self._forget()
            self._wait()
            self._hooks.on_down(reason)

    def _stop(self, reason: str) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        connection = self.connection
        self._forget()
        if connection is not None:
            connection.on_close = ignore
            connection.close(reason)
            self._hooks.on_down(reason)

    def _forget(self) -> None:
        self.connection = None
        self._came_up.clear()
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- while it is up

    def _beat(self) -> None:
        connection = self.connection
        if connection is None:
            return
        self._timer = self._loop.call_later(self._options.interval_s, self._beat)
        arrived, self._arrived = connection.chunks != self._arrived, connection.chunks
        if connection.arrived_at > connection.heard_at:  # something that was no answer to a ping
            self._hooks.on_heard(connection.arrived_at)
        if connection.ping(self._hooks.on_heard) or arrived:
            self._missed = 0
            return
        self._missed += 1  # a ping is out, and nothing at all has come since the last beat
        if self._missed >= self._options.missed_pings:
            connection.abort(f"silent for {self._missed} pings")
