"""What the map holds and a failed append kept out of the log (durability level `memory` only).

At that level an answer does not wait for the log, so a failed append is not undone: others may have
seen it. But whoever hands a copy home gives it up for an answer that says "fsynced", at every level
(DESIGN rule 8). So what the log missed is recorded again at each tick until the log takes it, and
until an fsync covers that, nothing is said to be durable. At the other levels this stays empty.
"""

from __future__ import annotations

from collections import deque

from dynamo_ray.core.messages import Persist
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.unpersisted import Changes

NEVER = 1 << 62


class Unlogged:
    """The records on their way to the log, and the keys whose records did not arrive."""

    def __init__(self) -> None:
        self._on_the_way: deque[Persist] = deque()
        self._missed: dict[bytes, int] = {}
        self._again_at = 0

    @property
    def due(self) -> int:
        """The position that must be fsynced before anything may be called durable."""
        return NEVER if self._missed else self._again_at

    def on_persist(self, record: Persist) -> None:
        """A record is given to the log."""
        self._on_the_way.append(record)

    def on_appended(self, position: int) -> None:
        """The log holds everything up to `position`."""
        while self._on_the_way and self._on_the_way[0].position <= position:
            self._on_the_way.popleft()

    def on_append_failed(self) -> None:
        """Nothing that was on its way has arrived."""
        for record in self._on_the_way:
            self._missed.update(zip(record.keys, record.partitions, strict=True))
        self._on_the_way.clear()

    def again(self, replica: Replica) -> list[Persist]:
        """One record of all that was missed, as it is now."""
        if not self._missed:
            return []
        keys, partitions = list(self._missed), list(self._missed.values())
        self._missed = {}
        self._again_at = replica.queue.add(Changes())
        states = [replica.maps[p].get(key) for key, p in zip(keys, partitions, strict=True)]
        hints = [replica.hints.of(key) for key in keys]
        return [Persist(self._again_at, partitions, keys, states, hints)]
