"""How long something takes: a histogram that forgets, and its quantiles.

Buckets grow by a quarter, from half a millisecond to nine seconds, so a quantile is at most a
quarter too high whatever the scale. Once enough samples came all counts are halved: what is long
past weighs little. Room and work are bounded, whatever comes.

Law: no fewer than the asked share of the samples, as they weigh now, are at or below a quantile.
"""

from __future__ import annotations

from bisect import bisect_left

GROWTH = 1.25
EDGES = tuple(0.0005 * GROWTH**turn for turn in range(45))  # seconds, upper ends
KEEP = 2000.0  # samples; then they weigh half
ENOUGH = 50  # samples, before a quantile says anything


class Latencies:
    """Durations in seconds; what is above the last edge counts as the last edge."""

    __slots__ = ("_counts", "_seen", "_weight")

    def __init__(self) -> None:
        self._counts = [0.0] * len(EDGES)
        self._weight = 0.0
        self._seen = 0

    def add(self, seconds: float) -> None:
        """One more sample."""
        self._counts[min(bisect_left(EDGES, seconds), len(EDGES) - 1)] += 1.0
        self._weight += 1.0
        self._seen = min(self._seen + 1, ENOUGH)
        if self._weight >= KEEP:
            self._counts = [count / 2 for count in self._counts]
            self._weight /= 2

    def quantile(self, share: float) -> float | None:
        """What that share of the samples stays within; None while there are too few."""
        if self._seen < ENOUGH:
            return None
        wanted, below = share * self._weight, 0.0
        for edge, count in zip(EDGES, self._counts, strict=True):
            below += count
            if below >= wanted:
                return edge
        return EDGES[-1]
