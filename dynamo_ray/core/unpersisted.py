"""What the map shows already and the log does not yet hold (DESIGN rule 1).

One ordered queue. Whoever shows a key waits for the position that persists it; a failed append
undoes everything that the log was not given, the latest change first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dynamo_ray.core.hints import Hints
from dynamo_ray.core.merge import replaced
from dynamo_ray.core.remembered import RememberedPuts

Change = tuple[int, bytes, bytes | None, bytes]


class Unpersisted:
    """The queue of changes between map and log: (partition, key, state before, hints before)."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Sequence[Change]]] = deque()
        self._last = 0
        self._latest = 0

    @property
    def last(self) -> int:
        """The last position that was handed out and not undone: what the log will be given."""
        return self._latest

    def add(self, changes: Sequence[Change]) -> int:
        """Queue changes; their position, one more than the last."""
        self._last = self._latest = self._last + 1
        self._queue.append((self._last, changes))
        return self._last

    def shown_at(self, keys: Sequence[bytes]) -> int:
        """The position that must be persisted before these keys may be shown; 0 for none."""
        if not self._queue:
            return 0
        wanted = set(keys)
        for position, changes in reversed(self._queue):
            if not wanted.isdisjoint(key for _, key, _, _ in changes):
                return position
        return 0

    def on_persisted(self, position: int) -> None:
        """The log holds everything up to `position`."""
        while self._queue and self._queue[0][0] <= position:
            self._queue.popleft()

    def undo(
        self, maps: list[dict[bytes, bytes]], puts: RememberedPuts, hints: Hints, appended: int
    ) -> None:
        """Take back every queued change after `appended`, the latest first.

        What the log was given before stays, even if no fsync covers it yet: it is there, and will
        be read again. The put ids go too: an operation that was minted, replaced and then undone
        was never applied, and a retry of it must not be told that it was. Hints are what they were
        (rule 10): a copy that is held again goes home again, or nobody would ever let go of it.
        """
        self._latest = min(self._latest, appended)
        while self._queue and self._queue[-1][0] > appended:
            _, changes = self._queue.pop()
            for partition, key, before, owners in reversed(changes):
                after = maps[partition].pop(key, None)
                if before is not None:
                    puts.forget(replaced(before, after))
                    maps[partition][key] = before
                hints.restore(key, partition, owners, len(before or b""))
