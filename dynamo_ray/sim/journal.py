"""A node's log as the simulator's shell sees it, and its dumb twin: a list in memory.

The twin is a list of records and a mark up to which they are durable. It does what the real store
promises and nothing more, so most seeds can run on it, fast; the others run on `storage` over the
simulated disk, and there the twin goes along to say what recovery must find.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, Protocol


class Row(NamedTuple):
    """One record: a key's state (None: forgotten) and the owners that it is kept for."""

    partition: int
    key: bytes
    state: bytes | None
    hints: bytes


class Recovered(NamedTuple):
    """What a start found: the records in their order, and whether that is provably all of them."""

    rows: list[Row]
    complete: bool


class AppendRefusedError(Exception):
    """The log took nothing; with `unknown` part of it may be read again after a crash."""

    def __init__(self, unknown: bool = False) -> None:
        super().__init__("the disk is full")
        self.unknown = unknown


class Journal(Protocol):
    """What a node's shell needs of storage."""

    full: bool

    def append(self, rows: Sequence[Row]) -> None:
        """Give records to the log; raises AppendRefusedError."""

    def sync(self) -> None:
        """Make all that was appended durable."""

    def new_incarnation(self, wall_ms: int) -> bytes | None:
        """A new incarnation, durable; None while the disk takes nothing."""

    def crash(self, power_loss: bool) -> None:
        """The process ends; with `power_loss` so does the machine."""

    def recover(self) -> Recovered:
        """Read back what is there, as a start does."""


class ListJournal:
    """The dumb twin. What was appended survives the process; what was synced, the machine."""

    def __init__(self, chance: Random) -> None:
        self.full = False
        self.rows: list[Row] = []
        self._durable = 0
        self._last_ms = 0
        self._lost = False
        self._chance = chance

    def append(self, rows: Sequence[Row]) -> None:
        """Give records to the log; raises AppendRefusedError."""
        if self.full:
            raise AppendRefusedError
        self.rows.extend(rows)

    def sync(self) -> None:
        """Make all that was appended durable."""
        self._durable = len(self.rows)

    def new_incarnation(self, wall_ms: int) -> bytes | None:
        """A new incarnation, durable; None while the disk takes nothing."""
        if self.full:
            return None
        self._last_ms = max(self._last_ms + 1, wall_ms)
        return self._last_ms.to_bytes(6, "big") + self._chance.randbytes(8)

    def crash(self, power_loss: bool) -> None:
        """The process ends; a power loss keeps what was synced and any part of the rest."""
        if power_loss:
            kept = self._chance.randint(self._durable, len(self.rows))
            self._lost = self._lost or kept < len(self.rows)
            del self.rows[kept:]

    def recover(self) -> Recovered:
        """Read back what is there."""
        self._durable = len(self.rows)
        return Recovered(list(self.rows), not self._lost)
