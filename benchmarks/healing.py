"""How long it takes until all copies are equal again, after a node was away. On real actors.

    python -m benchmarks.healing

Five nodes hold the keys. One is killed; before Ray has started it again, some of its keys get new
values by strict puts, of which nobody keeps a copy for it. Told is how long after it is back every
owner's trees have the same roots, looked at from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

import dynamo_ray
from benchmarks.joining import five_nodes, load
from dynamo_ray.connecting import credentials_of
from dynamo_ray.core.ring import partition_of
from dynamo_ray.verifying import Verified, verify


async def equal(client: dynamo_ray.AsyncClient, cluster: dynamo_ray.Cluster) -> Verified:
    return await verify(client.session, credentials_of(cluster.token))


async def differ(
    client: dynamo_ray.AsyncClient, cluster: dynamo_ray.Cluster, count: int, keys: list[str]
) -> int:
    """Have a node miss new values of keys that it owns; how many it misses."""
    victim = cluster.status().nodes[-1].name
    ring, node = client.session.placement().ring, cluster.charter.member(victim).node
    places = ((key, partition_of(key.encode(), ring.partitions)) for key in keys)
    owned = [key for key, partition in places if node in ring.owners(partition)][:count]
    killed = cluster.kill_node(victim)
    for at in range(0, len(owned), 200):
        some = dict.fromkeys(owned[at : at + 200], os.urandom(90))
        await client.put_many(some, strict=True, timeout_s=10)
    while not any(n.name == victim and n.pid not in (None, killed) for n in cluster.status().nodes):
        await asyncio.sleep(0.05)
    return len(owned)


async def measure(given: argparse.Namespace, cluster: dynamo_ray.Cluster) -> None:
    keys = [f"key:{i:012d}" for i in range(given.keys)]
    client = await dynamo_ray.connect_async(cluster.name)
    await load(client, keys, os.urandom(given.value_bytes))
    while not (await equal(client, cluster)).are_equal:
        await asyncio.sleep(1)
    for number in range(given.rounds):
        missed = await differ(client, cluster, given.differ, keys)
        began = time.perf_counter()
        first = await equal(client, cluster)
        seen = sum(one.keys for one in first.differences)
        while not (await equal(client, cluster)).are_equal:
            await asyncio.sleep(0.1)
        print(
            f"round {number + 1}: {given.keys:,} keys, {missed:,} missed by a node ({seen:,} still"
            f" differed when first looked at): equal {time.perf_counter() - began:.1f} s after it"
            " was back",
            flush=True,
        )
    await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--differ", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with five_nodes("healing") as cluster:
        asyncio.run(measure(given, cluster))


if __name__ == "__main__":
    main()
