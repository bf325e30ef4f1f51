"""Calls in flight on one connection: who waits for which reply, and until when. No I/O, no clock.

Every call ends once: by its reply, by its time (`expired`), or with the connection (`take_all`);
whoever takes it out of `waiting` is the one who ends it. Ids are odd on the side
that connected and even on the side that accepted, so a message with an id of ours is a reply and
one with an id of theirs is a request: both sides may call.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from dynamo_ray.wire.errors import Failure

OnReply = Callable[[int, list[Any]], None]
OnFailure = Callable[[Failure], None]
Waiting = tuple[OnReply, OnFailure]

_STALE_MIN = 64


class Calls:
    """The table. `last` is the youngest call, `sent` the youngest handed to the transport."""

    __slots__ = ("_deadlines", "last", "sent", "waiting")

    def __init__(self, last: int) -> None:
        self.last = last
        self.sent = last
        self.waiting: dict[int, Waiting] = {}
        # A heap. A call that ends before its time stays in it until it is swept.
        self._deadlines: list[tuple[float, int]] = []

    def limit(self, call: int, deadline: float) -> bool:
        """End this call at that time. True if none ends earlier: the alarm must be set anew."""
        deadlines = self._deadlines
        heapq.heappush(deadlines, (deadline, call))
        if len(deadlines) > 2 * len(self.waiting) + _STALE_MIN:
            self._sweep()
        return deadlines[0][1] == call

    def expired(self, now: float) -> list[Waiting]:
        """Take out all calls whose time has come."""
        ended = []
        while self._deadlines and self._deadlines[0][0] <= now:
            waiting = self.waiting.pop(heapq.heappop(self._deadlines)[1], None)
            if waiting:
                ended.append(waiting)
        return ended

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self.waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def take_all(self) -> list[tuple[Waiting, Failure]]:
        """Everything that still waits. Whose frame never left this side is UNSENT, not LOST."""
        ended = [
            (waiting, Failure.LOST if call <= self.sent else Failure.UNSENT)
            for call, waiting in self.waiting.items()
        ]
        self.waiting.clear()
        self._deadlines.clear()
        return ended

    def _sweep(self) -> None:
        """Forget the deadlines of ended calls, when these are most: at constant cost per call."""
        self._deadlines[:] = [entry for entry in self._deadlines if entry[1] in self.waiting]
        heapq.heapify(self._deadlines)
