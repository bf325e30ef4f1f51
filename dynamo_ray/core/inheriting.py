"""Slots that a node owns because it took another's place, until it has said so (DESIGN rule 17).

    inherited ─► the other owners are shown who was replaced ─► all know ─► may be published

A node that replaces another one has its slots without having been given them. Until every other
owner of such a partition knows, none of them counts what the heir takes: so it takes no writes
before that, and none of them is seen by too few. Publishing is core/handover.py's.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.membership import Slot, View
from dynamo_ray.core.slots import Placement


class Inheriting:
    """The machine of one node that makes known what it inherited."""

    def __init__(self, me: bytes) -> None:
        self._me = me
        self._ends: Mapping[bytes, bytes] = {}
        self._unaware: dict[int, set[bytes]] = {}
        self.slots: dict[int, Slot] = {}
        """What it inherited and has not published, as it is to be published."""

    def on_placement(self, placement: Placement) -> None:
        """What is owned by now without having been published, and who is to know."""
        ring = placement.ring
        self._ends = placement.view.ends
        self.slots = placement.inherited(self._me)
        before, self._unaware = self._unaware, {}
        for slot in self.slots:
            others = set(ring.owners(slot // ring.copies)) - {self._me}
            self._unaware[slot] = before.get(slot, others) & others

    def on_told(self, node: bytes, view: View) -> None:
        """Another node knows that much: also what this node inherited, by now?"""
        if self._ends.items() <= view.ends.items():
            for unaware in self._unaware.values():
                unaware.discard(node)

    def to_tell(self, unreachable: frozenset[bytes]) -> list[Exchange]:
        """Whoever is to know and can be reached is shown it, until it answers (rule 11)."""
        unaware: set[bytes] = set().union(*self._unaware.values())
        return [Exchange(node) for node in sorted(unaware - unreachable)]

    def known_to_all(self) -> dict[int, Slot]:
        """What may be published."""
        return {slot: owned for slot, owned in self.slots.items() if not self._unaware[slot]}
