"""What the map shows already and the log does not yet hold (DESIGN rule 1).

One ordered queue. Whoever shows a key waits for the position that persists it; a failed append
undoes everything that the log was not given, the latest change first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from dynamo_ray.core.hints import Hints
from dynamo_ray.core.merge import replaced
from dynamo_ray.core.remembered import RememberedPuts


class Changes:
    """What one message changes, column by column, in the order in which it is done.

    `before` and `after` are the key's state, None for none; `owners` for whom the copy was kept.
    """

    __slots__ = ("after", "before", "keys", "owners", "partitions")

    def __init__(self) -> None:
        self.partitions: list[int] = []
        self.keys: list[bytes] = []
        self.before: list[bytes | None] = []
        self.after: list[bytes | None] = []
        self.owners: list[bytes] = []

    def __len__(self) -> int:
        return len(self.keys)

    def add(
        self, partition: int, key: bytes, before: bytes | None, after: bytes | None, owners: bytes
    ) -> None:
        """One more change."""
        self.partitions.append(partition)
        self.keys.append(key)
        self.before.append(before)
        self.after.append(after)
        self.owners.append(owners)

    def latest_first(self) -> Iterator[tuple[int, bytes, bytes | None, bytes]]:
        """Partition, key, state before and owners of each change, the last one first."""
        for i in range(len(self.keys) - 1, -1, -1):
            yield self.partitions[i], self.keys[i], self.before[i], self.owners[i]


class Unpersisted:
    """The queue of changes between map and log, by position."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Changes]] = deque()
        self._last = 0
        self._latest = 0

    @property
    def last(self) -> int:
        """The last position that was handed out and not undone: what the log will be given."""
        return self._latest

    def add(self, changes: Changes) -> int:
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
            if not wanted.isdisjoint(changes.keys):
                return position
        return 0

    def is_persisted(self, position: int) -> bool:
        """True if the log holds everything up to `position`."""
        return not self._queue or self._queue[0][0] > position

    def on_persisted(self, position: int) -> None:
        """The log holds everything up to `position`."""
        while self._queue and self._queue[0][0] <= position:
            self._queue.popleft()

    def undo(
        self, maps: list[dict[bytes, bytes]], puts: RememberedPuts, hints: Hints, appended: int
    ) -> list[Changes]:
        """Take back every queued change after `appended`, the latest first; what was taken back.

        What the log was given before stays, even if no fsync covers it yet: it is there, and will
        be read again. The put ids go too: an operation that was minted, replaced and then undone
        was never applied, and a retry of it must not be told that it was. Hints are what they were
        (rule 10): a copy that is held again goes home again, or nobody would ever let go of it.
        """
        self._latest = min(self._latest, appended)
        undone: list[Changes] = []
        while self._queue and self._queue[-1][0] > appended:
            _, changes = self._queue.pop()
            undone.append(changes)
            for partition, key, before, owners in changes.latest_first():
                after = maps[partition].pop(key, None)
                if before is not None:
                    puts.forget(replaced(before, after))
                    maps[partition][key] = before
                hints.restore(key, partition, owners, len(before or b""))
        return undone
