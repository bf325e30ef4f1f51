"""How somebody outside the cluster follows its ring while asking about a partition (rule 16).

    asked under an epoch ─► refused: other owners ─► learn what the refusing nodes know ─► ask again
                                    ▲                                                     │
                                    └──── the same epoch, again and again: they are ──────┘
                                          behind; give them time, and then give up

A member shows a node what it knows when the two differ; whoever has only the client's token cannot.
So there are two ways out of a refusal: to learn what the node knows, which takes one question, and
to wait until others have told the node what is known here already, which takes a second or so.
"""

from __future__ import annotations

PAUSE_S = 0.1
TRIES = 50


class Following:
    """How often the same owners were refused; owners that change are a new beginning."""

    def __init__(self) -> None:
        self._epoch = b""
        self._refused = 0

    def pause_s(self, epoch: bytes) -> float | None:
        """Refused under this epoch: how long to wait before it is tried again; None to give up."""
        if epoch != self._epoch:
            self._epoch, self._refused = epoch, 0
        self._refused += 1
        if self._refused > TRIES:
            return None
        return PAUSE_S if self._refused > 1 else 0.0
