"""What the tests of the wire share: a bounded runner on both loops, a small net of real sockets.

`net` checks at its end what must hold after every test: nothing raised inside the loop, and every
call that was made through it ended exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import uvloop

from dynamo_ray.wire import (
    Connection,
    Door,
    Hooks,
    Identity,
    Listener,
    Options,
    Peer,
    connect,
    peer_credentials,
    serve,
)
from dynamo_ray.wire.handshake import Admitted, Welcome

SECRET = bytes(range(32))
IDENTITY = Identity(b"cluster-16-bytes", b"node-8-b", b"incarnation-14")
ECHO, SILENT, LATE = 7, 8, 9
LIMIT_S = 30.0  # for a machine that others keep busy; a test takes a second at most
QUICK = Options(interval_s=0.05, backoff_first_s=0.01, backoff_most_s=0.05, connect_s=5.0)


def answer(connection: Connection, call: int, kind: int, fields: list[Any]) -> None:
    """A server for tests: echoes, keeps silent, or answers late."""
    if kind == ECHO:
        connection.reply(call, kind, fields)
    elif kind == LATE:
        loop = asyncio.get_running_loop()
        loop.call_later(fields[0] / 1000, connection.reply, call, kind, fields)


class Ends:
    """Collects how calls end; each may end once."""

    def __init__(self) -> None:
        self.made = 0
        self.of: dict[int, list[Any]] = {}

    def call(
        self, speaker: Connection | Peer, kind: int, *fields: Any, timeout_s: float | None = None
    ) -> int:
        number = self.made
        self.made += 1
        self.of[number] = []
        speaker.call(
            kind,
            fields,
            lambda kind, reply: self.of[number].append(reply),
            self.of[number].append,
            timeout_s,
        )
        return number

    def all(self) -> list[Any]:
        return [end for ends in self.of.values() for end in ends]

    def complete(self) -> bool:
        return all(len(ends) >= 1 for ends in self.of.values())

    def check(self) -> None:
        assert all(len(ends) == 1 for ends in self.of.values()), self.of


class Net:
    """Listeners, connections and peers on loopback, closed when the test ends."""

    def __init__(self) -> None:
        self.faults: list[Any] = []
        self.closing: list[Callable[[], Any]] = []
        self.ends = Ends()

    async def listen(
        self, handler: Any = answer, port: int = 0, options: Options = QUICK, **door: Any
    ) -> Listener:
        door = {"identity": IDENTITY, "secrets": [SECRET], **door}
        listener = await serve("127.0.0.1", port, handler, door=Door(**door), options=options)
        self.closing.append(listener.close)
        return listener

    async def connect(
        self, listener: Listener, credentials: Any = None, **options: Any
    ) -> Connection:
        credentials = credentials or peer_credentials(SECRET)
        handler = options.pop("handler", lambda *_: None)
        chosen = dataclasses.replace(QUICK, **options)
        connection = await connect(
            "127.0.0.1", listener.port, credentials, handler=handler, options=chosen
        )
        self.closing.append(connection.abort)
        return connection

    def peer(self, port: int, options: Options = QUICK, **hooks: Any) -> Peer:
        peer = Peer(
            ("127.0.0.1", port),
            peer_credentials(SECRET),
            rng=Random(1),
            hooks=Hooks(**hooks),
            options=options,
        )
        self.closing.append(peer.close)
        return peer

    async def raw(self, listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        self.closing.append(writer.transport.abort)
        return reader, writer

    async def until(self, condition: Callable[[], Any], limit_s: float = 10.0) -> None:
        """Wait for it, but not for ever."""
        end = asyncio.get_running_loop().time() + limit_s
        while not condition():
            assert asyncio.get_running_loop().time() < end, "it did not come true in time"
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        for close in reversed(self.closing):
            result = close()
            if isinstance(result, Awaitable):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(result, 2)
        await asyncio.sleep(0)
        self.ends.check()


def _run(new_loop: Callable[[], asyncio.AbstractEventLoop], test: Callable[[Net], Any]) -> None:
    async def bounded() -> None:
        net = Net()
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: net.faults.append(fault))
        try:
            await asyncio.wait_for(test(net), LIMIT_S)
        finally:
            await net.close()
        assert net.faults == []

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(bounded())


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def on_net(request: pytest.FixtureRequest) -> Callable[[Callable[[Net], Any]], None]:
    """Decorator that runs an async test body (net) at once, on this loop, bounded."""
    return lambda test: _run(request.param, test)


@pytest.fixture
def on_one_loop() -> Callable[[Callable[[Net], Any]], None]:
    """The same on the standard loop only: for what does not depend on sockets."""
    return lambda test: _run(asyncio.new_event_loop, test)


class Wire:
    """A transport that keeps what is written, for tests that hold the other end by hand."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.stuck = 0  # bytes that the network does not take
        self.reading = True
        self.aborted = False
        self.closed = False

    def write(self, chunk: bytes) -> None:
        self.writes.append(bytes(chunk))

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, _: str) -> None:
        return None


class Pair:
    """Two connections without a network: what one wrote is given to the other by hand."""

    def __init__(self, handler: Any, options: Options) -> None:
        self.now = 1000.0
        clock = lambda: self.now  # noqa: E731
        met = {"reading_ms": 5_000, "version": 1, "max_frame_bytes": options.max_frame_bytes}
        self.closed: list[str] = []
        self.near = Connection(
            Welcome(IDENTITY, **met), "peer", lambda *_: None, options=options, clock=clock,
            on_close=lambda _, reason: self.closed.append(reason),
        )  # fmt: skip
        self.far = Connection(
            Admitted("peer", **met), "peer", handler, options=options, clock=clock
        )
        self.near_wire, self.far_wire = Wire(), Wire()
        self.near.connection_made(self.near_wire)  # type: ignore[arg-type]
        self.far.connection_made(self.far_wire)  # type: ignore[arg-type]

    def carry(self) -> None:
        """All that was written, to the other side and back, until nobody says anything more."""
        while self.near_wire.writes or self.far_wire.writes:
            for wire, other in ((self.near_wire, self.far), (self.far_wire, self.near)):
                chunk, wire.writes = b"".join(wire.writes), []
                if chunk:
                    other.data_received(chunk)


@pytest.fixture
def new_pair() -> Callable[..., Pair]:
    return lambda handler=answer, **options: Pair(handler, dataclasses.replace(QUICK, **options))


@pytest.fixture
def secret() -> bytes:
    return SECRET
