"""Slots that a node owns because it took another's place, until all count on it (DESIGN rule 17).

    inherited ─► the other owners are shown the end ─► all know: publish
              ─► they are shown that it is published ─► all know: it is open, and may be rebuilt

A node that replaces another one has its slots without having been given them. Somebody else may
take itself for their owner all the same: one to whom the dead node gave a slot before anybody
heard, or a second heir, where two were named. Each of them has another ballot, a Slot, and the
greater one counts (core/membership.py). So until every other owner of the partition knows this
node's, it takes no writes, and proves nothing: what others count under a lesser ballot until then
they hold, and give when it is rebuilt; and once they know this one they count under no lesser.

The first step is for politeness only: where one of them knows that the slot has been given, there
is nothing to inherit. Publishing is core/handover.py's. That a slot is open is not noted anywhere:
a partition of which nothing is doubted any more was open when it was rebuilt (core/rebuild.py).
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
        self._copies = 1
        self._ends: Mapping[bytes, bytes] = {}
        self._published: Mapping[int, Slot] = {}
        self._others: dict[int, frozenset[bytes]] = {}
        self._aware: dict[tuple[int, Slot, bool], set[bytes]] = {}
        self._unclaimed: frozenset[int] = frozenset()
        self.slots: dict[int, Slot] = {}
        """What it inherited and not everybody knows of, as it has published it, or is to."""

    @property
    def partitions(self) -> frozenset[int]:
        """Those of which no copy here counts yet, whatever becomes of it."""
        return frozenset(slot // self._copies for slot in self.slots) | self._unclaimed

    def on_placement(self, placement: Placement, doubted: frozenset[int]) -> None:
        """What is owned by now without having been given, and who is to know."""
        ring, self._copies = placement.ring, placement.ring.copies
        self._ends, self._published = placement.view.ends, placement.view.slots
        self._unclaimed = placement.unclaimed(self._me)
        self.slots, before = {}, self._aware
        self._others, self._aware = {}, {}
        for slot, owned in placement.inherited(self._me).items():
            partition = slot // ring.copies
            if self._is_published(slot, owned) and partition not in doubted:
                continue
            self.slots[slot] = owned
            self._others[slot] = frozenset(ring.owners(partition)) - {self._me}
            step = self._step(slot)
            self._aware[step] = before.get(step, set())
        self._open()

    def on_told(self, node: bytes, view: View) -> None:
        """Another node knows that much: also of what this node inherited, by now?"""
        knows_ends = self._ends.items() <= view.ends.items()
        for slot, owned in self.slots.items():
            if self._is_published(slot, owned):
                knows = view.slots.get(slot) == owned
            else:
                knows = knows_ends
            if knows:
                self._aware[self._step(slot)].add(node)
        self._open()

    def to_tell(self, unreachable: frozenset[bytes]) -> list[Exchange]:
        """Whoever is to know and can be reached is shown it, until it answers (rule 11)."""
        unaware: set[bytes] = set().union(*map(self._unaware, self.slots))
        return [Exchange(node) for node in sorted(unaware - unreachable)]

    def to_publish(self) -> dict[int, Slot]:
        """What may be published, and is not."""
        return {
            slot: owned
            for slot, owned in self.slots.items()
            if not self._is_published(slot, owned) and not self._unaware(slot)
        }

    def _open(self) -> None:
        """Whatever is published and known to all others is as good as given."""
        for slot, owned in list(self.slots.items()):
            if self._is_published(slot, owned) and not self._unaware(slot):
                del self.slots[slot]

    def _unaware(self, slot: int) -> frozenset[bytes]:
        return self._others[slot] - self._aware[self._step(slot)]

    def _step(self, slot: int) -> tuple[int, Slot, bool]:
        """What its others are to know of a slot now."""
        owned = self.slots[slot]
        return slot, owned, self._is_published(slot, owned)

    def _is_published(self, slot: int, owned: Slot) -> bool:
        return self._published.get(slot) == owned
