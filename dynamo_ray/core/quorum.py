"""Counting to a quorum: is it met, is it lost, or is it still open? (Dynamo §4.5)

A verdict is one of three. `verdict` judges two counts; `Tally` counts distinct nodes and tells the
event that decided from those that did not, so that an answer is given once.

                 received ≥ required
    PENDING ──────────────────────────────► MET
       └────────────────────────────────► LOST
             possible < required

Laws: MET and LOST are final. A node counts once, however often it answers. An acknowledgement holds
even if the node was given up before: it was late, but the copy is there. A failure after an
acknowledgement means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class Verdict(Enum):
    """What the counts say. PENDING also answers an event that decided nothing."""

    PENDING = "pending"
    MET = "met"
    LOST = "lost"


def verdict(required: int, received: int, possible: int) -> Verdict:
    """Judge the counts; `possible` are those received and those that may still come.

    Nothing required is met by nothing, so that W = 0 is no special case for callers.
    """
    if received >= required:
        return Verdict.MET
    return Verdict.LOST if possible < required else Verdict.PENDING


class Tally:
    """Acknowledgements of distinct candidates, up to a required number.

    Nodes that are no candidates do not count: give a strict quorum its owners only. A stand-in is
    added before the failure that it makes good for is told, or that failure may lose the quorum.
    """

    __slots__ = ("_acked", "_failed", "_waiting", "required", "verdict")

    def __init__(self, required: int, candidates: Iterable[bytes]) -> None:
        self.required = required
        self._waiting = set(candidates)
        self._acked: set[bytes] = set()
        self._failed: set[bytes] = set()
        self.verdict = verdict(required, 0, len(self._waiting))

    @property
    def received(self) -> int:
        """How many candidates acknowledged."""
        return len(self._acked)

    @property
    def possible(self) -> int:
        """How many may have acknowledged in the end: those that did and those not heard of."""
        return len(self._acked) + len(self._waiting)

    @property
    def waiting(self) -> frozenset[bytes]:
        """The candidates of which nothing was heard."""
        return frozenset(self._waiting)

    def add(self, node: bytes) -> None:
        """One more candidate. One that is counted already changes nothing."""
        if node not in self._acked and node not in self._failed:
            self._waiting.add(node)

    def on_ack(self, node: bytes) -> Verdict:
        """A node acknowledged. MET on the very acknowledgement that decides, else PENDING."""
        if node in self._waiting or node in self._failed:
            self._waiting.discard(node)
            self._failed.discard(node)
            self._acked.add(node)
        return self._decide()

    def on_failure(self, node: bytes) -> Verdict:
        """A node will not acknowledge. LOST on the very failure that decides, else PENDING."""
        if node in self._waiting:
            self._waiting.discard(node)
            self._failed.add(node)
        return self._decide()

    def _decide(self) -> Verdict:
        if self.verdict is not Verdict.PENDING:
            return Verdict.PENDING
        self.verdict = verdict(self.required, len(self._acked), self.possible)
        return self.verdict
