"""What a join costs clients: each window against the one before it, in the same round."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from benchmarks import joining
from benchmarks.joining import Join, Window
from benchmarks.report import Round
from dynamo_ray import DynamoError


def a_window(p50_ms: float, p99_ms: float, failed: int = 0) -> Window:
    latencies = [p50_ms / 1000] * 970 + [p99_ms / 1000] * 30
    return Window(Round(tuple(latencies), elapsed_s=1.0), failed)


def test_windows_are_compared_within_their_round() -> None:
    """The second round was twice as slow as a whole, which says nothing of the join."""
    rounds = [
        Join(a_window(1, 10), a_window(1, 9), a_window(1.2, 18, failed=2), 40.0, 50_000),
        Join(a_window(2, 20), a_window(2, 18), a_window(2.4, 36, failed=1), 44.0, 50_000),
        Join(a_window(1, 10), a_window(1, 9), a_window(2.0, 27), 48.0, 50_000),
    ]
    first, *told = joining.told(rounds)
    assert first.startswith("3 rounds: joined in 44.0 (") and "40.0 … 48.0" in first
    assert [line.partition(" (")[0] for line in told[:4]] == [
        "p50 while it joins × 1.20",
        "p50 of the same twice × 1.00",
        "p99 while it joins × 2.00",
        "p99 of the same twice × 0.90",
    ]
    assert told[4:] == [
        "failed: 3 of 3,000 while it joins",
        "failed: 0 of 6,000 of the quiet windows",
    ]


def test_failures_of_quiet_windows_are_told_too() -> None:
    told = joining.told([Join(a_window(1, 9, 4), a_window(1, 9, 1), a_window(1, 9), 40.0, 50_000)])
    assert told[-1] == "failed: 5 of 2,000 of the quiet windows"


def test_a_join_that_moved_hardly_anything_is_refused() -> None:
    joining.check_share(49_000, 100_000)
    with pytest.raises(SystemExit, match="its share is 50,000"):
        joining.check_share(500, 100_000)


def test_a_window_counts_what_fails() -> None:
    class Failing:
        async def put(self, key: str, value: bytes) -> None:
            await asyncio.sleep(0)
            raise DynamoError("no")

        async def get(self, key: str) -> None:
            await asyncio.sleep(0)

    turns = itertools.count()
    found = asyncio.run(joining.window(Failing(), ["k"], b"v", lambda: next(turns) >= 200))
    assert len(found.taken.latencies_s) == 200
    assert 0 < found.failed < 200 and found.taken.elapsed_s > 0
