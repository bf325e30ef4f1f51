"""What one member believes of the cluster: who its nodes and coordinators are, and where (§4.8).

A *fact* has a single writer, the member that it is about, and its incarnation only rises; two views
merge by taking, per member, the fact with the greater incarnation (DESIGN rule 15). So the order in
which views meet plays no part. Which nodes own the ring is fixed by the cluster's charter here;
heartbeats change routing, never membership.

Laws: `merge_views` is commutative, associative and idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

NODE_ROLE, COORDINATOR_ROLE = "node", "coordinator"


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """What a member says of itself: its id, and since `incarnation` its address.

    Nodes are told apart by their id (8 random bytes), coordinators by theirs (drawn at each start).
    """

    incarnation: bytes
    member: bytes
    role: str
    name: str
    host: str
    port: int

    def to_row(self) -> list[Any]:
        """The fact as plain values, for the wire and for JSON-like files."""
        return [self.incarnation, self.member, self.role, self.name, self.host, self.port]


@dataclass(frozen=True, slots=True)
class View:
    """The facts that one member knows, by the member's name and role."""

    facts: dict[tuple[str, str], Fact] = field(default_factory=dict)

    def with_facts(self, facts: Iterable[Fact]) -> View:
        """This view and these facts, merged."""
        merged = dict(self.facts)
        for fact in facts:
            known = merged.get((fact.role, fact.name))
            if known is None or fact > known:
                merged[fact.role, fact.name] = fact
        return self if merged == self.facts else View(merged)

    def nodes(self) -> dict[bytes, Fact]:
        """The storage nodes by their id."""
        return {f.member: f for f in self.facts.values() if f.role == NODE_ROLE}

    def coordinators(self) -> list[Fact]:
        """The coordinators in the order of their names."""
        found = (f for f in self.facts.values() if f.role == COORDINATOR_ROLE)
        return sorted(found, key=lambda fact: fact.name)

    def to_rows(self) -> list[list[Any]]:
        """The view as plain values in a canonical order."""
        return [fact.to_row() for _, fact in sorted(self.facts.items())]


def merge_views(a: View, b: View) -> View:
    """What two views know together."""
    return a.with_facts(b.facts.values())


def view_from(rows: Iterable[Iterable[Any]]) -> View:
    """The view that `to_rows` gave. Raises ValueError or TypeError for anything else."""
    return View().with_facts(_fact(*row) for row in rows)


def _fact(incarnation: bytes, member: bytes, role: str, name: str, host: str, port: int) -> Fact:
    shaped = isinstance(incarnation, bytes) and isinstance(member, bytes)
    if not shaped or role not in (NODE_ROLE, COORDINATOR_ROLE) or not 0 < port < 65_536:
        raise ValueError(f"a fact of a view cannot be read: {name!r} at {host!r}:{port!r}")
    return Fact(incarnation, member, role, str(name), str(host), port)
