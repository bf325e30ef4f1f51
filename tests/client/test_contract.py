"""The contract of contract.py over real sockets on this machine, for each kind of client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dynamo_ray.client import AsyncClient
from dynamo_ray.connecting import connect, connect_async
from dynamo_ray.core.settings import settings_from
from dynamo_ray.server.embedded import embedded_channel
from dynamo_ray.session import Session
from tests.client.contract import CLAUSES, LIMITS, Awaited, Clause
from tests.server.loopback import Threaded, run

SETTINGS = settings_from({"limits": LIMITS})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    with Threaded(tmp_path_factory.mktemp("contract"), settings=SETTINGS) as threaded:
        yield threaded


class Made:
    """Makes clients of one kind, and closes them all."""

    def __init__(self, cluster: Threaded) -> None:
        self.cluster = cluster
        self.clients: list[Any] = []

    async def __call__(self, **options: Any) -> Any:
        client = await self.make(**options)
        self.clients.append(client)
        return client

    async def make(self, **options: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        for client in self.clients:
            await client.close(0)


class ByAsyncClient(Made):
    async def make(self, **options: Any) -> Any:
        where = {"address": self.cluster.address, "token": self.cluster.cluster.token}
        return await connect_async(**where, **options)


class ByClient(Made):
    async def make(self, **options: Any) -> Any:
        where = {"address": self.cluster.address, "token": self.cluster.cluster.token}
        return Awaited(await asyncio.to_thread(connect, **where, **options))


class ByItself(Made):
    """Client-driven coordination (paper §6.4): the coordinator runs here."""

    async def make(self, **options: Any) -> Any:
        loopback = self.cluster.cluster
        channel = await embedded_channel(loopback.charter, loopback.secrets, loopback.view())
        session = Session([], None, {"here": channel})
        await session.open(5.0)
        return AsyncClient(session).with_options(**options)


@pytest.mark.parametrize("kind", [ByAsyncClient, ByClient, ByItself])
@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
def test_contract(cluster: Threaded, kind: type[Made], clause: Clause) -> None:
    async def kept() -> None:
        make = kind(cluster)
        try:
            await clause(make)
        finally:
            await make.close()

    run(kept(), 20)
