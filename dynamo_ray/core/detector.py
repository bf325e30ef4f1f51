"""Who is held to be unreachable by this one observer (Dynamo §4.8.3: local and traffic-driven).

Heartbeats and ordinary replies both count as a sign of life. A connection that was closed is
evidence at once (a killed process closes its sockets); silence is evidence after `suspect_s`. An
observer that was itself stalled suspects nobody for it: the silence was its own. Suspicion routes;
it never changes membership.
"""

from __future__ import annotations

from collections.abc import Iterable


class Detector:
    """Signs of life by node; all times are the observer's monotonic clock, in seconds."""

    def __init__(self, suspect_s: float, tick_s: float) -> None:
        self._suspect_s = suspect_s
        self._stalled_s = max(3 * tick_s, suspect_s / 2)
        self._heard: dict[bytes, float] = {}
        self._down: set[bytes] = set()
        self._suspected: frozenset[bytes] = frozenset()
        self._last_tick: float | None = None

    @property
    def suspected(self) -> frozenset[bytes]:
        """The nodes that requests are routed around now."""
        return self._suspected

    def watch(self, nodes: Iterable[bytes], now: float) -> None:
        """These are the nodes to watch; a new one has one `suspect_s` to show itself."""
        wanted = set(nodes)
        self._heard = {node: self._heard.get(node, now) for node in wanted}
        self._down &= wanted
        self._suspected &= wanted

    def on_heard(self, node: bytes, now: float) -> bool:
        """A heartbeat or a reply came; True if the node was suspected until now."""
        if node not in self._heard:
            return False
        self._heard[node] = now
        self._down.discard(node)
        if node not in self._suspected:
            return False
        self._suspected -= {node}
        return True

    def on_down(self, node: bytes, now: float) -> frozenset[bytes]:
        """The connection closed or was refused; who is newly suspected.

        The others' silence is judged at ticks only: after a stall this may come before the tick
        that notices the stall.
        """
        if node not in self._heard:
            return frozenset()
        self._down.add(node)
        new = frozenset({node}) - self._suspected
        self._suspected |= new
        return new

    def on_tick(self, now: float) -> frozenset[bytes]:
        """Judge the silence; who is newly suspected."""
        late = 0.0 if self._last_tick is None else now - self._last_tick
        if late > self._stalled_s:
            # Nothing new is concluded from it, and nothing is taken back: who was silent before it
            # is believed to be there again when it is heard.
            self._heard = {
                node: at if node in self._suspected else max(at, now)
                for node, at in self._heard.items()
            }
        self._last_tick = now
        return self._judge(now)

    def silence_s(self, node: bytes, now: float) -> float:
        """How long nothing was heard from a node, in seconds."""
        return now - self._heard.get(node, now)

    def _judge(self, now: float) -> frozenset[bytes]:
        silent = {node for node, at in self._heard.items() if now - at > self._suspect_s}
        judged = frozenset(silent | self._down)
        new = judged - self._suspected
        self._suspected = judged
        return new
