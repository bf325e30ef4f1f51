"""What trees cost a put: marking is really there, or really not, and ratios are within rounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest import mock

import pytest

from benchmarks import upkeep
from benchmarks.report import Round
from benchmarks.upkeep import Window
from dynamo_ray.core.settings import Settings, Times
from tests.server.loopback import Loopback, run


def a_window(nodes_us: float, stale: int = 300) -> Window:
    return Window(Round((0.001,) * 200, 0.2), nodes_us * 200e-6, nodes_us * 400e-6, stale, 0.01)


def a_round(marking: float, nothing: float, again: float) -> dict[str, Window]:
    return dict(
        zip(upkeep.ARMS, (a_window(marking), a_window(nothing, 0), a_window(again)), strict=True)
    )


def test_ratios_are_taken_within_rounds() -> None:
    rounds = [a_round(102, 100, 103.02), a_round(306, 300, 309.06), a_round(102, 100, 99.96)]
    lines = upkeep.told(rounds)
    assert lines[0] == "3 rounds of 200 puts"
    assert lines[1] == "processor, the three nodes: 102.0 us a put, 100.0 without marking"
    assert lines[2].strip().startswith("× 1.020 (")
    assert lines[3].strip().startswith("the same twice × 1.010 (")


@pytest.mark.parametrize(("marked", "bare"), [(0, 0), (300, 300)])
def test_a_switch_that_does_nothing_is_refused(marked: int, bare: int) -> None:
    upkeep.check(a_round(1, 1, 1))
    taken = {
        "marking": a_window(1, marked),
        "marking nothing": a_window(1, bare),
        "marking again": a_window(1, marked),
    }
    with pytest.raises(SystemExit, match="measures nothing"):
        upkeep.check(taken)


def test_nodes_mark_or_not_as_they_are_told(tmp_path: Path) -> None:
    async def story() -> None:
        settings = Settings(partitions=8, times=Times(repair_s=upkeep.ONCE_S))
        async with Loopback(tmp_path, nodes=3, settings=settings) as cluster:
            client, nodes = await cluster.connect(), list(cluster.nodes.values())
            keys = [f"key:{i}" for i in range(50)]
            await client.put_many(dict.fromkeys(keys, b"v"), w=3)
            while not await upkeep._answer(nodes, "compared"):
                await asyncio.sleep(0.05)
            await upkeep._answer(nodes, "hash")
            stale = []
            for line in ("mark", "nothing", "mark"):
                await upkeep._answer(nodes, line)
                for key in keys[:10]:
                    await client.put(key, line.encode(), w=3)
                stale.append((await upkeep._answer(nodes, "hash"))["stale"])
            assert stale == [30, 0, 30]  # of ten keys at each of three nodes

    try:
        run(story())
    finally:
        mock.patch.stopall()
