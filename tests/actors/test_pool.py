"""The pool of coordinators, grown, mended and shrunk in Ray, with clients by both doors."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

import dynamo_ray
from dynamo_ray import session as sessions
from tests.client.contract import fresh
from tests.server.load import Load
from tests.server.loopback import run, until

pytestmark = pytest.mark.ray


def names(cluster: dynamo_ray.Cluster) -> list[str]:
    status = cluster.status()
    assert all(one["state"] == "up" for one in status.coordinators), status.coordinators
    return [one["name"] for one in status.coordinators]


def actor(cluster: dynamo_ray.Cluster, name: str) -> Any:
    from dynamo_ray.actors import fleet

    return fleet.find(cluster.name, fleet.COORDINATOR, name)


def grow(cluster: dynamo_ray.Cluster) -> None:
    """From a pool of two in which a broken-off command has left c2 without a server."""
    import ray

    assert ray.get(actor(cluster, "c2").leave.remote(5.0), timeout=20)
    made = cluster.scale_coordinators(4)
    assert (made.starts, made.ends) == (("c2", "c3", "c4"), ("c2",))
    assert names(cluster) == ["c1", "c2", "c3", "c4"]


def shrink(cluster: dynamo_ray.Cluster) -> None:
    """To two: c3 is gone for good, so that Ray does not know it any more, and c4 is stopped."""
    import ray

    stopped = ray.get(actor(cluster, "c4").pid.remote(), timeout=20)
    ray.kill(actor(cluster, "c3"), no_restart=True)
    os.kill(stopped, signal.SIGSTOP)
    made = cluster.scale_coordinators(2)
    assert made.starts == () and "c4" in made.ends
    assert names(cluster) == ["c1", "c2"]


async def all_have(clients: list[Any], count: int) -> None:
    """Until each client has ways to so many coordinators."""
    for client in clients:
        channels = client.session._channels
        await until(lambda c=channels: len(c) == count and all(o.connected for o in c.values()))


def test_it_grows_and_shrinks_under_load_and_no_request_fails(
    cluster: dynamo_ray.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamo_ray.actors import fleet, pool

    monkeypatch.setattr(sessions, "REFRESH_S", 0.5)
    monkeypatch.setattr(pool, "LEAVE_S", 1.0)
    monkeypatch.setattr(pool, "ANSWER_S", 1.0)

    async def story() -> None:
        by_wire = await dynamo_ray.connect_async(cluster.name)
        by_ray = await dynamo_ray.connect_async(cluster.name, transport="ray", timeout_s=10)
        async with by_wire, by_ray:
            clients = [by_wire, by_ray]
            loads = [Load(client, workers=2, name=fresh("load")) for client in clients]
            async with loads[0], loads[1]:
                await asyncio.to_thread(grow, cluster)
                await all_have(clients, 4)
                await loads[0].more(100)
                await asyncio.to_thread(shrink, cluster)
                await all_have(clients, 2)
                await loads[0].more(100)
                await loads[1].more(20)
            for load, client in zip(loads, clients, strict=True):
                assert load.errors == []
                await load.check(client, siblings=True)

    run(story(), 50)
    assert names(cluster) == ["c1", "c2"] == fleet.member_names(cluster.name, fleet.COORDINATOR)
    assert len(cluster.addresses) == 7 == len(dynamo_ray.attach(cluster.name).addresses)
    assert cluster.scale_coordinators(2, dry_run=True).starts == ()
    with pytest.raises(dynamo_ray.BadRequestError, match="1 to 64 coordinators, not 0"):
        cluster.scale_coordinators(0)
