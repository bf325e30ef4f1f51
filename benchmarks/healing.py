"""How long it takes until all copies are equal again, after a node was away. On real Ray actors.

    python -m benchmarks.healing

    kill a node ─► new values for keys of its ─► it listens: the clock runs ─► what does it lack?
      ─► compared, until it lacks nothing ─► all copies are looked at from outside: equal

Nobody may keep a copy for it, or hints would heal it, and no comparison: the cluster has room for
none. What the node lacks is seen in its own listing of these keys, before it compares anything (it
rests for two seconds first), and beside that the nodes' own counts say how many keys comparisons
brought. Where it lacked hardly any, or they came by another way, the run ends with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import dynamo_ray
from benchmarks.five import five_nodes, load, own_ray, until_compared
from benchmarks.report import spread
from dynamo_ray.asking import Nodes
from dynamo_ray.connecting import credentials_of
from dynamo_ray.core.encoding import from_fields, to_fields
from dynamo_ray.core.merkle import bucket_of
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.upkeep import Enumerate, Enumerated
from dynamo_ray.session import Session
from dynamo_ray.survey import Status
from dynamo_ray.verifying import Verified, verify
from dynamo_ray.wire.errors import WireError
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import Credentials

NO_HINTS = {"hint_bytes": 1}
ENOUGH = 0.9  # of the keys that were put while the node was away
BATCH = 200
LOOK_S = 0.2

Digests = dict[bytes, bytes]


@dataclass(frozen=True)
class Healed:
    """One round; seconds are since the node listened again. `brought`: keys, by comparisons."""

    victim: str
    missed: int
    lacked: int
    looked_s: float
    there_s: float
    equal_s: float
    brought: int

    def __str__(self) -> str:
        return (
            f"{self.victim} missed {self.missed:,} keys; {self.looked_s:.2f} s after it listened"
            f" again it lacked {self.lacked:,} of them, after {self.there_s:.1f} s none; all copies"
            f" seen equal after {self.equal_s:.1f} s; comparisons brought {self.brought:,} keys"
        )

    def check(self) -> None:
        """Raises SystemExit if it did not heal by comparisons what it lacked."""
        if self.lacked < self.missed * ENOUGH:
            raise SystemExit(
                f"{self.victim} lacked only {self.lacked:,} of {self.missed:,} keys when it was"
                " first looked at: nothing was measured; is the machine too slow for these figures?"
            )
        if self.brought < self.lacked * ENOUGH:
            raise SystemExit(
                f"comparisons brought only {self.brought:,} of the {self.lacked:,} keys that"
                f" {self.victim} lacked: they came by another way, which was not to be measured"
            )


class Copies:
    """Looks at nodes' own copies of keys, by the listing that comparisons use."""

    def __init__(self, session: Session, credentials: Credentials, keys: list[bytes]) -> None:
        self.ring = session.placement().ring
        self._nodes = Nodes(session, credentials)
        self._keys: dict[int, set[bytes]] = {}
        for key in keys:
            partition = partition_of(key, self.ring.partitions)
            self._keys.setdefault(partition, set()).add(key)

    async def at(self, node: bytes) -> Digests:
        """What a node holds of the keys, each with the digest of its state."""
        await self._nodes.reach([node])
        found: Digests = {}
        for partition in self._keys:
            found |= await self._page_by_page(node, partition)
        return found

    async def beside(self, node: bytes) -> Digests:
        """What other owners hold of them: of each partition the first one that is not `node`."""
        found: Digests = {}
        for partition in self._keys:
            other = next(one for one in self.ring.owners(partition) if one != node)
            await self._nodes.reach([other])
            found |= await self._page_by_page(other, partition)
        return found

    async def _page_by_page(self, node: bytes, partition: int) -> Digests:
        wanted, found, after = self._keys[partition], Digests(), b""
        buckets = sorted(set(map(bucket_of, wanted)))
        while True:
            fields = to_fields(Enumerate(partition, buckets, after))
            envelope = 0, self.ring.epoch_of(partition)
            answer = await self._nodes.ask(node, Enumerate.KIND, (*envelope, *fields))
            page = None if answer is None else from_fields(*answer)
            if not isinstance(page, Enumerated):
                raise SystemExit(f"a node does not say what it holds, but: {page}")
            rows = zip(page.keys, page.digests, strict=True)
            found |= {key: known for key, known in rows if key in wanted}
            if page.last:
                return found
            after = page.keys[-1]

    def close(self) -> None:
        """Hang up."""
        self._nodes.close()


def lacking(held: Mapping[bytes, bytes], wanted: Mapping[bytes, bytes]) -> int:
    """Of how many keys a node holds nothing, or something else than is wanted."""
    return sum(held.get(key) != known for key, known in wanted.items())


def brought_to(victim: str, before: Status, after: Status) -> int:
    """Keys that comparisons brought to a node that started in between: it pulled, others pushed."""
    sent = {node.name: node.repair["keys_sent"] for node in before.nodes}
    pulled = sum(int(n.repair["keys_received"]) for n in after.nodes if n.name == victim)
    pushes = (int(n.repair["keys_sent"] - sent[n.name]) for n in after.nodes if n.name != victim)
    return pulled + sum(pushes)


async def listens(session: Session, node: bytes, credentials: Credentials) -> None:
    """Wait until a node takes a connection, wherever it listens now."""
    while True:
        fact = session.view.nodes()[node]
        try:
            connection = await connect(fact.host, fact.port, credentials)
        except WireError:
            await asyncio.sleep(0.01)
            continue
        connection.close()
        return


async def equal(client: dynamo_ray.AsyncClient, cluster: dynamo_ray.Cluster) -> Verified:
    return await verify(client.session, credentials_of(cluster.token))


async def heal(
    client: dynamo_ray.AsyncClient, cluster: dynamo_ray.Cluster, victim: str, keys: list[str]
) -> Healed:
    """One round: a node misses new values of keys, all its own, and gets them."""
    node, credentials = cluster.charter.member(victim).node, credentials_of(cluster.token)
    copies = Copies(client.session, credentials, [key.encode() for key in keys])
    before = cluster.status()
    cluster.kill_node(victim)
    for at in range(0, len(keys), BATCH):
        some: dict[str | bytes, bytes] = dict.fromkeys(keys[at : at + BATCH], os.urandom(90))
        await client.put_many(some, strict=True, timeout_s=10)
    wanted = await copies.beside(node)
    await listens(client.session, node, credentials)
    began = time.perf_counter()
    lacked = lacking(await copies.at(node), wanted)
    looked_s = time.perf_counter() - began
    while lacking(await copies.at(node), wanted):
        await asyncio.sleep(LOOK_S)
    there_s = time.perf_counter() - began
    while not (await equal(client, cluster)).are_equal:
        await asyncio.sleep(LOOK_S)
    equal_s = time.perf_counter() - began
    copies.close()
    await until_compared(cluster)
    brought = brought_to(victim, before, cluster.status())
    return Healed(victim, len(wanted), lacked, looked_s, there_s, equal_s, brought)


async def measure(given: argparse.Namespace, cluster: dynamo_ray.Cluster) -> list[Healed]:
    """All rounds, each with another node."""
    keys = [f"key:{i:012d}" for i in range(given.keys)]
    client = await dynamo_ray.connect_async(cluster.name)
    await load(client, keys, os.urandom(given.value_bytes))
    await until_compared(cluster)
    while not (await equal(client, cluster)).are_equal:
        await asyncio.sleep(1)
    ring = client.session.placement().ring
    rounds: list[Healed] = []
    for at in range(given.rounds):
        member = cluster.charter.members[-1 - at % len(cluster.charter.members)]
        places = ((key, partition_of(key.encode(), ring.partitions)) for key in keys)
        owned = [key for key, partition in places if member.node in ring.owners(partition)]
        rounds.append(await heal(client, cluster, member.name, owned[: given.differ]))
        print(f"round {at + 1} of {given.rounds}: {rounds[-1]}", flush=True)
        rounds[-1].check()
    await client.close()
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--differ", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with own_ray() as folder, five_nodes("healing", folder / "nodes", limits=NO_HINTS) as cluster:
        rounds = asyncio.run(measure(given, cluster))
    print(
        f"{len(rounds)} rounds, {given.keys:,} keys, {given.differ:,} missed: nothing lacked after"
        f" {spread([one.there_s for one in rounds], 1)} s, all copies seen equal after"
        f" {spread([one.equal_s for one in rounds], 1)} s"
    )


if __name__ == "__main__":
    main()
