"""What marks of the Merkle trees cost, and what a comparison of two owners costs. Needs no Ray.

    python -m benchmarks.entropy

Upkeep: the same puts go through a node's machine (core/node.py; no disk, no network) with trees of
all partitions and with marking taken away, in turns; beside it a second run with marking, which
says what noise is. What that is of a whole put, upkeep.py measures.

Comparison: two node servers over loopback own the same partitions; of their keys some have a newer
state at one of them. All partitions are compared, and it is counted what that took.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.forest import Forest
from dynamo_ray.core.membership import View
from dynamo_ray.core.messages import Merge, Mint, Persist
from dynamo_ray.core.node import Node
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member, partitions_of
from dynamo_ray.core.settings import Limits, Settings, Times
from dynamo_ray.core.slots import placed
from dynamo_ray.server.node import NodeServer, open_node

VALUE = 100
Q = 256


def keys_of(count: int) -> list[bytes]:
    return [b"key:%012d" % i for i in range(count)]


class Puts:
    """A node's machine with `count` keys and a tree for each partition, and puts to it."""

    def __init__(self, count: int) -> None:
        member = Member(b"n" * 8, "n1")
        settings = Settings(n=1, r=1, w=1)
        maps: list[dict[bytes, bytes]] = [{} for _ in range(Q)]
        here = placed(Charter(bytes(16), "entropy", settings, (member,)), View())
        self.keys = keys_of(count)
        self.partitions = partitions_of(self.keys, Q)
        self.node = Node(Replica(member.node, settings, maps, frozenset(range(Q))), settings, here)
        self.node.on_incarnation(os.urandom(14))
        self.position = 0
        for at in range(0, count, 1000):
            self.put(at, 1000)
        for partition in range(Q):
            hash_all(self.node.replica.forest, partition)

    def put(self, at: int, count: int) -> None:
        """Put `count` keys in one message."""
        keys, partitions = self.keys[at : at + count], self.partitions[at : at + count]
        n = len(keys)
        ids = [os.urandom(16) for _ in range(n)]
        message = Mint(keys, partitions, [b"v" * VALUE] * n, [None] * n, ids, [0] * n)
        for effect in self.node.on_request(None, message, 1_000, 0, 1_700_000_000_000):
            if isinstance(effect, Persist):
                self.node.on_appended(effect.position)

    def took_us(self, puts: int, batch: int) -> float:
        """Microseconds of the processor per key, with what a tick does about the marks."""
        began = time.process_time()
        for i in range(puts // batch):
            self.put(i * batch % (len(self.keys) - batch), batch)
        self.node.replica.forest.on_tick()
        return (time.process_time() - began) / puts * 1e6


def _nothing(*_: Any) -> None:
    """In place of marking."""


def hash_all(forest: Forest, partition: int) -> None:
    while not forest.is_ready(partition):
        forest.on_tick()


def upkeep(rounds: int) -> None:
    puts = Puts(20_000)
    for batch, count in ((1, 1_000), (1000, 10_000)):
        marked: list[float] = []
        again: list[float] = []
        bare: list[float] = []
        for _ in range(rounds):
            marked.append(puts.took_us(count, batch))
            with mock.patch.object(Forest, "mark", _nothing):
                bare.append(puts.took_us(count, batch))
            again.append(puts.took_us(count, batch))
        ratio = median(a / b for a, b in zip(marked, bare, strict=True))
        noise = median(a / b for a, b in zip(again, marked, strict=True))
        print(
            f"{batch:>5} keys a message: {median(marked):.2f} us a key in the node's machine, "
            f"{median(bare):.2f} without marking (x {ratio:.3f}; the same twice: x {noise:.3f})"
        )
    forest = Forest(puts.node.replica.maps)
    began = time.process_time()
    for partition in range(Q):
        hash_all(forest, partition)
    took = time.process_time() - began
    print(f"hashing every tree from nothing: {took / len(puts.keys) * 1e6:.2f} us a key")


async def compare(count: int, different: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            n=2, r=1, w=1, times=Times(repair_s=1e6), limits=Limits(repair_bytes=1 << 30)
        )
        members = tuple(Member(os.urandom(8), f"n{i + 1}") for i in range(2))
        charter = Charter(os.urandom(16), "entropy", settings, members)
        secrets = [os.urandom(32)]
        servers = []
        for member in members:
            place = str(Path(folder) / member.name)
            server = await open_node(charter, secrets, member, place, "127.0.0.1", View(), True)
            servers.append(server)
        for server in servers:
            for other in servers:
                server.learn(other.view)
            await server.reach_nodes(5.0)
        await fill(servers, count)
        sent = count_messages(servers)
        await told(servers, "equal, and every tree is hashed from nothing", sent)
        await fill(servers[:1], different)
        await told(servers, f"{different:,} of {count:,} keys newer at one", sent)
        await told(servers, "equal", sent)
        for server in servers:
            await server.close()


async def fill(servers: list[NodeServer], count: int) -> None:
    """The first keys, the same states at all; what is made later is newer."""
    keys = keys_of(count)
    source = Puts(1000)
    maps = servers[0].node.replica.maps
    source.node.replica.maps[:] = [dict(of) for of in maps]
    source.keys, source.partitions = keys, partitions_of(keys, Q)
    for at in range(0, count, 1000):
        source.put(at, 1000)
        some = keys[at : at + 1000]
        rows = source.partitions[at : at + 1000]
        held = source.node.replica.maps
        states = [held[p][key] for p, key in zip(rows, some, strict=True)]
        for server in servers:
            server.take_in((Ignored(), 1), Merge(some, rows, states))
        await asyncio.sleep(0)
    await asyncio.sleep(1.0)


class Ignored:
    """Whoever wants no answer."""

    role = b""

    def reply(self, *_: Any) -> None:
        pass


def count_messages(servers: list[NodeServer]) -> list[int]:
    sent = [0]
    for server in servers:
        whole = server._send

        def counted(node: bytes, message: Any, whole: Any = whole) -> None:
            sent[0] += 1
            whole(node, message)

        server._send = counted  # type: ignore[method-assign]
    return sent


async def told(servers: list[NodeServer], what: str, sent: list[int]) -> None:
    """Compare all partitions and say what it took."""
    moved = sum(server.node.sync.status()["bytes"] for server in servers)
    messages = sent[0]
    cpu, began = time.process_time(), time.perf_counter()
    for server in servers:
        server.longest_hold_s = 0.0
        server.node.rounds.on_demand(range(Q), frozenset())
    while any(server.node.repair_status()["demanded"] for server in servers):
        await asyncio.sleep(0.01)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    moved = sum(server.node.sync.status()["bytes"] for server in servers) - moved
    hold = max(server.longest_hold_s for server in servers) * 1000
    equal = servers[0].node.replica.maps == servers[1].node.replica.maps
    print(
        f"{what}: {took:.1f} s, {cpu:.1f} s of the processor for both nodes, "
        f"{sent[0] - messages:,} round trips for {Q} partitions, {moved / 1e6:.2f} MB, "
        f"longest hold {hold:.1f} ms; the copies {'are equal' if equal else 'DIFFER'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--different", type=int, default=1_000)
    given = parser.parse_args()
    upkeep(given.rounds)
    asyncio.run(compare(given.keys, given.different))


if __name__ == "__main__":
    main()
