"""What a server refuses: strangers, garbage, clients where peers belong, other rings, too much."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray.core.encoding import to_fields
from dynamo_ray.core.kinds import (
    COPIED,
    COPY,
    DIGESTS,
    HEARD,
    KNOWN,
    NEWS,
    SCAN,
    VIEW,
    VIEWED,
    WHERE,
)
from dynamo_ray.core.membership import View, view_from
from dynamo_ray.core.messages import Code, Fetch, Merge, Mint, Minted, Refused
from dynamo_ray.core.pages import COPY_KEYS
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.settings import settings_from
from dynamo_ray.errors import OverloadedError
from dynamo_ray.server.member import monotonic_ms
from dynamo_ray.wire.frames import pack
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import Credentials, client_credentials, peer_credentials
from tests.server.loopback import HOST, Loopback, run, until

KEY = b"key"


def mint_of(cluster: Loopback, key: bytes = KEY) -> Mint:
    partition = partition_of(key, cluster.charter.settings.partitions)
    return Mint([key], [partition], [b"value"], [None], [os.urandom(16)], [0])


async def caller(cluster: Loopback, name: str, credentials: Credentials) -> Any:
    server = cluster.nodes.get(name) or cluster.coordinators[name]
    assert server.fact is not None
    return await connect(server.fact.host, server.fact.port, credentials)


def peer_of(cluster: Loopback) -> Credentials:
    return peer_credentials(cluster.secrets[0], cluster.charter.cluster_id)


async def refusal(connection: Any, kind: int, fields: Any) -> Code:
    answer_kind, answer = await connection.request(kind, fields, 2.0)
    assert answer_kind == Refused.KIND, answer
    assert isinstance(answer[1], str) and answer[1]
    return Code(answer[0])


def test_a_client_may_ask_a_node_for_nothing_but_pages_of_a_partition(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            owner = cluster.owners_of(KEY)[0]
            node = cluster.nodes[owner]
            client = await caller(cluster, owner, client_credentials(cluster.token))
            mint = mint_of(cluster)
            epoch = node.ring.epoch_of(mint.partitions[0])
            state = Merge([KEY], mint.partitions, [b"state"])
            for message in (mint, state, Fetch([KEY], mint.partitions)):
                fields = (monotonic_ms() + 2000, epoch, *to_fields(message))
                assert await refusal(client, message.KIND, fields) == Code.FORBIDDEN
            assert cluster.states_of(KEY)[owner] is None

            peer = await caller(cluster, owner, peer_of(cluster))
            fields = (monotonic_ms() + 2000, epoch, *to_fields(mint))
            assert (await peer.request(Mint.KIND, fields, 2.0))[0] == Minted.KIND
            state = cluster.states_of(KEY)[owner]
            assert state is not None
            page = await client.request(COPY, (mint.partitions[0], b""), 2.0)
            assert page == (COPIED, [[KEY], [state], COPY_KEYS, True])
            for name in set(cluster.nodes) - {owner}:
                await cluster.kill_node(name)  # or it would soon be compared, and sure again
            node.node.replica.doubted |= {mint.partitions[0]}
            page = await client.request(COPY, (mint.partitions[0], b""), 2.0)
            assert page == (COPIED, [[KEY], [state], COPY_KEYS, False])
            client.close()
            peer.close()

    run(story())


def test_a_coordinator_takes_only_what_clients_ask(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            for credentials in (client_credentials(cluster.token), peer_of(cluster)):
                connection = await caller(cluster, "c1", credentials)
                fields = to_fields(mint_of(cluster))
                assert await refusal(connection, Mint.KIND, fields) == Code.BAD_REQUEST
                connection.close()

    run(story())


def test_a_client_teaches_nobody_what_the_cluster_is(tmp_path: Path) -> None:
    """It may ask for the view; news and digests are for members."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            view = cluster.nodes["n1"].view
            end = View(ends={cluster.charter.member("n2").node: b""})
            for name in ("n1", "c1"):
                client = await caller(cluster, name, client_credentials(cluster.token))
                assert await refusal(client, NEWS, (end.to_rows(),)) == Code.FORBIDDEN
                assert await refusal(client, DIGESTS, (b"",)) == Code.FORBIDDEN
                kind, fields = await client.request(VIEW, (), 2.0)
                assert kind == VIEWED and view_from(fields[0]).nodes() == view.nodes()
                client.close()
            peer = await caller(cluster, "n1", peer_of(cluster))
            for strange in ((), (b"x",), ([[1], [], [], []],)):
                assert await refusal(peer, NEWS, strange) == Code.BAD_REQUEST
            assert await peer.request(NEWS, (view.to_rows(),), 2.0) == (HEARD, [])
            kind, fields = await peer.request(DIGESTS, (7,), 2.0)
            assert kind == KNOWN and view_from(fields[1]) == cluster.nodes["n1"].view
            assert not cluster.nodes["n1"].view.ends
            peer.close()

    run(story())


def test_a_request_of_another_ring_is_refused(tmp_path: Path) -> None:
    """Rule 16: no silent misplacement."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            owner = cluster.owners_of(KEY)[0]
            peer = await caller(cluster, owner, peer_of(cluster))
            other, none = Code.OTHER_EPOCH, Code.BAD_REQUEST
            for epoch, code in ((b"another ring", other), (7, none), (None, none)):
                for message in (mint_of(cluster), Fetch([KEY], [0])):
                    fields = (monotonic_ms() + 2000, epoch, *to_fields(message))
                    assert await refusal(peer, message.KIND, fields) == code
            assert cluster.states_of(KEY)[owner] is None
            peer.close()

    run(story())


def test_expired_requests_are_refused(tmp_path: Path) -> None:
    """By the node's own clock; and a mint must say when it expires, not too far from now."""

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            owner = cluster.owners_of(KEY)[0]
            mint = mint_of(cluster)
            epoch = cluster.nodes[owner].ring.epoch_of(mint.partitions[0])
            peer = await caller(cluster, owner, peer_of(cluster))
            for expires_ms in (1, monotonic_ms() - 50, 0, -1, monotonic_ms() + 3_600_000):
                fields = (expires_ms, epoch, *to_fields(mint))
                assert await refusal(peer, Mint.KIND, fields) == Code.EXPIRED
            fields = (monotonic_ms() - 50, epoch, *to_fields(Fetch([KEY], [0])))
            assert await refusal(peer, Fetch.KIND, fields) == Code.EXPIRED
            assert cluster.states_of(KEY)[owner] is None
            peer.close()

    run(story())


@pytest.mark.parametrize("kind", [0xFFFF, SCAN, COPY, WHERE, Mint.KIND, Fetch.KIND, 40, 41])
def test_requests_that_make_no_sense_get_an_answer(tmp_path: Path, kind: int) -> None:
    """An answer, and soon: whoever asks nonsense must not wait for a time-out."""
    nonsense: list[list[Any]] = [
        [],
        [None],
        [10**12],
        [b"x", b"x", b"x", b"x", b"x", b"x", b"x", b"x", b"x"],
        [10**12, b""],
        [-1, b""],
        ["0", ""],
        [0, 0],
        [True, b""],
    ]

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            for name in ("n1", "c1"):
                for credentials in (client_credentials(cluster.token), peer_of(cluster)):
                    connection = await caller(cluster, name, credentials)
                    for fields in nonsense:
                        await refusal(connection, kind, fields)
                    connection.close()
            client = await cluster.connect()
            await client.put("key", b"still serving", w=3)

    run(story())


async def say(address: tuple[str, int], words: bytes) -> bytes:
    """Say the words to a port; all that comes back until it hangs up, bounded."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(words)
    try:
        return await asyncio.wait_for(reader.read(100_000), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_garbage_costs_a_connection_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            client = await cluster.connect()
            node = cluster.nodes["n1"]
            assert node.listener is not None
            huge = b"DR" + struct.pack(">BBII", 1, 0, 0xFFFFFFFF, 0)
            for words in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(100_000), huge, huge * 1000):
                await say((HOST, node.listener.port), words)
            known = await caller(cluster, "n1", client_credentials(cluster.token))
            for words in (huge, b"DR" + os.urandom(1000), pack((2, 30, 0))[:-1] + b"x"):
                garbler = await caller(cluster, "n1", client_credentials(cluster.token))
                garbler._transport.write(words + bytes(20))
                await until(lambda garbler=garbler: garbler.closed_by is not None)
            assert node.listener.counts["garbage"] >= 5
            assert known.connected, "others are not disturbed"
            known.close()
            await client.put("key", b"x", w=3)
            assert not any(node.detector.suspected for node in cluster.nodes.values())

    run(story())


def test_strangers_have_little_time_to_become_known(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1) as cluster:
            listener = cluster.nodes["n1"].listener
            assert listener is not None
            assert 0 < listener.options.handshake_s <= 10
            listener.options = dataclasses.replace(listener.options, handshake_s=0.2)
            began = time.monotonic()
            assert await say((HOST, listener.port), b"") is not None
            assert 0.1 < time.monotonic() - began < 3
            await until(lambda: not listener.strangers)

    run(story())


def test_an_overloaded_coordinator_says_so_quickly(tmp_path: Path) -> None:
    """Two nodes hang, so requests stay in flight; the bound is reached, and nobody waits for it."""
    settings = settings_from({"limits": {"in_flight": 8}, "times": {"suspect_s": 5.0}})

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, coordinators=1, settings=settings) as cluster:
            client = await cluster.connect()
            await client.put("key", b"before", w=3)
            for name in ("n1", "n2"):
                cluster.hang(name)
            clients = [await cluster.connect() for _ in range(12)]
            hanging = [
                asyncio.ensure_future(one.put(f"key:{i}", b"x", timeout_s=3))
                for i, one in enumerate(clients)
            ]
            coordinator = cluster.coordinators["c1"].coordinator
            await until(lambda: coordinator.in_flight >= 8)
            began = time.monotonic()
            with pytest.raises(OverloadedError) as caught:
                await (await cluster.connect()).put("key", b"refused")
            assert time.monotonic() - began < 0.8
            assert caught.value.retryable and caught.value.retry_after_s > 0
            for name in ("n1", "n2"):
                cluster.wake(name)
            ends = await asyncio.gather(*hanging, return_exceptions=True)
            kinds = {type(end).__name__ for end in ends}
            assert kinds == {"Written", "OverloadedError"}
            await until(lambda: coordinator.in_flight == 0)
            assert (await client.get("key", r=3, strict=True)).value == b"before"
            await client.put("key", b"after")

    run(story())


def test_much_at_once_goes_in_parts(tmp_path: Path) -> None:
    """Hundreds of the largest values at once, single and together: no frame grows too long."""

    limits = {"frame_bytes": 6 << 20, "batch_bytes": 5 << 20, "sibling_bytes": 3 << 20}

    async def story() -> None:
        settings = settings_from({"limits": limits})
        async with Loopback(tmp_path, nodes=3, coordinators=1, settings=settings) as cluster:
            client = await cluster.connect(timeout_s=9)
            value = bytes(1 << 20)
            await asyncio.gather(*(client.put(f"single:{i}", value) for i in range(20)))
            await client.put_many({f"many:{i}": value for i in range(20)})
            for kind in ("single", "many"):
                found = await client.get_many([f"{kind}:{i}" for i in range(20)])
                assert all(one.value == value for one in found.values())
            gets = [client.get(f"single:{i}") for i in range(20)]
            assert all(one.value == value for one in await asyncio.gather(*gets))

    run(story())
