"""What a node says while it reads its directory back: how much, how fast, and how much there is.

The thread that recovers tells; others look. Numbers may be those of two moments: they are for
people.
"""

from __future__ import annotations

import logging
import time
from typing import Any

SAY_EVERY_S = 5.0
_log = logging.getLogger("dynamo_ray.server")


class Recovering:
    """The progress of one node's recovery; `has_begun` is False before it."""

    def __init__(self, name: str) -> None:
        self.has_begun = False
        self._name = name
        self._records = self._bytes = self._bytes_in_all = 0
        self._began_at = self._ended_at = self._said_at = 0.0

    def begin(self) -> None:
        """A start, or another try of it."""
        self._records = self._bytes = self._bytes_in_all = 0
        self._ended_at = 0.0
        self._began_at = self._said_at = time.monotonic()
        self.has_begun = True

    def on_progress(self, records: int, size: int, in_all: int) -> None:
        """So much was read by now; said once in a while."""
        self._records, self._bytes, self._bytes_in_all = records, size, in_all
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            # A warning, because Ray keeps nothing milder; a start that is quick says nothing.
            _log.warning("%s", in_words(self._name, self.to_dict()))

    def end(self, records: int, size: int) -> None:
        """All is read."""
        self._records, self._bytes = records, size
        self._ended_at = time.monotonic()

    def to_dict(self) -> dict[str, Any]:
        """The progress, or once it has ended the result, as plain values."""
        seconds = (self._ended_at or time.monotonic()) - self._began_at
        return {
            "records": self._records,
            "bytes": self._bytes,
            "bytes_in_all": max(self._bytes, self._bytes_in_all),
            "seconds": round(seconds, 4),
            "records_per_s": round(self._records / seconds) if seconds > 0 else 0,
        }


def in_words(name: str, told: dict[str, Any]) -> str:
    """One line of progress, for a person who waits."""
    return (
        f"{name} reads its data back: {told['bytes'] / 1e6:,.0f} of"
        f" {told['bytes_in_all'] / 1e6:,.0f} MB, {told['records']:,} records,"
        f" {told['records_per_s']:,} a second"
    )
