"""Who is held to be unreachable by this one observer: an accrual detector (Dynamo §4.8.3).

    phi(silence) = −log10 P(a sign of life comes later than this)   Hayashibara et al. 2004

                          phi > 8, closed, refused
    trusted ──────────────────────────────────────────────────────────► suspected
       ▲   closed: heard once; silent: heard twice, a heartbeat apart       │
       └────────────────────────────────────────────────────────────────────┘

P is the normal distribution of what the intervals between signs of life were lately, so the same
silence says much on a calm line and little where heartbeats come late. A window's deviation hardly
shows one long interval among many short ones; so the longest counts as four deviations, and what a
node was silent for lately it may be silent for again. No line is taken for calmer than one on which
phi is 8 at `suspect_s`, and beyond four times that everybody is suspected.

Every sign of life ends a silence, but at most one interval in half a heartbeat is a sample: else
the traffic of a busy moment would drive out of the window what heartbeats are like. What
lies beyond the bound is a fault and teaches nothing, nor does the time before a new connection. A
closed connection is evidence at once (a killed process closes its sockets). An observer that was
itself stalled suspects nobody for it and learns nothing from it: the silence was its own. Suspicion
routes; it never changes membership.

Laws: nobody is suspected for a silence of at most `suspect_s`, nor for one that is not longer than
another of the window; everybody is for one above `MOST` times `suspect_s`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import exp, log1p
from typing import NamedTuple

from dynamo_ray.core.settings import Times

PHI = 8.0
# What the normal distribution gives for phi 8, by the logistic approximation of `_phi`.
DEVIATIONS = 5.22599
MOST = 4.0  # times suspect_s
WINDOW = 200  # intervals: 20 s of heartbeats
LN_10 = 2.302585092994046


class Rhythm:
    """One node's signs of life. `heard` is the last; `since` when the next sample begins."""

    __slots__ = ("heard", "intervals", "since")

    def __init__(self, now: float) -> None:
        self.heard = now
        self.since: float | None = None
        self.intervals: deque[float] = deque(maxlen=WINDOW)


class Silence(NamedTuple):
    """How long nothing was heard of a node, what that says, and when it is enough (seconds)."""

    silence_s: float
    phi: float
    suspect_s: float


class Detector:
    """Signs of life by node; all times are the observer's monotonic clock, in seconds."""

    def __init__(self, times: Times) -> None:
        self._heartbeat_s = times.heartbeat_s
        self._least_s = times.suspect_s
        self._most_s = MOST * times.suspect_s
        self._least_deviation = (times.suspect_s - times.heartbeat_s) / DEVIATIONS
        self._stalled_s = max(3 * times.tick_s, times.suspect_s / 2)
        self._rhythms: dict[bytes, Rhythm] = {}
        self._down: set[bytes] = set()
        self._returning: dict[bytes, float] = {}
        self._suspected: frozenset[bytes] = frozenset()
        self._last_tick: float | None = None

    @property
    def suspected(self) -> frozenset[bytes]:
        """The nodes that requests are routed around now."""
        return self._suspected

    def watch(self, nodes: Iterable[bytes], now: float) -> None:
        """These are the nodes to watch; a new one has one `suspect_s` to show itself."""
        wanted = set(nodes)
        for node in wanted - self._rhythms.keys():
            self._rhythms[node] = Rhythm(now)
        for node in self._rhythms.keys() - wanted:
            del self._rhythms[node]
            self._returning.pop(node, None)
        self._down &= wanted
        self._suspected &= wanted

    def on_heard(self, node: bytes, at: float) -> bool:
        """A sign of life came at `at`; True if the node was suspected until now."""
        rhythm = self._rhythms.get(node)
        if rhythm is None or at < rhythm.heard:
            return False
        silence_s, rhythm.heard = at - rhythm.heard, at
        self._learn(rhythm, at)
        if node not in self._suspected or not self._has_returned(node, at, silence_s):
            return False
        self._down.discard(node)
        self._returning.pop(node, None)
        self._suspected -= {node}
        return True

    def on_down(self, node: bytes, now: float) -> frozenset[bytes]:
        """The connection closed or was refused; who is newly suspected.

        The others' silence is judged at ticks only: after a stall this may come before the tick
        that notices the stall.
        """
        rhythm = self._rhythms.get(node)
        if rhythm is None:
            return frozenset()
        rhythm.since = None
        self._down.add(node)
        new = frozenset({node}) - self._suspected
        self._suspected |= new
        return new

    def on_tick(self, now: float) -> frozenset[bytes]:
        """Judge the silence; who is newly suspected."""
        if self._is_stalled(now):
            # Nothing new is concluded from it, and nothing is taken back: who was silent before it
            # is believed to be there again when it is heard.
            for node, rhythm in self._rhythms.items():
                rhythm.since = None
                if node not in self._suspected:
                    rhythm.heard = max(rhythm.heard, now)
        self._last_tick = now
        new = frozenset(
            node
            for node, rhythm in self._rhythms.items()
            if now - rhythm.heard > self._least_s  # most are not; the window is not looked at
            and node not in self._suspected
            and now - rhythm.heard > self._enough_s(rhythm)
        )
        self._suspected |= new
        return new

    def silence_of(self, node: bytes, now: float) -> Silence:
        """What is to be said of a node's silence; of a stranger, none."""
        rhythm = self._rhythms.get(node) or Rhythm(now)
        silence_s = now - rhythm.heard
        mean, deviation = self._distribution(rhythm)
        return Silence(silence_s, _phi((silence_s - mean) / deviation), self._enough_s(rhythm))

    def _has_returned(self, node: bytes, at: float, silence_s: float) -> bool:
        """A connection that came up again is proof. After a silence one sign may be a straggler."""
        if node in self._down:
            return True
        first = self._returning.get(node)
        if first is None or silence_s > self._least_s:
            self._returning[node] = at
            return False
        return at - first >= self._heartbeat_s / 2

    def _learn(self, rhythm: Rhythm, at: float) -> None:
        since = rhythm.since
        if since is not None:
            interval_s = at - since
            if interval_s < self._heartbeat_s / 2:
                return
            if interval_s <= self._most_s and not self._is_stalled(at):
                rhythm.intervals.append(interval_s)
        rhythm.since = at

    def _is_stalled(self, now: float) -> bool:
        """True if this observer did not tick for so long that the silence may be its own."""
        return self._last_tick is not None and now - self._last_tick > self._stalled_s

    def _enough_s(self, rhythm: Rhythm) -> float:
        mean, deviation = self._distribution(rhythm)
        return min(self._most_s, mean + DEVIATIONS * deviation)

    def _distribution(self, rhythm: Rhythm) -> tuple[float, float]:
        """Mean and deviation of the intervals, in seconds, never calmer than `suspect_s` says."""
        mean, deviation = self._heartbeat_s, self._least_deviation
        if intervals := rhythm.intervals:
            count = len(intervals)
            average = sum(intervals) / count
            spread = (sum((one - average) ** 2 for one in intervals) / count) ** 0.5
            mean = max(mean, average)
            deviation = max(deviation, spread, (max(intervals) - mean) / 4)
        return mean, deviation


def _phi(deviations: float) -> float:
    """−log10 of the normal distribution's upper tail, by a logistic approximation."""
    slope = deviations * (1.5976 + 0.070566 * deviations * deviations)
    # log(1 + e^slope), without overflow; the tail is 1 / (1 + e^slope).
    softplus = max(slope, 0.0) + log1p(exp(-abs(slope)))
    return softplus / LN_10
