"""Nodes that come and go in Ray, by the same calls as an operator's, while clients read and write.

What may happen meanwhile is tried over loopback (tests/server/test_changing.py), in the simulator
and in the drills (tests/chaos/test_changes.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dynamo_ray
from dynamo_ray.errors import BadRequestError, UnavailableError
from tests.server.load import Load
from tests.server.loopback import run

pytestmark = pytest.mark.ray


@pytest.fixture
def small(ray_here: str, tmp_path: Path) -> Iterator[dynamo_ray.Cluster]:
    """A cluster of its own, as small as can be."""
    folder = tmp_path / "small"
    with dynamo_ray.start(
        "small", nodes=3, partitions=16, coordinators=1, data_dir=folder
    ) as cluster:
        yield cluster


def names(cluster: dynamo_ray.Cluster) -> set[str]:
    return {node.name for node in cluster.status().nodes}


@pytest.mark.timeout(120)
def test_nodes_come_and_go_under_load_and_nothing_fails_or_is_lost(
    small: dynamo_ray.Cluster,
) -> None:
    lefts: list[int] = []

    async def under_load(load: Load, act: Callable[[], object]) -> None:
        await load.more(20)
        await asyncio.to_thread(act)
        await load.more(20)

    async def main() -> None:
        async with await dynamo_ray.connect_async(address=small.addresses, token=small.token) as c:
            async with Load(c, workers=2) as load:
                await under_load(load, lambda: small.add_node(moved=lambda t: lefts.append(t.left)))
                assert names(small) == {"n1", "n2", "n3", "n4"}
                await under_load(load, lambda: small.remove_node("n1"))
                assert names(small) == {"n2", "n3", "n4"}
                await asyncio.to_thread(interrupted_removal, small)
                await asyncio.to_thread(lost, small, "n2")
                await under_load(load, lambda: small.replace_node("n2"))
                assert names(small) == {"n3", "n4", "n5"}
            assert (load.errors, load.doubled) == ([], [])
            await load.check(c)

    run(main(), 110)
    assert max(lefts) > 0 and lefts[-1] == 0
    status = small.status()
    assert {node.owned for node in status.nodes} == {16}
    assert not any(node.doubted for node in status.nodes)


def interrupted_removal(cluster: dynamo_ray.Cluster) -> None:
    """A node is a member no more, and its process is still there: a commit ends it."""
    from dynamo_ray import changing
    from dynamo_ray.actors import fleet

    node = cluster.add_node("extra")
    cluster.drain_node(node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "end", lambda *_: None)
        cluster.remove_node(node)
    assert node not in names(cluster) and node in fleet.member_names(cluster.name, fleet.NODE)
    assert changing.look(cluster.name)[2][node]["state"] == "removed"
    cluster.rebalance()
    assert node not in fleet.member_names(cluster.name, fleet.NODE)


def lost(cluster: dynamo_ray.Cluster, name: str) -> None:
    """The node is gone for good: Ray does not know it any more, and it cannot hand over."""
    import ray

    from dynamo_ray.actors import fleet

    with pytest.raises(BadRequestError, match="is up"):
        cluster.replace_node(name)
    ray.kill(fleet.find(cluster.name, fleet.NODE, name), no_restart=True)
    with pytest.raises(UnavailableError, match="cannot hand over"):
        cluster.remove_node(name)
