"""What the map shows already and the log does not yet hold (DESIGN rule 1).

One ordered queue. Whoever shows a key waits for the position that persists it; a failed append
undoes everything that the log was not given, the latest change first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dynamo_ray.core.merge import replaced
from dynamo_ray.core.remembered import RememberedPuts

Change = tuple[int, bytes, bytes | None]


class Unpersisted:
    """The queue of changes between the map and the log: (partition, key, state before)."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Sequence[Change]]] = deque()
        self._last = 0

    @property
    def last(self) -> int:
        """The last position that was handed out."""
        return self._last

    def add(self, changes: Sequence[Change]) -> int:
        """Queue changes; their position, one more than the last."""
        self._last += 1
        self._queue.append((self._last, changes))
        return self._last

    def shown_at(self, keys: Sequence[bytes]) -> int:
        """The position that must be persisted before these keys may be shown; 0 for none."""
        if not self._queue:
            return 0
        wanted = set(keys)
        for position, changes in reversed(self._queue):
            if not wanted.isdisjoint(key for _, key, _ in changes):
                return position
        return 0

    def on_persisted(self, position: int) -> None:
        """The log holds everything up to `position`."""
        while self._queue and self._queue[0][0] <= position:
            self._queue.popleft()

    def undo(
        self, maps: list[dict[bytes, bytes]], puts: RememberedPuts, appended: int = 0
    ) -> None:
        """Take back every queued change after `appended`, the latest first, with its put ids.

        What the log was given before stays, even if no fsync covers it yet: it is there, and will
        be read again. The ids go too: an operation that was minted, replaced and then undone was
        never applied, and a retry of it must not be told that it was.
        """
        while self._queue and self._queue[-1][0] > appended:
            _, changes = self._queue.pop()
            for partition, key, before in reversed(changes):
                after = maps[partition].pop(key, None)
                if before is not None:
                    puts.forget(replaced(before, after))
                    maps[partition][key] = before
