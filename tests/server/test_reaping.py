"""What is dead leaves memory and disk of a running cluster, and not while a member is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dynamo_ray.core.settings import Settings, Times
from dynamo_ray.core.version import Kind, decode
from dynamo_ray.server.node import NodeServer
from tests.server.loopback import Loopback, run, until

# A copy that a slow moment left out has no hint once the linger is over: owners compare. Nothing is
# reaped while one is away, so who is late on a busy machine is not to be taken for dead.
TIMES = Times(
    timeout_s=1.0,
    timeout_max_s=1.0,
    linger_s=0.3,
    suspect_s=2.0,
    tick_s=0.02,
    purge_s=0.2,
    grace_s=0.2,
    repair_s=2.0,
)
SETTINGS = Settings(partitions=4, times=TIMES)
KEYS = [f"key:{i}" for i in range(60)]


def held(cluster: Loopback, key: str) -> list[bytes]:
    """What the nodes hold of a key."""
    of = (found for node in cluster.nodes.values() for found in node.node.replica.maps)
    return [found[key.encode()] for found in of if key.encode() in found]


def what_is_left(cluster: Loopback) -> str:
    """Who still holds what, for a failure to tell: whom each suspects, and what it doubts."""
    told = []
    for name, server in cluster.nodes.items():
        replica, reaper = server.node.replica, server.node.reaper
        left = sorted(key for found in replica.maps for key in found)
        doubts, suspects = sorted(replica.doubted), len(server.detector.suspected)
        asking = reaper._question is not None, reaper.is_busy, len(reaper._leaving)
        told.append(f"{name}: {left} hints {len(replica.hints)} {doubts=} {suspects=} {asking=}")
    return "\n".join(told)


def is_logged(server: NodeServer) -> bool:
    return server.vault.appended == server.node.replica.queue.last


@pytest.mark.timeout(100)
def test_deleted_and_expired_keys_leave_every_node_for_good(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(dict.fromkeys(KEYS, b"x" * 100))
            await client.put("expiring", b"x" * 100, ttl_s=0.3)
            await client.put("stays", b"x", w=3)
            await client.delete_many(KEYS)
            try:
                await until(lambda: not any(held(cluster, key) for key in [*KEYS, "expiring"]), 60)
            except TimeoutError:
                pytest.fail(what_is_left(cluster))
            assert held(cluster, "stays")
            # A new life begins where the old one was forgotten (rule 3).
            await client.put(KEYS[0], b"again", w=3)
            assert (await client.get(KEYS[0], r=3, strict=True)).value == b"again"
            # The maps are ahead of the logs; what a log does not have yet a kill may take back.
            await until(lambda: all(map(is_logged, cluster.nodes.values())))
            await cluster.kill_all()
            for name in ("n1", "n2", "n3", "n4", "n5"):
                await cluster.start_node(name, first_start=False)
            assert not any(held(cluster, key) for key in [*KEYS[1:], "expiring"])
            assert all(len(held(cluster, key)) == 3 for key in ("stays", KEYS[0]))

    run(story(), 80)


def test_nothing_leaves_while_one_is_away_but_expired_bytes_do(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=SETTINGS) as cluster:
            client = await cluster.connect()
            await client.put_many(dict.fromkeys(KEYS, b"x"))
            await cluster.kill_node("n5")
            await client.delete_many(KEYS)
            await client.put("expiring", b"x" * 100, ttl_s=0.1)

            def is_purged() -> bool:
                kinds = [decode(state).versions[0].kind for state in held(cluster, "expiring")]
                return bool(kinds) and set(kinds) == {Kind.PURGED}

            await until(is_purged, 10)
            await asyncio.sleep(
                2 * (TIMES.message_s + 0.2)
            )  # twice what it takes when all are there
            assert all(held(cluster, key) for key in KEYS)
            await cluster.start_node("n5", first_start=False)
            await until(lambda: not any(held(cluster, key) for key in KEYS), 20)

    run(story(), 40)
