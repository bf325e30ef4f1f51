"""The pool of coordinators, grown, mended and shrunk in Ray, with clients by both doors."""

from __future__ import annotations

import asyncio

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


def test_it_grows_and_shrinks_under_load_and_no_request_fails(
    cluster: dynamo_ray.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is gone for good, which Ray does not start again, is replaced."""
    import ray

    from dynamo_ray.actors import fleet

    monkeypatch.setattr(sessions, "REFRESH_S", 0.5)
    assert names(cluster) == ["c1", "c2"]

    async def story() -> None:
        by_wire = await dynamo_ray.connect_async(cluster.name)
        by_ray = await dynamo_ray.connect_async(cluster.name, transport="ray")
        async with by_wire, by_ray:
            clients = by_wire, by_ray
            loads = [Load(client, workers=2, name=fresh("load")) for client in clients]
            async with loads[0], loads[1]:
                ray.kill(fleet.find(cluster.name, fleet.COORDINATOR, "c2"), no_restart=True)
                grown = await asyncio.to_thread(cluster.scale_coordinators, 3)
                assert (grown.starts, grown.ends) == (("c2", "c3"), ())
                assert await asyncio.to_thread(names, cluster) == ["c1", "c2", "c3"]
                for client in clients:
                    channels = client.session._channels
                    await until(
                        lambda c=channels: len(c) == 3 and all(one.connected for one in c.values())
                    )
                await loads[0].more(100)
                shrunk = await asyncio.to_thread(cluster.scale_coordinators, 2)
                assert (shrunk.starts, shrunk.ends) == ((), ("c3",))
                for client in clients:
                    await until(lambda c=client.session._channels: len(c) == 2)
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
