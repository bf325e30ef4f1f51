"""Listening: a port behind which strangers become connections, or do not.

Whatever a stranger does costs it the connection and the server a count; at most so many strangers
are borne at a time, each for a few seconds. The identity and the honoured secrets may change while
listening: those who are connected stay, those who come are met with the new ones.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynamo_ray.wire.connections import Connection
from dynamo_ray.wire.errors import FrameError, PortInUseError, RefusalCode, RefusedError, WireError
from dynamo_ray.wire.greeting import Greeting
from dynamo_ray.wire.handshake import NONCE_BYTES, AcceptingHandshake, Admitted, Identity, Welcome
from dynamo_ray.wire.keys import honoured_keys
from dynamo_ray.wire.options import DEFAULTS, Handler, Options, ignore

_log = logging.getLogger("dynamo_ray.wire")
_CLOSE_S = 1.0


@dataclass(frozen=True)
class Door:
    """Who listens, whom it admits, and what it wants to hear of them."""

    identity: Identity
    secrets: Sequence[bytes]
    on_open: Callable[[Connection], None] = ignore
    on_close: Callable[[Connection, str], None] = ignore


class Listener:
    """Made by serve(). counts: admitted, refused, garbage, gone (before known), turned away."""

    def __init__(self, handler: Handler, door: Door, options: Options) -> None:
        self.identity = door.identity
        self.connections: set[Connection] = set()
        self.counts: Counter[str] = Counter()
        self.strangers: set[Greeting] = set()
        self.options = options
        self.host, self.port = "", 0
        self._handler = handler
        self._door = door
        self.honour(door.secrets)

    def honour(self, secrets: Sequence[bytes]) -> None:
        """From now on admit those who hold one of these secrets or a token of one."""
        self._honoured = honoured_keys(secrets)

    async def open(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Stranger(self), host, port, ssl=self.options.ssl_accepting, backlog=512
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(host, port) from error
            raise
        self.host, self.port = host, self._server.sockets[0].getsockname()[1]

    async def close(self, reason: str = "the server closes") -> None:
        """Let nobody in any more and send away those who are there."""
        self._server.close()
        for stranger in tuple(self.strangers):
            stranger.refuse(RefusalCode.BUSY, reason)
        for connection in tuple(self.connections):
            connection.close(reason)
        try:
            await asyncio.wait_for(self._server.wait_closed(), _CLOSE_S)
        except TimeoutError:
            _log.debug("connections are still closing")

    # ---- one stranger, from its coming to its end

    def handshake(self) -> AcceptingHandshake:
        nonce = os.urandom(NONCE_BYTES)
        return AcceptingHandshake(
            self.identity, self._honoured, nonce, max_frame_bytes=self.options.max_frame_bytes
        )

    def bear(self, stranger: Greeting) -> None:
        full = len(self.connections) >= self.options.max_connections
        if full or len(self.strangers) >= self.options.max_strangers:
            self.counts["turned away"] += 1
            stranger.refuse(RefusalCode.BUSY, "too many connections; try again later")
        else:
            self.strangers.add(stranger)

    def build(self, met: Welcome | Admitted) -> Connection:
        assert isinstance(met, Admitted)
        return Connection(met, met.role, self._handler, options=self.options, on_close=self._closed)

    def ended(self, stranger: Greeting, result: Connection | WireError) -> None:
        borne = stranger in self.strangers
        self.strangers.discard(stranger)
        if isinstance(result, Connection):
            self.counts["admitted"] += 1
            self.connections.add(result)
            self._door.on_open(result)
        elif borne:
            self._count(result, stranger.address)

    def _closed(self, connection: Connection, reason: str) -> None:
        self.connections.discard(connection)
        if connection.fault is not None:
            self._count(connection.fault, connection.address)
        self._door.on_close(connection, reason)

    def _count(self, error: WireError, address: object) -> None:
        kinds = {FrameError: "garbage", RefusedError: "refused"}
        kind = kinds.get(type(error), "gone")
        self.counts[kind] += 1
        _log.debug("%s %s: %s", kind, address, error)


class _Stranger(Greeting):
    def __init__(self, listener: Listener) -> None:
        limit_s = listener.options.handshake_s
        super().__init__(listener.handshake(), listener.build, listener.ended, limit_s)
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.bear(self)


async def serve(
    host: str, port: int, handler: Handler, *, door: Door, options: Options = DEFAULTS
) -> Listener:
    """Listen; port 0 takes a free one (see .port). PortInUseError if another program is there."""
    listener = Listener(handler, door, options)
    await listener.open(host, port)
    return listener
