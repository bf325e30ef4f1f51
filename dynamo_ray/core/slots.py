"""Who owns what: the ring as it follows from the charter and a view (DESIGN rule 15, Dynamo §4.8).

    the charter's claim ─► slots that changed hands ─► heirs of replaced nodes ─► Ring

Every member makes it by itself, and whoever knows the same makes the same. Members are the
charter's nodes and those that joined later, without those that were removed or replaced. A slot
whose owner is replaced belongs to the one that replaced it.

What can only come of views that met too late is mended alike by everybody: no partition has the
same owner twice, and a slot has an owner even if its last one was removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.membership import LINE, Slot, View, Wish, merge_views
from dynamo_ray.core.ring import Member, NodeId, Ring


@dataclass(frozen=True)
class Placement:
    """A view and the ring that follows from it; `founded` is the charter's own ring."""

    charter: Charter
    view: View
    founded: Ring = field(repr=False)
    ring: Ring = field(repr=False)

    def learn(self, view: View) -> Placement:
        """Knowing this view, too; itself if that adds nothing."""
        merged = merge_views(self.view, view)
        if merged is self.view:
            return self
        ring = _ring_of(self.charter, self.founded, merged)
        return replace(self, view=merged, ring=self.ring if ring == self.ring else ring)

    def owned(self, node: NodeId) -> frozenset[int]:
        """The partitions of which a node is an owner."""
        copies = self.ring.copies
        return frozenset(at // copies for at, owner in enumerate(self.ring.slots) if owner == node)

    @cached_property
    def under_way(self) -> Mapping[int, Wish]:
        """The slots that another member should have, and can take, and does not have yet."""
        members = self._members
        found: dict[int, Wish] = {}
        for slot, wish in self._wishes():
            owners = self.ring.owners(slot // self.ring.copies)
            if wish.receiver in members and wish.receiver not in owners:
                found[slot] = wish
        return found

    def wished(self, node: NodeId) -> dict[int, Wish]:
        """What a node has to give of its own."""
        slots = self.ring.slots
        return {slot: wish for slot, wish in self.under_way.items() if slots[slot] == node}

    def taken_back(self, node: NodeId) -> dict[int, Slot]:
        """Its slots that stay, as is wished, or as nobody is left to have them.

        As a new generation, so that no promise of an earlier wish is left: whoever gave it takes no
        other slot of that partition before.
        """
        return {
            slot: Slot(wish.generation + 1, node)
            for slot, wish in self._wishes()
            if node == self.ring.slots[slot] and self._is_void(slot, wish)
        }

    def inherited(self, node: NodeId) -> dict[int, Slot]:
        """Its slots that nobody gave it, as it has published them, or is to: as a new line."""
        if not self.view.ends:
            return {}
        found: dict[int, Slot] = {}
        for slot, owner in enumerate(self.ring.slots):
            if owner == node:
                known, last = self.view.slots.get(slot), self._last_owner(slot)
                if node != last and not self._is_stranger(last):
                    line = self.view.generation(slot) // LINE + 1
                    found[slot] = Slot(line * LINE, node)
                elif known is not None and known.begins_a_line:
                    found[slot] = known
        return found

    def unclaimed(self, node: NodeId) -> frozenset[int]:
        """The partitions of which it owns a slot for want of another, whose fact is on its way.

        That one has said that the slot is its own, and has not come to its end.
        """
        return frozenset(
            slot // self.ring.copies
            for slot, known in self.view.slots.items()
            if self._is_stranger(known.owner) and self.ring.slots[slot : slot + 1] == (node,)
        )

    def is_wished_for(self, partition: int, node: NodeId) -> bool:
        """True if a slot of the partition should come to this node."""
        copies = self.ring.copies
        for slot in range(partition * copies, (partition + 1) * copies):
            wish = self.view.wishes.get(slot)
            if wish is not None and wish.receiver == node:
                return wish.generation >= self.view.generation(slot)
        return False

    def with_wishes(self, moves: Iterable[tuple[int, NodeId]], stamp: bytes) -> View:
        """The view with what a command wishes: slots, and who should have them."""
        wishes = {slot: Wish(self.view.generation(slot), stamp, node) for slot, node in moves}
        return merge_views(self.view, View(wishes=wishes))

    def _wishes(self) -> Iterable[tuple[int, Wish]]:
        """The wishes for slots as they are now."""
        for slot, wish in sorted(self.view.wishes.items()):
            if slot < len(self.ring.slots) and wish.generation == self.view.generation(slot):
                yield slot, wish

    def _is_void(self, slot: int, wish: Wish) -> bool:
        """True for a wish for the owner itself, or another of the partition, or one that ended."""
        owners = self.ring.owners(slot // self.ring.copies)
        return wish.receiver in owners or wish.receiver in self.view.ends

    @cached_property
    def _members(self) -> frozenset[NodeId]:
        return frozenset(member.node for member in self.ring.members)

    def _is_stranger(self, node: NodeId) -> bool:
        """True if nobody has said here yet who it is."""
        return node not in self._members and node not in self.view.ends

    def _last_owner(self, slot: int) -> NodeId:
        known = self.view.slots.get(slot)
        return known.owner if known is not None else self.founded.slots[slot]


def placed(charter: Charter, view: View) -> Placement:
    """What a member knows at its start."""
    founded = charter.ring()
    return Placement(charter, view, founded, _ring_of(charter, founded, view))


def _ring_of(charter: Charter, founded: Ring, view: View) -> Ring:
    members = {member.node: member for member in charter.members}
    for node, fact in view.nodes().items():
        members[node] = Member(node, fact.name, fact.zone, fact.weight, fact.machine)
    slots = list(founded.slots)
    for slot, known in view.slots.items():
        if slot < len(slots):
            slots[slot] = known.owner
    present = {node: member for node, member in members.items() if node not in view.ends}
    if len(present) < founded.copies:
        present = members
    owners = _with_heirs(slots, present, view.ends)
    _mend(owners, slots, founded.copies, sorted(present))
    return Ring(founded.partitions, founded.copies, tuple(present.values()), tuple(owners))


def _with_heirs(
    slots: list[NodeId], present: Mapping[NodeId, Member], ends: Mapping[NodeId, NodeId]
) -> list[NodeId]:
    """Each slot's owner, or who replaced it, or who replaced that one; b"" for nobody."""
    heirs: dict[NodeId, NodeId] = {}
    for node in set(slots):
        heir, met = node, {node}
        while heir not in present and ends.get(heir, heir) not in met:
            heir = ends[heir]
            met.add(heir)
        heirs[node] = heir if heir in present else b""
    return [heirs[node] for node in slots]


def _mend(slots: list[NodeId], named: list[NodeId], copies: int, nodes: list[NodeId]) -> None:
    """Whoever would own a slot of a partition twice, or nobody, gives place to the next node.

    That is the one that follows the slot's `named` owner in the order of the ids.
    """
    for first in range(0, len(slots), copies):
        row = slots[first : first + copies]
        if b"" not in row and len(set(row)) == copies:
            continue
        taken: set[NodeId] = set()
        for at, owner in enumerate(row):
            if owner == b"" or owner in taken:
                around = [node for node in nodes if node > named[first + at]] + nodes
                owner = next(node for node in around if node not in taken and node not in row)
                slots[first + at] = owner
            taken.add(owner)
