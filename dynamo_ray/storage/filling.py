"""What records make of the maps, in the order in which they were written: the last of a key wins.

Whatever a record replaces is told: from those states the put ids are remembered (DESIGN rule 7),
also from records that the snapshot covers already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from dynamo_ray.storage.codec import Columns

# The key, its state before and its state after a replayed record (None: forgotten).
Replaced = Callable[[bytes, bytes, bytes | None], None]


class Filling:
    """Maps and hints being filled. `maps`: {key: state} per partition. `hints`: {key: node ids}."""

    def __init__(self, partitions: int, on_replaced: Replaced | None) -> None:
        self.maps: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]
        self.hints: dict[bytes, bytes] = {}
        self._on_replaced = on_replaced
        # What the log says of keys that the snapshot covers, until it says something newer.
        self._older: dict[bytes, tuple[int, bytes]] = {}

    def apply(self, columns: Columns) -> None:
        """Records that are newer than all before them."""
        maps, hints, older, on_replaced = self.maps, self.hints, self._older, self._on_replaced
        for partition, key, state, kept in zip(*columns, strict=True):
            of = maps[partition]
            # The log's own word first: the snapshot may have seen what came later.
            before = older.pop(key)[1] if key in older else of.get(key)
            if state is None:
                of.pop(key, None)
            else:
                of[key] = state
            if kept:
                hints[key] = kept
            elif hints:
                hints.pop(key, None)
            if before is not None and on_replaced is not None and before != state:
                on_replaced(key, before, state)

    def take_singles(self, run: Iterable[tuple[int, bytes, bytes, int]]) -> tuple[int, int]:
        """`apply` for plain records one by one: how many they were, and where the last one ends.

        They are partition, key, state and end; it stops before a partition that there is not.
        """
        maps, hints, older, on_replaced = self.maps, self.hints, self._older, self._on_replaced
        taken = at = 0
        for partition, key, state, end in run:
            if partition >= len(maps):
                break
            of = maps[partition]
            before = older.pop(key)[1] if key in older else of.get(key)
            of[key] = state
            if hints:
                hints.pop(key, None)
            if before is not None and on_replaced is not None and before != state:
                on_replaced(key, before, state)
            taken += 1
            at = end
        return taken, at

    def take_whole(self, partition: int, columns: Columns) -> bool:
        """A partition's file goes into its empty map at once, where `apply` would do the same.

        That is: no key is there twice, none is forgotten, and there are no hints, now or earlier.
        """
        whole = dict(zip(columns.keys, columns.states, strict=True))
        if len(whole) < len(columns.keys) or None in columns.states:
            return False
        if self.hints or any(columns.hints):
            return False
        self.maps[partition] = cast("dict[bytes, bytes]", whole)
        return True

    def look_at(self, columns: Columns) -> None:
        """Records that the snapshot covers: only what they replaced is of interest."""
        if self._on_replaced is None:
            return
        for partition, key, state, _ in zip(*columns, strict=True):
            before = self._older.pop(key, None)
            if state is not None:
                self._older[key] = partition, state
            if before is not None and before[1] != state:
                self._on_replaced(key, before[1], state)

    def leave_covered(self) -> None:
        """What was covered and not logged again: told if the snapshot knew of something newer."""
        for key, (partition, state) in self._older.items():
            now = self.maps[partition].get(key)
            if now != state and self._on_replaced is not None:
                self._on_replaced(key, state, now)
        self._older.clear()
