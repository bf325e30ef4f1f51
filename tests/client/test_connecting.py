"""Connecting: what is wrong with a name, an address, a token or an option is said in words."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dynamo_ray
from dynamo_ray import connecting
from dynamo_ray.config import Profile, save_profile
from dynamo_ray.connecting import connect, parse_address
from dynamo_ray.wire.keys import client_token
from tests.client.contract import fresh
from tests.server.loopback import Threaded

SOON_S = 0.4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    with Threaded(tmp_path_factory.mktemp("connecting"), nodes=3) as threaded:
        yield threaded


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Ray, no profiles of the user, and short patience."""
    monkeypatch.setattr(connecting, "CONNECT_S", SOON_S)
    monkeypatch.setattr(connecting, "ray_in_use", lambda: False)
    monkeypatch.setenv("DYNAMO_RAY_HOME", str(tmp_path))


@pytest.fixture
def token(cluster: Threaded) -> str:
    return cluster.cluster.token


def closed_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture
def stranger() -> Iterator[Any]:
    """A program that is none of ours: what it says to whoever connects can be set."""
    listening = socket.create_server(("127.0.0.1", 0))
    said = {"words": b""}
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            held.append(one)
            if said["words"]:
                one.sendall(said["words"])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    said["address"] = f"127.0.0.1:{listening.getsockname()[1]}"
    yield said
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for one in held:
        one.close()
    thread.join(5)


@pytest.fixture
def slow_way(cluster: Threaded) -> Iterator[str]:
    """An address that leads to a member of the cluster, after a moment."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while said := await reader.read(65_536):
                writer.write(said)
        writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(SOON_S / 4)
        inner, outer = await asyncio.open_connection(*cluster.cluster.addresses[0])
        await asyncio.gather(pump(reader, outer), pump(inner, writer))

    async def open_door() -> asyncio.Server:
        return await asyncio.start_server(lead, "127.0.0.1", 0)

    async def close(door: asyncio.Server) -> None:
        door.close()

    door = cluster.run(open_door())
    yield f"127.0.0.1:{door.sockets[0].getsockname()[1]}"
    cluster.run(close(door))


def test_an_address_that_another_cluster_has_by_now(
    tmp_path: Path, token: str, slow_way: str
) -> None:
    """Another cluster's member refuses our token at once; the others at our addresses do not.

    A coordinator that starts again listens elsewhere, and its old port may be anybody's. `connect`
    once took the first refusal for an answer, if those that are ours took longer.
    """
    with Threaded(tmp_path, nodes=3, coordinators=1) as other:
        with connect(address=[*other.address, slow_way], token=token) as client:
            client.put(fresh(), b"here")
        with pytest.raises(dynamo_ray.AuthenticationError):
            connect(address=[*other.address, closed_port()], token=token)


def test_nobody_at_the_address(token: str) -> None:
    address = closed_port()
    with pytest.raises(dynamo_ray.ClusterNotFoundError, match=address) as caught:
        connect(address=address, token=token)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", os.urandom(4096)])
def test_somebody_else_at_the_address(stranger: Any, token: str, words: bytes) -> None:
    stranger["words"] = words
    with pytest.raises(dynamo_ray.ClusterNotFoundError, match=stranger["address"]):
        connect(address=stranger["address"], token=token)


def test_a_name_that_nobody_can_resolve(token: str) -> None:
    with pytest.raises(dynamo_ray.ClusterNotFoundError, match="no-such-host"):
        connect(address="no-such-host.invalid:7400", token=token)


def test_one_good_address_is_enough(cluster: Threaded, token: str) -> None:
    key = fresh()
    with connect(address=[closed_port(), cluster.address[0]], token=token) as client:
        client.put(key, b"x")
    with connect(address=f"{cluster.address[1]},{closed_port()}", token=token) as client:
        assert client.get(key).value == b"x"


def test_any_member_knows_the_way(cluster: Threaded, token: str) -> None:
    fact = cluster.cluster.nodes["n1"].fact
    assert fact is not None
    with connect(address=f"{fact.host}:{fact.port}", token=token) as client:
        assert client.get(fresh()).value is None


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "host:", ":7400", "host:0", "host:65536", "host:x", "host:-1", "a,b"],
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises((dynamo_ray.BadRequestError, dynamo_ray.ClusterNotFoundError)) as caught:
        connect(address=address, token=client_token(bytes(32)))
    assert isinstance(caught.value, ValueError) or not address
    assert parse_address("[::1]:7400") == ("::1", 7400)


def test_the_token_of_another_cluster(cluster: Threaded) -> None:
    with pytest.raises(dynamo_ray.AuthenticationError, match=cluster.address[0]) as caught:
        connect(address=cluster.address[0], token=client_token(bytes(32)))
    assert isinstance(caught.value, ConnectionError)


def test_a_text_that_is_no_token(cluster: Threaded, token: str) -> None:
    for wrong in ("secret", "", token[:-3], token[:-1] + "é", token.replace("drc1.", "")):
        with pytest.raises(dynamo_ray.AuthenticationError, match="token"):
            connect(address=cluster.address, token=wrong)
    with pytest.raises(dynamo_ray.AuthenticationError, match="needs token"):
        connect(address=cluster.address)


def test_errors_tell_no_secret(cluster: Threaded, token: str) -> None:
    with pytest.raises(dynamo_ray.AuthenticationError) as caught:
        connect(address=cluster.address, token=token[:-3])
    assert token[10:20] not in str(caught.value)
    assert token not in repr(connecting.Way(address="a:1", token=token))


def test_options_are_checked_before_anything_is_dialled(token: str) -> None:
    address = closed_port()
    for wrong in ({"timeout": 1}, {"N": 3}, {"resolvr": None}):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(wrong))}'"):
            connect(address=address, token=token, **wrong)
    for wrong in ({"r": 0}, {"w": -1}, {"timeout_s": 0}):
        with pytest.raises(ValueError):
            connect(address=address, token=token, **wrong)
    with pytest.raises(TypeError):
        connect(address=address, token=token, r="2")


def test_a_name_or_an_address(token: str) -> None:
    for wrong in ({}, {"name": "carts", "address": "a:1", "token": token}):
        with pytest.raises(dynamo_ray.BadRequestError, match="either"):
            connect(**wrong)
    for wrong in ({"coordination": "both"}, {"transport": "carrier pigeon"}):
        with pytest.raises(dynamo_ray.BadRequestError, match="coordination is"):
            connect("carts", **wrong)
    for wrong in ({"coordination": "client"}, {"transport": "ray"}):
        with pytest.raises(dynamo_ray.BadRequestError, match="need a name"):
            connect(address="a:1", token=token, **wrong)


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(dynamo_ray.ClusterNotFoundError, match="'carts'"):
        connect("carts")
    with pytest.raises(dynamo_ray.ClusterNotFoundError, match="'carts'"):
        asyncio.run(dynamo_ray.connect_async("carts"))
    with pytest.raises(dynamo_ray.BadRequestError, match="cannot be a name"):
        connect("../carts")


def test_a_name_with_a_profile(cluster: Threaded, token: str) -> None:
    save_profile(Profile("carts", "", cluster.address, token))
    with connect("carts") as client:
        assert client.get(fresh()).value is None
    path = save_profile(Profile("carts", "", [], token))
    with pytest.raises(dynamo_ray.ClusterNotFoundError, match="no address"):
        connect("carts")
    path.write_text("{")
    with pytest.raises(dynamo_ray.BadRequestError, match="cannot be read"):
        connect("carts")


def test_no_coordinator_is_left(tmp_path: Path) -> None:
    with Threaded(tmp_path / "c", nodes=3, coordinators=0) as threaded:
        fact = threaded.cluster.nodes["n1"].fact
        assert fact is not None
        with pytest.raises(dynamo_ray.ClusterNotFoundError, match="no coordinator"):
            connect(address=f"{fact.host}:{fact.port}", token=threaded.cluster.token)
