"""Signals around what must be undone: all become KeyboardInterrupt, and none stops the undoing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C does: by way of every `finally`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {sign: signal.signal(sign, interrupt) for sign in ALL if sign != signal.SIGINT}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextmanager
def deaf() -> Iterator[None]:
    """While things are cleared away, interrupts are not heard; for work that is bounded in time."""
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in ALL}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
