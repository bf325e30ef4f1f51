"""Greeting: what a socket speaks until the other side is known. Then a Connection takes its place.

It reads one small frame at a time and keeps the rest unread, so a stranger costs at most a few
kilobytes and one timer; and what an admitted side says right behind its handshake is read by the
Connection, under its own limit.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import cast

from dynamo_ray.wire.connections import Connection
from dynamo_ray.wire.errors import (
    FrameError,
    RefusalCode,
    RefusedError,
    UnreachableError,
    WireError,
)
from dynamo_ray.wire.frames import STRANGER_FRAME_BYTES, STRANGER_LIST_ITEMS, FrameReader, pack
from dynamo_ray.wire.handshake import (
    NONCE_BYTES,
    AcceptingHandshake,
    Admitted,
    ConnectingHandshake,
    Welcome,
    refusal,
)
from dynamo_ray.wire.keys import Credentials
from dynamo_ray.wire.options import DEFAULTS, Handler, Options, ignore

Build = Callable[[Welcome | Admitted], Connection]
Ended = Callable[["Greeting", Connection | WireError], None]
# A machine that vanished without a word is noticed in 25 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Greeting(asyncio.Protocol):
    """Speaks one handshake, then calls `ended` once: with what `build` made, or what went wrong."""

    def __init__(
        self,
        handshake: ConnectingHandshake | AcceptingHandshake,
        build: Build,
        ended: Ended,
        limit_s: float,
    ) -> None:
        self._handshake = handshake
        self._build = build
        self._ended: Ended | None = ended
        self._limit_s = limit_s
        self._reader = FrameReader(STRANGER_FRAME_BYTES, STRANGER_LIST_ITEMS)

    @property
    def address(self) -> object:
        return self.transport.get_extra_info("peername")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        _keep_alive(transport)
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._too_slow)
        if isinstance(self._handshake, ConnectingHandshake):
            transport.write(pack(self._handshake.hello))

    def data_received(self, chunk: bytes) -> None:
        while self._ended is not None:
            try:
                messages = self._reader.feed(chunk, most=1)
            except FrameError as error:
                self.drop(error)
                return
            if not messages:
                return
            chunk = b""
            self._heed(messages[0])

    def connection_lost(self, error: Exception | None) -> None:
        self._end(UnreachableError("the connection was closed during the handshake"))

    def drop(self, error: WireError) -> None:
        self._end(error)
        self.transport.abort()

    def refuse(self, code: RefusalCode, sentence: str) -> None:
        """End it before the handshake does, and say why."""
        self._end(RefusedError(code, sentence))
        self.transport.write(pack(refusal(code, sentence)))
        self.transport.close()

    def _heed(self, message: list[object]) -> None:
        answer = self._handshake.on_message(message, int(time.monotonic() * 1000))
        if answer is not None:
            self.transport.write(pack(answer))
        outcome = self._handshake.outcome
        if isinstance(outcome, RefusedError):
            self._end(outcome)
            self.transport.close()
        elif outcome is not None:
            self._hand_over(self._build(outcome))

    def _hand_over(self, connection: Connection) -> None:
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        self._end(connection)
        rest = self._reader.rest()
        if rest:
            connection.data_received(rest)

    def _too_slow(self) -> None:
        self.drop(UnreachableError(f"the handshake took longer than {self._limit_s:g} s"))

    def _end(self, result: Connection | WireError) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self._timer.cancel()
            ended(self, result)


async def connect(
    host: str,
    port: int,
    credentials: Credentials,
    *,
    handler: Handler = ignore,
    options: Options = DEFAULTS,
) -> Connection:
    """A connection within options.connect_s, or RefusedError, FrameError, UnreachableError."""
    loop = asyncio.get_running_loop()
    met: asyncio.Future[Connection] = loop.create_future()
    connection = None
    try:
        async with asyncio.timeout(options.connect_s):
            caller = _caller(credentials, handler, options, met)
            await loop.create_connection(caller, host, port, ssl=options.ssl_connecting)
            connection = await met
        return connection
    except WireError:
        raise
    except TimeoutError:
        sentence = f"{host}:{port} did not answer within {options.connect_s:g} s"
        raise UnreachableError(sentence) from None
    except OSError as error:
        raise UnreachableError(f"{host}:{port} cannot be reached: {error}") from error
    finally:
        if connection is None:
            _give_up(met)


def _give_up(met: asyncio.Future[Connection]) -> None:
    """No connection was taken from here; if one came about at this very moment, close it."""
    met.cancel()
    if not met.cancelled() and met.exception() is None:
        met.result().abort()


def _caller(
    credentials: Credentials, handler: Handler, options: Options, met: asyncio.Future[Connection]
) -> Callable[[], Greeting]:
    def build(welcome: Welcome | Admitted) -> Connection:
        return Connection(welcome, credentials.role, handler, options=options)

    def ended(greeting: Greeting, result: Connection | WireError) -> None:
        if met.done():
            greeting.transport.abort()
        elif isinstance(result, Connection):
            met.set_result(result)
        else:
            met.set_exception(result)

    handshake = ConnectingHandshake(
        credentials, os.urandom(NONCE_BYTES), max_frame_bytes=options.max_frame_bytes
    )
    return lambda: Greeting(handshake, build, ended, options.connect_s)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Let the kernel notice a machine that vanished. Not every system has every knob."""
    connected = transport.get_extra_info("socket")
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for knob, value in _KEEPALIVE.items():
        if hasattr(socket, knob):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, knob), value)
