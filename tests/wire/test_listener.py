"""Listening: strangers of all kinds at a real port, and what each costs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray.wire import (
    CLIENT,
    PEER,
    Options,
    PortInUseError,
    RefusalCode,
    RefusedError,
    UnreachableError,
    client_credentials,
    client_token,
    connect,
    pack,
    peer_credentials,
)
from dynamo_ray.wire.handshake import HELLO as HELLO_KIND
from dynamo_ray.wire.handshake import ConnectingHandshake

ECHO, SILENT = 7, 8
OTHER = b"o" * 32


def test_a_peer_and_a_client_come_in_by_their_roles(on_net: Any, secret: bytes) -> None:
    @on_net
    async def _(net: Any) -> None:
        seen: list[Any] = []
        listener = await net.listen(
            lambda connection, call, kind, _: connection.reply(call, kind, [connection.role]),
            on_open=lambda connection: seen.append(connection.role),
        )
        peer = await net.connect(listener)
        client = await net.connect(listener, client_credentials(client_token(secret)))
        assert await peer.request(ECHO, [], 8.0) == (ECHO, [PEER])
        assert await client.request(ECHO, [], 8.0) == (ECHO, [CLIENT])
        assert (peer.role, client.role, seen) == (PEER, CLIENT, [PEER, CLIENT])
        assert peer.welcome.identity == listener.identity
        assert listener.counts == {"admitted": 2}


def test_who_holds_nothing_is_refused_with_a_reason(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        with pytest.raises(RefusedError) as caught:
            await net.connect(listener, peer_credentials(OTHER))
        assert caught.value.code is RefusalCode.WRONG_TOKEN
        with pytest.raises(RefusedError) as caught:
            await net.connect(listener, peer_credentials(OTHER, b"another-cluster!"))
        assert caught.value.code is RefusalCode.OTHER_CLUSTER
        await net.until(lambda: listener.counts["refused"] == 2)
        assert not listener.connections and not listener.strangers


def test_secrets_rotate_while_listening(on_net: Any, secret: bytes) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        old = await net.connect(listener)
        listener.honour([OTHER, secret])
        await net.connect(listener)
        await net.connect(listener, peer_credentials(OTHER))
        listener.honour([OTHER])
        with pytest.raises(RefusedError):
            await net.connect(listener)
        assert (await old.request(ECHO, [1], 8.0))[1] == [1], "who is connected stays"


def test_a_new_identity_meets_those_who_come(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        await net.connect(listener)
        listener.identity = dataclasses.replace(listener.identity, incarnation=b"the-next-one-1")
        assert (await net.connect(listener)).welcome.identity.incarnation == b"the-next-one-1"


def test_strangers_who_say_nothing_or_half_are_dropped_in_time(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen(options=Options(handshake_s=0.1))
        mute, _ = await net.raw(listener)
        half, writer = await net.raw(listener)
        hello = pack(ConnectingHandshake(peer_credentials(OTHER), b"n" * 32).hello)
        writer.write(hello[:20])
        began = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(mute.read(), 8) == b""
        assert await asyncio.wait_for(half.read(), 8) == b""
        assert asyncio.get_running_loop().time() - began < 4
        assert listener.counts["gone"] == 2 and not listener.strangers


def test_who_was_admitted_is_not_dropped_by_the_time_limit(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen(options=Options(handshake_s=0.2))
        connection = await net.connect(listener, connect_s=0.2)
        await asyncio.sleep(0.3)
        assert (await connection.request(ECHO, [1], 8.0))[1] == [1]


def test_strangers_are_bounded_in_number(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen(options=Options(max_strangers=3))
        held = [await net.raw(listener) for _ in range(3)]
        await net.until(lambda: len(listener.strangers) == 3)
        with pytest.raises(RefusedError) as caught:
            await net.connect(listener)
        assert caught.value.code is RefusalCode.BUSY
        assert listener.counts["turned away"] == 1 and len(listener.strangers) == 3
        held[0][1].transport.abort()
        await net.until(lambda: len(listener.strangers) == 2)
        assert (await net.connect(listener)).connected


def test_connections_are_bounded_in_number(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen(options=Options(max_connections=2))
        first = await net.connect(listener)
        await net.connect(listener)
        with pytest.raises(RefusedError) as caught:
            await net.connect(listener)
        assert caught.value.code is RefusalCode.BUSY
        first.close()
        await net.until(lambda: len(listener.connections) == 1)
        await net.connect(listener)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + b"x" * 100,
        b"DR\x01\x00\xff\xff\xff\xff\0\0\0\0",
        b"\0" * 5000,
    ],
)
def test_garbage_costs_the_stranger_the_connection_and_nothing_else(
    on_net: Any, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        well = await net.connect(listener)
        with caplog.at_level(logging.DEBUG, "dynamo_ray.wire"):
            reader, writer = await net.raw(listener)
            address = writer.get_extra_info("sockname")
            writer.write(garbage)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 8) == b""
        assert listener.counts["garbage"] == 1 and not listener.strangers
        lines = [
            record.getMessage() for record in caplog.records if "garbage" in record.getMessage()
        ]
        assert len(lines) == 1 and str(address[1]) in lines[0]
        caplog.clear()
        assert (await well.request(ECHO, [1], 8.0))[1] == [1]


def test_garbage_after_the_handshake_is_counted_too(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        closed: list[str] = []
        listener = await net.listen(on_close=lambda _, reason: closed.append(reason))
        connection = await net.connect(listener)
        connection._transport.write(b"x" * 50)
        await net.until(lambda: listener.counts["garbage"] == 1)
        await net.until(lambda: not connection.connected)
        assert "garbage" in closed[0] and not listener.connections


def test_calls_before_the_proof_are_not_heard(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        heard: list[Any] = []
        listener = await net.listen(lambda *message: heard.append(message))
        reader, writer = await net.raw(listener)
        hello = ConnectingHandshake(peer_credentials(bytes(range(32))), b"n" * 32).hello
        assert hello[1] == HELLO_KIND
        writer.write(pack(hello) + pack([1, ECHO, b"let me in"]))
        await asyncio.wait_for(reader.read(), 8)
        await net.until(lambda: listener.counts["refused"] == 1)
        assert heard == []


def test_a_large_message_right_behind_the_handshake_is_read(on_net: Any) -> None:
    """The server speaks as soon as it admits; its words may come in one chunk with the welcome."""

    @on_net
    async def _(net: Any) -> None:
        heard: list[Any] = []
        listener = await net.listen(on_open=lambda connection: connection.send(3, [b"x" * 200_000]))
        for _ in range(5):
            await net.connect(
                listener,
                handler=lambda _, call, kind, fields: heard.append((call, kind, len(fields[0]))),
            )
        await net.until(lambda: len(heard) == 5)
        assert heard == [(0, 3, 200_000)] * 5


def test_a_port_in_use_is_named(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        with pytest.raises(PortInUseError, match=str(listener.port)) as caught:
            await net.listen(port=listener.port)
        assert caught.value.port == listener.port and isinstance(caught.value, OSError)


def test_nobody_there_is_said_with_the_address(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        await listener.close()
        with pytest.raises(UnreachableError, match=str(listener.port)) as caught:
            await net.connect(listener)
        assert isinstance(caught.value, ConnectionError)


def test_a_server_that_accepts_and_says_nothing_is_given_up(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
            with pytest.raises(UnreachableError, match=r"did not answer|longer than"):
                await connect(
                    "127.0.0.1", port, peer_credentials(OTHER), options=Options(connect_s=0.1)
                )


def test_giving_up_to_connect_leaves_nothing_open(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        for wait_s in (0, 0.0005, 0.001, 0.002, 0.004):
            attempt = asyncio.create_task(net.connect(listener))
            await asyncio.sleep(wait_s)
            attempt.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await attempt).abort()
        await net.until(lambda: not listener.connections and not listener.strangers)


def test_giving_up_at_the_very_moment_of_success_leaves_nothing_open(on_net: Any) -> None:
    """The server has admitted, the client may have heard: cancelled on each of the next turns."""

    @on_net
    async def _(net: Any) -> None:
        attempt: asyncio.Task[Any]

        def cancel_in(turns: int) -> None:
            if turns:
                asyncio.get_running_loop().call_soon(cancel_in, turns - 1)
            else:
                attempt.cancel()

        turns = 0
        listener = await net.listen(on_open=lambda _: cancel_in(turns))
        credentials = peer_credentials(bytes(range(32)))
        given_up = 0
        for turns in range(12):  # noqa: B007
            attempt = asyncio.create_task(connect("127.0.0.1", listener.port, credentials))
            try:
                (await attempt).abort()
            except asyncio.CancelledError:
                given_up += 1
        assert given_up > 0
        await net.until(lambda: not listener.connections and not listener.strangers)


def test_closing_sends_everybody_away(on_net: Any) -> None:
    @on_net
    async def _(net: Any) -> None:
        listener = await net.listen()
        connection = await net.connect(listener)
        stranger, _ = await net.raw(listener)
        await net.until(lambda: len(listener.strangers) == 1)
        await listener.close()
        await net.until(lambda: not connection.connected)
        assert b"the server closes" in await asyncio.wait_for(stranger.read(), 8)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    try:
        subprocess.run(
            [*command.split(), *names, "-keyout", folder / "key", "-out", folder / "cert"],
            check=True, capture_output=True, timeout=20,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl here to make a certificate")
    return folder


def test_the_same_over_tls(on_net: Any, certificate: Path) -> None:
    @on_net
    async def _(net: Any) -> None:
        accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        accepting.load_cert_chain(certificate / "cert", certificate / "key")
        connecting = ssl.create_default_context(cafile=str(certificate / "cert"))
        listener = await net.listen(options=Options(ssl_accepting=accepting))
        connection = await net.connect(listener, ssl_connecting=connecting)
        for n in range(100):
            net.ends.call(connection, ECHO, n, b"x" * 10_000)
        await net.until(net.ends.complete)
        assert net.ends.all() == [[n, b"x" * 10_000] for n in range(100)]
        with pytest.raises(UnreachableError):
            await net.connect(listener)  # speaks plain to a port that speaks TLS
        with pytest.raises(UnreachableError, match="certificate"):
            await net.connect(listener, ssl_connecting=ssl.create_default_context())


@pytest.mark.parametrize("name", ["max_in_flight", "max_frame_bytes", "stall_s", "interval_s"])
def test_options_refuse_nonsense(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Options(**{name: 0})
