"""The contract of tests/client on real Ray actors, by both doors: the wire and Ray calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dynamo_ray
from tests.client.contract import CLAUSES, Awaited, Clause, fresh
from tests.server.loopback import run

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("door", [{"transport": "wire"}, {"transport": "ray"}], ids=["wire", "ray"])
@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
def test_contract(cluster: dynamo_ray.Cluster, door: dict[str, str], clause: Clause) -> None:
    clients: list[dynamo_ray.Client] = []

    async def make(**options: Any) -> Any:
        client = await asyncio.to_thread(dynamo_ray.connect, cluster.name, **door, **options)
        clients.append(client)
        return Awaited(client)

    try:
        run(clause(make), 30)
    finally:
        for client in clients:
            client.close(0)


def test_a_client_may_coordinate_for_itself(cluster: dynamo_ray.Cluster) -> None:
    key = fresh()
    with cluster.connect(coordination="client") as client, cluster.connect() as other:
        done = client.put(key, b"x")
        assert other.get(key).context == done.context
        client.put(key, b"y", done.context)
        assert other.get(key).value == b"y"


def test_an_async_client_by_name(cluster: dynamo_ray.Cluster) -> None:
    async def work() -> None:
        key = fresh()
        for door in ("wire", "ray"):
            async with await dynamo_ray.connect_async(cluster.name, transport=door) as client:
                await client.put(key, door.encode())
                assert (await client.get(key)).value == door.encode()

    run(work(), 30)
