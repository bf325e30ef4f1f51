"""What one member believes of the cluster: who is there and where, who has what, what is wished.

    facts    what each member says of itself: address, zone, machine …  written by itself
    slots    who owns a slot, since the cluster was founded             by its present owner
    wishes   which slot an operator wants moved, and to whom            by who took the command
    ends     nodes that are removed, or replaced by another             by who took the command

Two views merge by taking of everything the greater: a fact with the later incarnation, a slot of
the later generation (DESIGN rule 15). An end is final, and of two for one node the lower counts.
So the order in which views meet plays no part, and there is nobody to ask. Heartbeats change
routing and never a view; who owns what follows from it in core/slots.py.

Laws: `merge_views` is commutative, associative and idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

NODE_ROLE, COORDINATOR_ROLE = "node", "coordinator"
LINE = 1 << 32
ID_BYTES = 8
Key = tuple[str, bytes | str]


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """What a member says of itself since `incarnation`; `revision` rises when that changes.

    Nodes are told apart by their id (8 random bytes), coordinators by their names: a coordinator
    that starts again draws another id.
    """

    incarnation: bytes
    revision: int
    member: bytes
    role: str
    name: str
    host: str
    port: int
    zone: str = ""
    weight: float = 1.0
    machine: str = ""

    @property
    def key(self) -> Key:
        """What it is a fact of."""
        return self.role, self.member if self.role == NODE_ROLE else self.name

    def to_row(self) -> list[Any]:
        """The fact as plain values, for the wire and for JSON-like files."""
        # A founder's weight is what somebody wrote, 1 perhaps: the same for all who are told.
        where = [self.name, self.host, self.port, self.zone, float(self.weight), self.machine]
        return [self.incarnation, self.revision, self.member, self.role, *where]


class Slot(NamedTuple):
    """Who owns a slot. Each owner makes the generation that follows its own, and nobody else.

    But who owns it without having been given it begins a new line of generations: it cannot know
    how far the line before it came, and is above all that anybody of that line may still say.
    """

    generation: int
    owner: bytes

    @property
    def begins_a_line(self) -> bool:
        """True if its owner was not given it, but inherited it."""
        return self.generation > 0 and self.generation % LINE == 0


class Wish(NamedTuple):
    """A slot of this generation should be moved; the later stamp counts. Advice, and no more.

    A wish for an owner of the partition, as the slot's own, takes an earlier one back.
    """

    generation: int
    stamp: bytes
    receiver: bytes


@dataclass(frozen=True, slots=True)
class View:
    """What one member knows. Slots are numbered partition by partition, copy by copy."""

    facts: Mapping[Key, Fact] = field(default_factory=dict)
    slots: Mapping[int, Slot] = field(default_factory=dict)
    wishes: Mapping[int, Wish] = field(default_factory=dict)
    ends: Mapping[bytes, bytes] = field(default_factory=dict)
    """Node -> who replaced it, b"" for nobody: it was removed."""

    def with_facts(self, facts: Iterable[Fact]) -> View:
        """This view and these facts, merged."""
        return merge_views(self, View({fact.key: fact for fact in _latest(facts)}))

    def nodes(self) -> dict[bytes, Fact]:
        """The storage nodes by their id, without those that have come to their end."""
        return {f.member: f for f in self.facts.values() if f.role == NODE_ROLE}

    def coordinators(self) -> list[Fact]:
        """The coordinators in the order of their names."""
        found = (f for f in self.facts.values() if f.role == COORDINATOR_ROLE)
        return sorted(found, key=lambda fact: fact.name)

    def generation(self, slot: int) -> int:
        """How often a slot has changed hands; 0 as the charter has it."""
        known = self.slots.get(slot)
        return known.generation if known is not None else 0

    def to_rows(self) -> list[Any]:
        """The view as plain values in a canonical order: facts, slots, wishes, ends."""
        return [
            [fact.to_row() for _, fact in sorted(self.facts.items())],
            [[slot, *known] for slot, known in sorted(self.slots.items())],
            [[slot, *wish] for slot, wish in sorted(self.wishes.items())],
            [list(end) for end in sorted(self.ends.items())],
        ]


def merge_views(a: View, b: View) -> View:
    """What two views know together; `a` itself if `b` adds nothing."""
    slots = _greater(a.slots, b.slots)
    ends = _lower(a.ends, b.ends)
    wishes = {
        slot: wish
        for slot, wish in _greater(a.wishes, b.wishes).items()
        if slot not in slots or wish.generation >= slots[slot].generation
    }
    facts = {
        key: fact
        for key, fact in _greater(a.facts, b.facts).items()
        if fact.role != NODE_ROLE or fact.member not in ends
    }
    parts = (facts, a.facts), (slots, a.slots), (wishes, a.wishes), (ends, a.ends)
    if all(merged is known or merged == known for merged, known in parts):
        return a
    return View(facts, slots, wishes, ends)


def _greater(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Of each key the greater; `a` itself if that is all that `a` has."""
    newer = {key: one for key, one in b.items() if (known := a.get(key)) is None or one > known}
    return {**a, **newer} if newer else a


def _lower(a: Mapping[bytes, bytes], b: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Of each node the lower; `a` itself if that is all that `a` has."""
    newer = {node: by for node, by in b.items() if (known := a.get(node)) is None or by < known}
    return {**a, **newer} if newer else a


def _latest(facts: Iterable[Fact]) -> Iterable[Fact]:
    """One fact for each member."""
    latest: dict[Key, Fact] = {}
    for fact in facts:
        latest[fact.key] = max(fact, latest.get(fact.key, fact))
    return latest.values()


def view_from(rows: Iterable[Any]) -> View:
    """The view that `to_rows` gave, or none. Raises ValueError or TypeError for anything else."""
    facts, slots, wishes, ends = list(rows) or ([], [], [], [])
    given = View(
        {},
        {_number(slot): Slot(_number(number), _id(owner)) for slot, number, owner in slots},
        {
            _number(slot): Wish(_number(number), _bytes(stamp), _id(receiver))
            for slot, number, stamp, receiver in wishes
        },
        {_id(node): _bytes(by) for node, by in ends},
    )
    return merge_views(given, View().with_facts(map(_fact, facts)))


def _fact(row: Iterable[Any]) -> Fact:
    incarnation, revision, member, role, name, host, port, zone, weight, machine = row
    if role not in (NODE_ROLE, COORDINATOR_ROLE) or not 0 < port < 65_536:
        raise ValueError(f"a fact of a view cannot be read: {name!r} at {host!r}:{port!r}")
    if not isinstance(weight, float | int) or not (isfinite(weight) and weight >= 0):
        raise ValueError(f"a weight is finite and not negative, {name!r} has {weight!r}")
    since = _bytes(incarnation), _number(revision), _bytes(member)
    place = str(zone), float(weight), str(machine)
    return Fact(*since, role, str(name), str(host), port, *place)


def _number(given: Any) -> int:
    if type(given) is not int or given < 0:
        raise ValueError(f"a number of a view cannot be read: {given!r}")
    return given


def _bytes(given: Any) -> bytes:
    if not isinstance(given, bytes):
        raise ValueError(f"an id of a view cannot be read: {given!r}")
    return given


def _id(given: Any) -> bytes:
    if len(_bytes(given)) != ID_BYTES:
        raise ValueError(f"a node id has {ID_BYTES} bytes, not {len(given)}")
    return bytes(given)
