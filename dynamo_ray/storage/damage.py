"""What is wrong with a directory, as values: what recovery finds, and what a judge objects to.

A start goes on with what is left (DESIGN rule 20); the offline tools show these to people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from dynamo_ray.storage.codec import Columns

# What a damage costs: nothing but itself, some partitions' completeness, or the whole node's.
NOTHING, PARTITIONS, NODE = "nothing", "partitions", "node"


class Damage(NamedTuple):
    """Bytes that are not what was written, or are gone. `end` 0: the file as a whole is meant.

    `cost` is NOTHING, PARTITIONS (those are quarantined) or NODE (all is suspect).
    """

    path: str
    start: int
    end: int
    what: str
    cost: str
    partitions: tuple[int, ...] = ()

    @property
    def consequence(self) -> str:
        """What a start does about it."""
        if self.cost == NODE:
            return "all that the node holds is doubted until compared with the other owners"
        if self.cost == PARTITIONS:
            places = ", ".join(map(str, self.partitions))
            return f"partition {places} is quarantined until compared with the other owners"
        return "nothing that was stored is lost"


class Misfit(NamedTuple):
    """A row that no node can have written, though the bytes are as they were written."""

    row: int
    why: str
    partitions: tuple[int, ...]


Judge = Callable[[Columns], Iterable[Misfit]]
