"""What a key's state, or a reader, has seen: a version vector plus a set of dots beyond it.

A *dot* names one write event: the writer id that minted it and that writer's counter. A clock
covers a dot if the dot is within the vector or in the set beyond it. The set exists because a put
returns the context it used plus its own dot (DESIGN rule 5), and that dot need not be next in line.
A clock is kept compact: a dot that follows the vector without a gap belongs to the vector.

Source: Dynamo §4.4 (version vectors); the dots are from Preguiça et al., "Dotted Version Vectors"
(2010).

Laws: `join` is commutative, associative and idempotent; `join(a, b)` covers exactly the dots that
`a` or `b` covers; equal sets of covered dots have equal (compact) clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import NamedTuple

from dynamo_ray.core.values import value

NODE_BYTES = 8
INCARNATION_BYTES = 14
LIFE_BYTES = 8
WRITER_BYTES = NODE_BYTES + INCARNATION_BYTES + LIFE_BYTES


class Dot(NamedTuple):
    """One write event: `writer` (30 bytes: node, incarnation, life) and its `counter` (>= 1)."""

    writer: bytes
    counter: int

    def __str__(self) -> str:
        return f"{writer_text(self.writer)}:{self.counter}"


def writer_id(node: bytes, incarnation: bytes, life: int) -> bytes:
    """The writer id `node#incarnation.life` as its 30 canonical bytes."""
    return node + incarnation + life.to_bytes(LIFE_BYTES, "big")


def writer_text(writer: bytes) -> str:
    """The writer id for people: the node, the incarnation's last bytes, the life."""
    node = writer[:NODE_BYTES].hex()
    incarnation = writer[NODE_BYTES : NODE_BYTES + INCARNATION_BYTES]
    life = int.from_bytes(writer[-LIFE_BYTES:], "big")
    return f"{node}#{incarnation[-3:].hex()}.{life}"


@value
class Clock:
    """A compact clock. Build it with `clock`, which compacts; the constructor trusts its caller."""

    vector: dict[bytes, int] = field(default_factory=dict)
    beyond: frozenset[Dot] = frozenset()

    def covers(self, dot: Dot) -> bool:
        """True if the event `dot` has been seen."""
        return dot.counter <= self.vector.get(dot.writer, 0) or dot in self.beyond

    def includes(self, other: Clock) -> bool:
        """True if everything that `other` covers is covered here."""
        return join(self, other) == self

    def with_dot(self, dot: Dot) -> Clock:
        """This clock and one more event."""
        return clock(self.vector, (*self.beyond, dot))

    def __str__(self) -> str:
        seen = [f"{writer_text(w)}:..{n}" for w, n in sorted(self.vector.items())]
        return "{" + " ".join(seen + [str(dot) for dot in sorted(self.beyond)]) + "}"


EMPTY = Clock()


def clock(vector: dict[bytes, int], beyond: Iterable[Dot] = ()) -> Clock:
    """The compact clock that covers `vector` and the dots `beyond`."""
    compact = {writer: counter for writer, counter in vector.items() if counter > 0}
    left: list[Dot] = []
    for dot in sorted(set(beyond)):
        counter = compact.get(dot.writer, 0)
        if dot.counter == counter + 1:
            compact[dot.writer] = dot.counter
        elif dot.counter > counter:
            left.append(dot)
    return Clock(compact, frozenset(left))


def join(a: Clock, b: Clock) -> Clock:
    """The least clock that covers what `a` or `b` covers."""
    if a.vector == b.vector and a.beyond == b.beyond:
        return a
    vector = dict(a.vector)
    for writer, counter in b.vector.items():
        if counter > vector.get(writer, 0):
            vector[writer] = counter
    return clock(vector, a.beyond | b.beyond)
