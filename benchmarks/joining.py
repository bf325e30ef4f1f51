"""What a node that joins costs the clients, and how long its join takes. On real Ray actors.

    python -m benchmarks.joining

    load once, keep the directories
    each round: start from them ─► warm up ─► quiet ─► quiet again ─► a sixth node joins ─► stop

Clients put and get without rest. In each round p50 and p99 while the node joins are compared with
those of the window before, and those of the two quiet windows with each other: that is the noise.
Told are the medians of these ratios over rounds, and how far they lie apart. Every round begins
with the same five directories, which takes less than to let the sixth node hand its share back.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dynamo_ray
from benchmarks.five import five_nodes, load, own_ray, until_compared
from benchmarks.report import Round, figure_of, number, ratios, spread

NAME = "joining"
WORKERS = 4
COPIES, NODES = 3, 5


@dataclass(frozen=True)
class Window:
    """What clients met in a while, and how many of their operations failed."""

    taken: Round
    failed: int

    def __str__(self) -> str:
        p50, p99 = (number(figure_of(self.taken, name)) for name in ("p50_ms", "p99_ms"))
        rate = f"{number(self.taken.keys_per_s)} a second"
        return f"p50 {p50} ms, p99 {p99} ms, {rate}, {self.failed} failed"


@dataclass(frozen=True)
class Join:
    """One round: two windows alike, and one while a node joined; what it held then."""

    quiet: Window
    again: Window
    joining: Window
    seconds: float
    keys: int

    def __str__(self) -> str:
        told = f"joined in {self.seconds:.1f} s and holds {self.keys:,} keys"
        windows = {"quiet": self.quiet, "again": self.again, "joining": self.joining}
        return "\n".join([told, *(f"  {name}: {one}" for name, one in windows.items())])


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
    return Window(Round(tuple(took), time.perf_counter() - began), failed)


def for_s(seconds: float) -> Callable[[], bool]:
    """True once so much time has passed."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


async def fill(cluster: dynamo_ray.Cluster, keys: list[str], value: bytes) -> None:
    """What every round begins with."""
    client = await dynamo_ray.connect_async(cluster.name)
    await load(client, keys, value)
    await client.close()


async def measure(
    cluster: dynamo_ray.Cluster, keys: list[str], value: bytes, seconds: float
) -> Join:
    """One round of a cluster that was just started."""
    await until_compared(cluster)
    client = await dynamo_ray.connect_async(cluster.name)
    await window(client, keys, value, for_s(seconds / 4))  # what comes first is slower
    quiet = await window(client, keys, value, for_s(seconds))
    again = await window(client, keys, value, for_s(seconds))
    began = time.perf_counter()
    join = asyncio.create_task(asyncio.to_thread(cluster.add_node))
    joining = await window(client, keys, value, join.done)
    took = time.perf_counter() - began
    held = next(node.keys for node in cluster.status().nodes if node.name == join.result())
    await client.close()
    return Join(quiet, again, joining, took, held)


def check_share(held: int, keys: int) -> None:
    """A join that moved hardly anything measures nothing. Raises SystemExit."""
    share = keys * COPIES // (NODES + 1)
    if held < share / 2:
        raise SystemExit(f"the node that joined holds {held:,} keys; its share is {share:,}")


def told(rounds: list[Join]) -> list[str]:
    """The medians over rounds, and how far rounds lie apart."""
    quiet, again, joining = (
        [getattr(one, name).taken for one in rounds] for name in ("quiet", "again", "joining")
    )
    lines = [f"{len(rounds)} rounds: joined in {spread([one.seconds for one in rounds], 1)} s"]
    for name, title in (("p50_ms", "p50"), ("p99_ms", "p99")):
        slower, noise = ratios(joining, again, name), ratios(again, quiet, name)
        lines.append(f"{title} while it joins × {spread(slower)}")
        lines.append(f"{title} of the same twice × {spread(noise)}")
    calm = [window for one in rounds for window in (one.quiet, one.again)]
    lines.append(f"failed: {failures([one.joining for one in rounds])} while it joins")
    lines.append(f"failed: {failures(calm)} of the quiet windows")
    return lines


def failures(windows: list[Window]) -> str:
    """How many of how many operations failed."""
    calls = sum(len(one.taken.latencies_s) for one in windows)
    return f"{sum(one.failed for one in windows):,} of {calls:,}"


def run(given: argparse.Namespace, folder: Path) -> list[Join]:
    """All rounds."""
    keys, value = [f"key:{i:012d}" for i in range(given.keys)], os.urandom(given.value_bytes)
    kept, place = folder / "kept", folder / "nodes"
    with five_nodes(NAME, kept) as cluster:
        asyncio.run(fill(cluster, keys, value))
    rounds: list[Join] = []
    for at in range(given.rounds):
        shutil.copytree(kept, place)
        os.sync()  # now, and not while clients are measured
        with five_nodes(NAME, place) as cluster:
            rounds.append(asyncio.run(measure(cluster, keys, value, given.seconds)))
        shutil.rmtree(place)
        print(f"round {at + 1} of {given.rounds}: {rounds[-1]}", flush=True)
        check_share(rounds[-1].keys, given.keys)
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each quiet window")
    given = parser.parse_args()
    with own_ray() as folder:
        rounds = run(given, folder)
    print(f"{given.keys:,} keys of {given.value_bytes:,} bytes, {WORKERS} clients without rest")
    print("\n".join(told(rounds)))


if __name__ == "__main__":
    main()
