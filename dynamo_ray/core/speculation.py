"""Slow is not dead: when a mint takes unusually long, another owner is asked as well.

    mint ─► begin by 2 × p99, or drop it ─► answered by another p99 ─► fine
                                                └─ not: the node is slow, and the next owner asked

A silent node is suspected after `suspect_s`; a request need not wait that long. But a second mint
is no second read: the two make two versions of one put (DESIGN rule 7), and once the first of them
was replaced the second stands beside what replaced it, as an old value that came back. So the first
is asked to begin soon or not at all, by its own clock, and the second is not asked before that time
and that of an answer are over. A node that was stopped drops on waking what others did long since.

While a node is slow others mint first, which costs nothing twice. It is slow until it is seen to
have persisted something. Speculation is bounded to a share of the mints, so that overload is not
doubled; and a coordinator that wakes late itself concludes nothing from it.

Times are readings of the coordinator's monotonic clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from dynamo_ray.core.latency import Latencies
from dynamo_ray.core.messages import Code, Merged, Minted, Refused

QUANTILE = 0.99
LEAST_S = 0.05  # below it a wait is the machines' noise
ANSWER_S = 0.15  # an answer that is under way makes a second mint worse than waiting for it
UNKNOWN_S = 0.1  # what is taken for the p99 of a node of which little is known
FAULT_S = 1.0  # an answer after so long was held up by a fault: it says nothing of the usual
SHARE = 0.05  # of all mints
BURST = 50.0
LATE_WAKE_S = 0.025
MOST_KEYS = 64  # of a batch; a longer one takes long because it is long


Silence = Callable[[bytes], float]


class Speculation:
    """The mints under way at one coordinator, and which nodes are slow."""

    def __init__(self) -> None:
        self._latencies: dict[bytes, Latencies] = {}
        self._open: dict[int, tuple[bytes, float]] = {}
        self._agenda: list[tuple[float, int]] = []
        self._slow: frozenset[bytes] = frozenset()
        self._tokens = BURST

    @property
    def slow(self) -> frozenset[bytes]:
        """The nodes that were late and have persisted nothing since: others mint first."""
        return self._slow

    @property
    def affordable(self) -> bool:
        """True if one more mint may be speculative."""
        return self._tokens >= 1.0

    def p99_s(self, node: bytes) -> float:
        """What 99 of 100 mints at a node stay within."""
        latencies = self._latencies.get(node)
        return (latencies.quantile(QUANTILE) if latencies else None) or UNKNOWN_S

    def on_mint(self, call: int, node: bytes, now: float) -> float:
        """A node is asked to mint; within how many seconds it should begin, or drop it."""
        usual_s = self.p99_s(node)
        begin_s = max(LEAST_S, 2 * usual_s)
        self._open[call] = node, now
        self._tokens = min(BURST, self._tokens + SHARE)
        heappush(self._agenda, (now + begin_s + max(ANSWER_S, usual_s), call))
        return begin_s

    def on_reply(self, call: int, node: bytes, message: Any, now: float) -> None:
        """What an answer says of its node's pace."""
        if isinstance(message, Minted | Merged):
            self.on_persisted(node)
        is_late = isinstance(message, Refused) and message.code == Code.EXPIRED
        if isinstance(message, Minted) or is_late:
            self.on_answer(call, now)
        else:
            self.on_end(call)

    def on_answer(self, call: int, now: float) -> None:
        """A node answered a mint: by what it made, or that it came too late."""
        node, asked_at = self._open.pop(call, (b"", 0.0))
        if node and now - asked_at <= FAULT_S:
            latencies = self._latencies.get(node)
            if latencies is None:
                latencies = self._latencies[node] = Latencies()
            latencies.add(now - asked_at)

    def on_end(self, call: int) -> None:
        """No answer will come, or nobody waits for it any more."""
        self._open.pop(call, None)

    def on_persisted(self, node: bytes) -> None:
        """A node has persisted something."""
        if self._slow:
            self._slow -= {node}

    def on_suspected(self, nodes: frozenset[bytes]) -> None:
        """These are routed around anyway; when they are heard again they begin anew."""
        self._slow -= nodes

    def on_speculated(self) -> None:
        """One more mint was speculative."""
        self._tokens -= 1.0

    def late(self, now: float, silence_s: Silence) -> list[int]:
        """The calls that have waited long enough; their nodes are slow from now on.

        `silence_s` says for how long a node was not heard. Whoever was heard well after it was
        asked has read the mint, and begun it or dropped it: its answer is on its way, and a second
        mint would only make a second version.
        """
        found = []
        while self._agenda and self._agenda[0][0] <= now:
            due, call = heappop(self._agenda)
            if call not in self._open:
                continue
            node, asked_at = self._open[call]
            if now - due > LATE_WAKE_S or now - silence_s(node) > asked_at + LEAST_S:
                self.postpone(call, now)  # their answers may be here, and not read yet
            else:
                found.append(call)
        self._slow = self._slow.union(self._open[call][0] for call in found)
        return found

    def postpone(self, call: int, now: float) -> None:
        """Look at it again a little later."""
        heappush(self._agenda, (now + LEAST_S, call))

    def wakes_at(self) -> float | None:
        """When `late` should be asked next."""
        while self._agenda and self._agenda[0][1] not in self._open:
            heappop(self._agenda)
        return self._agenda[0][0] if self._agenda else None
