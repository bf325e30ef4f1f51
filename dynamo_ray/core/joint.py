"""What comes of a message that went in parts, as one answer for the machine that sent it.

all parts answered    their answers put together, row by row
some did not          a failure, as if the whole had failed

A Mint never goes in parts: its put begins anew (`Coordinator._fork`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo_ray.core.messages import Fetched, Merged, Send
from dynamo_ray.core.rerouting import Part
from dynamo_ray.core.values import value


@value
class Failed:
    """A part has no answer; its keys may have been changed all the same if `maybe_applied`."""

    maybe_applied: bool


class Joint:
    """The parts of one message that are on their way."""

    __slots__ = ("_ends", "_open", "send")

    def __init__(self, send: Send) -> None:
        self.send = send
        self._open = 1
        self._ends: list[tuple[Part, Any]] = []

    def on_parted(self, parts: Sequence[Part]) -> None:
        """The whole, or a part that was refused, goes on in these parts."""
        self._open += len(parts) - 1

    def on_end(self, part: Part, end: Any) -> Any:
        """A part has come to its end: the whole message's end if it was the last, else None."""
        self._ends.append((part, end))
        self._open -= 1
        if self._open:
            return None
        bad = [end for _, end in self._ends if not isinstance(end, Merged | Fetched)]
        if bad:
            return bad[0] if len(bad) == len(self._ends) else Failed(True)
        if isinstance(self._ends[0][1], Merged):
            return Merged()
        return self._fetched(len(self.send.message.keys))

    def _fetched(self, count: int) -> Fetched:
        states: list[bytes | None] = [None] * count
        for part, end in self._ends:
            for row, state in zip(part.rows or (), end.states, strict=True):
                states[row] = state
        return Fetched(states, all(end.complete for _, end in self._ends))
