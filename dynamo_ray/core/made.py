"""What came of the keys of a put: the states and contexts that were minted, and who was refused.

Mint ─ on_minted ─► states of the keys that live ─► Merge for the other owners
          │              ▲
          │              └─ on_late: the same puts under other dots, made one with the first
          └─ refused by the minter: failed, each alone          outcome: all of it, by key
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import (
    ALWAYS_REFUSED,
    Code,
    Failure,
    Merge,
    Mint,
    Minted,
    PutOutcome,
)


class Made:
    """The keys of one Mint, by their rows; `live` are those that nobody refused."""

    # What a put begins with; most puts change little of it.
    _failures: Sequence[Failure] = ()
    _contexts: Sequence[bytes | None] = ()
    _merge = Merge((), (), ())

    def __init__(self, mint: Mint) -> None:
        self._mint = mint
        self.live: Sequence[int] = range(len(mint.keys))

    def on_minted(self, minted: Minted, w: int, doubtful: bool) -> None:
        """The first answer. What its minter refused another may have applied, if `doubtful`."""
        self._contexts = minted.clocks
        if minted.codes:
            codes = minted.codes
            self.live = [row for row, code in enumerate(codes) if code == Code.OK]
            self._failures = [
                Failure(row, _honest(code, doubtful), w, 0)
                for row, code in enumerate(codes)
                if code != Code.OK
            ]
        self._merge = self._merge_of(minted.states)

    def on_late(self, minted: Minted) -> bool:
        """An earlier candidate minted after all: its dots are made one with these here.

        Both are the writer's own, so its context covers both if it was not answered yet. True if
        the states have changed by it.
        """
        states, contexts = list(self._merge.states), list(self._contexts)
        late_contexts = minted.clocks
        for position, row in enumerate(self.live):
            late, late_context = minted.states[row], late_contexts[row]
            if late is not None and late_context is not None:
                states[position] = merge(states[position], late)
                contexts[row] = merge(contexts[row] or late_context, late_context)
        if states == self._merge.states:
            return False
        self._contexts = contexts
        self._merge = Merge(self._merge.keys, self._merge.partitions, states)
        return True

    def merge_for(self, owner: bytes | None) -> Merge:
        """The states for an owner, or, if one is given, for who keeps them in its place."""
        return self._merge if owner is None else replace(self._merge, hint_for=owner)

    def outcome(self, code: Code, w: int, received: int, reason: str) -> PutOutcome:
        """What the caller is told; every key without a verdict of its own ends with `code`."""
        if code == Code.OK:
            return PutOutcome(self._contexts, tuple(self._failures))
        failures = [
            *self._failures,
            *(Failure(row, code, w, received, reason) for row in self.live),
        ]
        return PutOutcome([None] * len(self._mint.keys), tuple(sorted(failures)))

    def _merge_of(self, states: Sequence[bytes | None]) -> Merge:
        keys, partitions = self._mint.keys, self._mint.partitions
        if len(self.live) == len(keys):
            return Merge(keys, partitions, cast("Sequence[bytes]", states))
        return Merge(
            [keys[row] for row in self.live],
            [partitions[row] for row in self.live],
            [states[row] or b"" for row in self.live],
        )


def _honest(code: int, doubtful: bool) -> int:
    """What one minter refused, an earlier one that did not answer may have applied (rule 7)."""
    return Code.UNKNOWN if doubtful and code not in ALWAYS_REFUSED else code
