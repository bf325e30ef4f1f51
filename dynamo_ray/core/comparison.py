"""One comparison of two copies of a partition, and who says which is next (core/sync.py).

    Turns ─ next: Turn ─► Comparison, step by step ─► on_end ─► Turns

Whose turn it is, core/rounds.py says for the owners of a partition, and core/handover.py for the
one that is to become an owner.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from dynamo_ray.core.rounds import Turn


@dataclass(slots=True)
class Comparison:
    """The one under way, and what is left of each of its steps."""

    turn: Turn
    began_ms: int
    is_compared: bool = False
    is_complete: bool = True
    branches: list[int] = field(default_factory=list)
    buckets: list[int] = field(default_factory=list)
    after: bytes = b""
    pull: list[tuple[bytes, int]] = field(default_factory=list)  # keys, their states' sizes there
    push: list[tuple[bytes, bytes]] = field(default_factory=list)  # keys, their digests there


class Turns(Protocol):
    """Who says what is compared next, and is told when that has ended."""

    @property
    def is_waited_for(self) -> bool:
        """True if it is not to rest now: somebody waits for a turn, or is kept from writing."""

    def next(self) -> Turn | None:
        """The turn that is due."""

    def on_end(self, turn: Turn, began_ms: int, is_done: bool) -> None:
        """A comparison has ended, well or badly."""
