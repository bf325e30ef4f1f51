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


class Misfit(NamedTuple):
    """A row that no node can have written, though the bytes are as they were written."""

    row: int
    why: str
    partitions: tuple[int, ...]


Judge = Callable[[Columns], Iterable[Misfit]]
