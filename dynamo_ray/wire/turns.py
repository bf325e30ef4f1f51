"""Turns of the loop: what was said during one leaves together at its end.

The handling of a chunk may make us say something on several connections; each of them writes once,
when the chunk is done. What is said at another time is written on the loop's next turn. So nothing
waits for a timer, a quiet connection answers at once, and a busy one batches by itself.

Others gather in the same way: an act given to `before_flush` is done once all of a chunk is handled
and before anything is written, so what it says leaves in the same turn. An act that raises is told
to the loop's exception handler: whoever's chunk it was, and the other acts, are not to blame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary


class Speaker(Protocol):
    """Something that has words to hand over."""

    def flush(self) -> None: ...


class Turn:
    """The speakers of one loop that have something to hand over in this turn of it."""

    __slots__ = ("_acts", "_scheduled", "dirty", "receiving")

    def __init__(self) -> None:
        self._acts: list[Callable[[], None]] = []
        self._scheduled = False
        self.dirty: list[Speaker] = []
        self.receiving = False  # a chunk is being handled: whoever handles it will flush

    def add(self, speaker: Speaker, loop: asyncio.AbstractEventLoop) -> None:
        self.dirty.append(speaker)
        if not self.receiving and not self._scheduled:
            self._schedule(loop)

    def before_flush(self, act: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Do this once, at the end of this turn, or on the next one if none is under way."""
        self._acts.append(act)
        if not self.receiving and not self._scheduled:
            self._schedule(loop)

    def flush(self) -> None:
        while self._acts:
            self._act()
        dirty = self.dirty
        if dirty:
            self.dirty = []
            for speaker in dirty:
                speaker.flush()

    def _act(self) -> None:
        acts, self._acts = self._acts, []
        self.receiving = True
        for act in acts:
            try:
                act()
            except Exception as error:
                fault = {"message": "an act at the end of a turn raised", "exception": error}
                asyncio.get_running_loop().call_exception_handler(fault)
        self.receiving = False

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = True
        loop.call_soon(self._on_next_turn)

    def _on_next_turn(self) -> None:
        self._scheduled = False
        self.flush()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The one Turn of this loop. It does not hold the loop, so a closed loop can be forgotten."""
    turn = _turns.get(loop)
    if turn is None:
        turn = _turns[loop] = Turn()
    return turn
