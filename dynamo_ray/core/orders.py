"""The keys of partitions that are being read, in order, and kept so while keys come and go.

    first page ─► sorted once ─► page, page, …      a key that comes meanwhile ─► to its place

Sorting anew for every page would hold the loop for long; an order that stayed as it was at the
first page would hide what has come since. And that may be a key that a stand-in has handed home
between two pages, and holds no more: whoever reads both would meet it at neither.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

READINGS = 8


class Orders:
    """The orders of a few of the partitions in `maps`. One that nobody goes on with stays as well.

    Law: after `mark` of all that has changed an order has just the keys that are held.
    """

    def __init__(self, maps: Sequence[Mapping[bytes, bytes]]) -> None:
        self._maps = maps
        self._of: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def mark(self, partitions: Sequence[int], keys: Sequence[bytes]) -> None:
        """These keys' states have changed: those that came get their places, those that went go."""
        of = self._of
        if not of or of.keys().isdisjoint(partitions):
            return  # nearly always: nobody reads these partitions
        for partition, key in zip(partitions, keys, strict=True):
            in_order = of.get(partition)
            if in_order is not None:
                at = bisect_left(in_order, key)
                is_there = at < len(in_order) and in_order[at] == key
                is_held = key in self._maps[partition]
                if is_held and not is_there:
                    in_order.insert(at, key)
                elif is_there and not is_held:
                    del in_order[at]

    def take(self, partition: int) -> list[bytes]:
        """The order of a partition, out of what is kept."""
        in_order = self._of.pop(partition, None)
        return sorted(self._maps[partition]) if in_order is None else in_order

    def keep(self, partition: int, in_order: list[bytes]) -> None:
        """More pages follow. Over the bound whoever was not asked for longest is sorted anew."""
        self._of[partition] = in_order
        if len(self._of) > READINGS:
            del self._of[next(iter(self._of))]
