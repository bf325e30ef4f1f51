"""What a node that joins costs the clients, and how long its join takes. On real Ray actors.

    python -m benchmarks.joining

Five nodes hold the keys. In each round clients put and get for a while, then for as long again (the
difference of the two is noise), and then while a sixth node joins; then it is removed. Latencies of
a round are compared with those of the same round, and the medians of the ratios are told.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import dynamo_ray

BATCH = 500
WORKERS = 4


@dataclass(frozen=True)
class Window:
    """What clients met in a while: latencies in ms, and how many operations failed."""

    p50_ms: float
    p99_ms: float
    per_s: float
    failed: int


@contextmanager
def five_nodes(name: str) -> Iterator[dynamo_ray.Cluster]:
    """A cluster in a Ray and a folder of its own; both are gone in the end."""
    folder = tempfile.mkdtemp(prefix="drb", dir="/tmp")
    os.environ["DYNAMO_RAY_HOME"] = folder
    try:
        with dynamo_ray.start(name, nodes=5, data_dir=Path(folder) / "nodes") as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def load(client: Any, keys: list[str], value: bytes) -> None:
    for at in range(0, len(keys), BATCH):
        await client.put_many(dict.fromkeys(keys[at : at + BATCH], value), timeout_s=10)


async def window(client: Any, keys: list[str], value: bytes, until: Callable[[], bool]) -> Window:
    """Clients put and get, in turns, until something is so."""
    took: list[float] = []
    failed = 0
    began = time.perf_counter()

    async def work(chance: random.Random) -> None:
        nonlocal failed
        while not until():
            key, before = chance.choice(keys), time.perf_counter()
            try:
                await (client.put(key, value) if chance.random() < 0.5 else client.get(key))
            except dynamo_ray.DynamoError:
                failed += 1
            took.append(time.perf_counter() - before)

    await asyncio.gather(*(work(random.Random(i)) for i in range(WORKERS)))
    passed_s = time.perf_counter() - began
    took.sort()
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    return Window(p50 * 1000, p99 * 1000, len(took) / passed_s, failed)


def for_s(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


async def measure(name: str, given: argparse.Namespace, cluster: dynamo_ray.Cluster) -> None:
    keys, value = [f"key:{i:012d}" for i in range(given.keys)], os.urandom(given.value_bytes)
    client = await dynamo_ray.connect_async(name)
    await load(client, keys, value)
    joins: list[float] = []
    ratios: list[tuple[float, float]] = []
    for number in range(given.rounds):
        quiet = await window(client, keys, value, for_s(given.seconds))
        again = await window(client, keys, value, for_s(given.seconds))
        began = time.perf_counter()
        join = asyncio.create_task(asyncio.to_thread(cluster.add_node))
        meanwhile = await window(client, keys, value, join.done)
        joins.append(time.perf_counter() - began)
        print(
            f"round {number + 1}: joined in {joins[-1]:.1f} s; p50 {quiet.p50_ms:.2f}, "
            f"{again.p50_ms:.2f}, {meanwhile.p50_ms:.2f} ms; p99 {quiet.p99_ms:.1f}, "
            f"{again.p99_ms:.1f}, {meanwhile.p99_ms:.1f} ms; {quiet.per_s:.0f}, {again.per_s:.0f}, "
            f"{meanwhile.per_s:.0f} a second; {meanwhile.failed} failed",
            flush=True,
        )
        ratios.append((again.p99_ms / quiet.p99_ms, meanwhile.p99_ms / again.p99_ms))
        await asyncio.to_thread(cluster.remove_node, join.result())
    noise, slower = (median(column) for column in zip(*ratios, strict=True))
    print(
        f"{given.keys:,} keys of {given.value_bytes:,} bytes: a sixth node joins in "
        f"{median(joins):.1f} s; p99 x {slower:.2f} meanwhile (the same twice: x {noise:.2f})"
    )
    await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with five_nodes("joining") as cluster:
        asyncio.run(measure("joining", given, cluster))


if __name__ == "__main__":
    main()
