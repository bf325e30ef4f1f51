"""A slot on its way to another owner: where it is (core/handover.py)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dynamo_ray.core.membership import Wish


class Step(Enum):
    """Where a move is."""

    OFFERING = 1
    COPYING = 2
    CLOSING = 3
    FINISHING = 4
    SEALING = 5
    PUBLISHING = 6


@dataclass(slots=True)
class Moving:
    """The slot that is on its way, and to whom."""

    slot: int
    partition: int
    wish: Wish
    step: Step = Step.OFFERING
    token: bytes = b""
    sent_before: int = 0
    last_sent: int | None = None
    closed_ms: int = 0
    closed_at: int | None = None  # position in the log's queue
