"""What keeping Merkle trees up to date costs a whole put, one at a time. Three nodes, no Ray.

    python -m benchmarks.upkeep

    this process                     the nodes' process
    client + coordinator ── wire ──► n1, n2, n3: a mint and two merges for each put
             └─ a line on stdin ───► mark, or mark nothing · the time so far · hash what is stale

In each round the same number of puts, one at a time, goes to nodes that mark what has changed
(core/forest.py), to the same nodes while marking is taken away, and to the same marking once more:
that is the noise. The order rotates. A window includes what a tick does about its marks; what
stale buckets take to be hashed, once until the next comparison, is told by itself. Only here can
marking be taken away: copies that differ would not be found.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import process_time
from typing import Any
from unittest import mock

import uvloop

from benchmarks import workloads
from benchmarks.alone import SERVE, Apart, load, serve
from benchmarks.report import Round, figure_of, spread
from dynamo_ray.core.forest import Forest
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Settings, Times
from dynamo_ray.server.node import NodeServer

ONCE_S = 1e6  # between comparisons: none while it is measured
WARM_UP = 50
ARMS = {"marking": "mark", "marking nothing": "nothing", "marking again": "mark"}


@dataclass(frozen=True)
class Window:
    """Some puts: latencies, and the processor's time that they took; then, how much was stale."""

    taken: Round
    nodes_s: float
    whole_s: float
    stale: int
    hashed_s: float

    def figures(self) -> dict[str, float]:
        """Microseconds of a put."""
        puts = len(self.taken.latencies_s)
        p50_ms = figure_of(self.taken, "p50_ms") or 0.0
        return {
            "processor, the three nodes": self.nodes_s / puts * 1e6,
            "processor, client and coordinator too": self.whole_s / puts * 1e6,
            "latency, p50": p50_ms * 1000,
        }


class Trio(Apart):
    """Three nodes that keep every key."""

    def __init__(self) -> None:
        settings = Settings(n=3, r=2, w=2, times=Times(repair_s=ONCE_S))
        super().__init__("upkeep", settings, 3, "benchmarks.upkeep")


async def window(trio: Trio, space: workloads.Keyspace, arm: str, puts: int) -> Window:
    """Puts with marking or without it; every tree is exact before and after."""
    await trio.ask(ARMS[arm])
    call = workloads.call_of(trio, "put", space)
    await workloads.closed_loop(call, 1, WARM_UP, 60)
    before, here = await trio.ask("time"), process_time()
    latencies, elapsed = await workloads.closed_loop(call, 1, puts, 60)
    here = process_time() - here
    await asyncio.sleep(workloads.SETTLE_S)
    after = await trio.ask("time")
    nodes_s = after["seconds"] - before["seconds"]
    told = await trio.ask("hash")
    taken = Round(tuple(latencies), elapsed)
    return Window(taken, nodes_s, nodes_s + here, told["stale"], told["seconds"])


async def measure(keys: int, rounds: int, puts: int) -> list[dict[str, Window]]:
    """All rounds."""
    trio, space, taken = Trio(), workloads.Keyspace(keys=keys), []
    await trio.start()
    try:
        await load(trio, space)
        while not await trio.ask("compared"):
            await asyncio.sleep(0.2)
        await trio.ask("hash")
        gc.freeze()  # the keyspace is not to be scanned again in the middle of a measurement
        arms = list(ARMS)
        for at in range(rounds):
            turn = at % len(arms)
            order = [*arms[turn:], *arms[:turn]]
            taken.append({arm: await window(trio, space, arm, puts) for arm in order})
            check(taken[-1])
    finally:
        await trio.close()
    return taken


def check(taken: Mapping[str, Window]) -> None:
    """Marking was there where it should, and nowhere else. Raises SystemExit."""
    for arm, one in taken.items():
        if (one.stale > 0) != (ARMS[arm] == "mark"):
            raise SystemExit(f"{arm}: {one.stale} buckets were stale, so this measures nothing")


def told(rounds: Sequence[Mapping[str, Window]]) -> list[str]:
    """For each figure what marking adds, and what the same twice does; medians over rounds."""
    lines = [f"{len(rounds)} rounds of {len(rounds[0]['marking'].taken.latencies_s):,} puts"]
    shown = [{arm: one.figures() for arm, one in taken.items()} for taken in rounds]
    for name in shown[0]["marking"]:
        with_it, without, again = ([one[arm][name] for one in shown] for arm in ARMS)
        ratios = [a / b for a, b in zip(with_it, without, strict=True)]
        noise = [a / b for a, b in zip(again, with_it, strict=True)]
        lines += [
            f"{name}: {median(with_it):.1f} us a put, {median(without):.1f} without marking",
            f"    × {spread(ratios, 3)}",
            f"    the same twice × {spread(noise, 3)}",
        ]
    stale, hashed_s = (
        median(getattr(one["marking"], name) for one in rounds) for name in ("stale", "hashed_s")
    )
    lines.append(
        f"for the next comparison, once: {hashed_s * 1000:.1f} ms for {stale:,.0f} stale buckets"
    )
    return lines


# ---- in the nodes' process


def _nothing(*_: Any) -> None:
    """In place of marking; a Mock would take longer than that."""


_unmarked = mock.patch.object(Forest, "mark", _nothing)


async def _answer(nodes: list[NodeServer], line: str) -> Any:
    if line == "compared":
        return all(node.node.repair_status()["round_s"] is not None for node in nodes)
    for node in nodes:
        # Marks that were made are sorted in this window, and not in the next one.
        node.node.replica.forest.on_tick()
    if line == "time":
        return {"seconds": process_time()}
    if line == "hash":
        return _hash([node.node.replica for node in nodes])
    mock.patch.stopall()
    if line == "nothing":
        _unmarked.start()
    return line


def _hash(replicas: Sequence[Replica]) -> dict[str, float]:
    """Make every tree exact; how many buckets were stale, and what it took."""
    forests = [replica.forest for replica in replicas]
    stale = sum(sum(tree.stale) for forest in forests for tree in forest._trees.values())
    began = process_time()
    for replica in replicas:
        for partition in range(len(replica.maps)):
            while not replica.forest.is_exact(partition):
                replica.forest.on_tick()
    return {"stale": stale, "seconds": process_time() - began}


def main() -> None:
    if SERVE in sys.argv:
        uvloop.run(serve(_answer))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--puts", type=int, default=300, help="in a window")
    given = parser.parse_args()
    taken = uvloop.run(measure(given.keys, given.rounds, given.puts))
    print(f"{given.keys:,} keys, three copies, 100-byte values, one put at a time")
    print("\n".join(told(taken)))


if __name__ == "__main__":
    main()
