"""Random histories of one key among a few nodes, played by the real core and by a dumb twin.

The twin knows nothing of vectors. It gives every write an identity (its dot) and keeps, for each
write, the plain set of events that its writer had seen. What a node knows is a growing set of
writes; a version is still there if no known write had seen it; merging is the union of two sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.clock import Clock, Dot, writer_id
from dynamo_ray.core.lives import Lives
from dynamo_ray.core.membership import View
from dynamo_ray.core.merge import merge
from dynamo_ray.core.mint import CONCURRENT, Body, mint
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.version import (
    Kind,
    State,
    Version,
    clock_of,
    decode,
    decode_clock,
    encode,
    encode_clock,
)

NODES = "abc"
KEY = b"cart"
Seen = frozenset[Dot]


def node_id(letter: str) -> bytes:
    """The node id of a letter."""
    return letter.encode() * 8


def placement(ring: Ring, settings: Settings) -> Placement:
    """What every member knows of a cluster that was founded with this very ring."""
    return Placement(Charter(bytes(16), "carts", settings, ring.members), View(), ring, ring)


def incarnation(number: int) -> bytes:
    """An incarnation: the number stands for wall time and chance."""
    return number.to_bytes(6, "big") + bytes(8)


def writer(letter: str, life: int = 1, run: int = 1) -> bytes:
    """The writer id of a node's life in one of its runs."""
    return writer_id(node_id(letter), incarnation(run), life)


def dot(letter: str, counter: int, life: int = 1, run: int = 1) -> Dot:
    """The dot `letter#run.life:counter`."""
    return Dot(writer(letter, life, run), counter)


def seen(*dots: Dot) -> bytes:
    """The canonical clock that covers exactly these dots."""
    found = Clock()
    for one in dots:
        found = found.with_dot(one)
    return encode_clock(found)


def body(payload: bytes | None, put_id: bytes = b"", expiry_ms: int = 0) -> Body:
    """A value (None: a delete) with a put id of its own."""
    kind = Kind.TOMBSTONE if payload is None else Kind.VALUE
    return Body(
        int(kind), 1_000, expiry_ms, (put_id or payload or b"").ljust(16, b"."), payload or b""
    )


def version(at: Dot, payload: bytes | None) -> Version:
    """The version that `body` makes at a dot."""
    return Version(at, *body(payload))


def state(*versions: Version, also_seen: Iterable[Dot] = ()) -> bytes:
    """Canonical bytes of siblings, with the clock that covers them and what else was seen."""
    clock = decode_clock(seen(*also_seen, *(v.dot for v in versions)))
    return encode(State(clock, tuple(sorted(versions))))


def shown(held: bytes | None) -> dict[Dot, bytes]:
    """The siblings of a state as {dot: payload}."""
    return {} if held is None else {v.dot: v.payload for v in decode(held).versions}


@dataclass
class TwinNode:
    """A node of the twin: the writes it knows. `past` is shared: what each write had seen."""

    past: dict[Dot, Seen]
    known: Seen = frozenset()

    def live(self) -> Seen:
        return frozenset(e for e in self.known if not any(e in self.past[w] for w in self.known))

    def seen(self) -> Seen:
        return self.known.union(*(self.past[w] for w in self.known))


@dataclass
class History:
    """One key at a few nodes, and everything that was ever held, read and minted."""

    held: dict[str, bytes | None] = field(default_factory=lambda: dict.fromkeys(NODES))
    lives: dict[str, Lives] = field(default_factory=dict)
    past: dict[Dot, Seen] = field(default_factory=dict)
    twins: dict[str, TwinNode] = field(default_factory=dict)
    contexts: list[tuple[bytes, Seen]] = field(default_factory=list)
    states: list[tuple[bytes, TwinNode]] = field(default_factory=list)
    mints: list[tuple[bytes | None, Dot, bytes | None, Body]] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        for name in NODES:
            self.twins[name] = TwinNode(self.past)
            self.lives[name] = Lives(node_id(name))
            self.restart(name)
        self.contexts.append((CONCURRENT, frozenset()))

    def play(self, steps: Sequence[tuple[Any, ...]]) -> History:
        for name, *rest in steps:
            getattr(self, name)(*rest)
        return self

    def put(self, node: str, which: int | None, payload: bytes | None) -> None:
        """A put without a context (`which` is None) or with any context ever returned."""
        held, twin = self.held[node], self.twins[node]
        context, saw = (None, twin.seen()) if which is None else self._context(which)
        at = self.lives[node].next_dot(KEY, held)
        assert at not in self.past, f"{at} was minted twice"
        self.mints.append((held, at, context, body(payload)))
        minted = mint(held, at, context, body(payload))
        self.lives[node].minted(KEY, at, minted.state, context is not None)
        self.past[at] = saw
        twin.known |= {at}
        self.contexts.append((minted.context, saw | {at}))
        self._hold(node, minted.state)

    def read(self, node: str) -> None:
        held = self.held[node]
        if held is not None:
            self.contexts.append((clock_of(held), self.twins[node].seen()))

    def sync(self, giver: str, taker: str) -> None:
        given, held = self.held[giver], self.held[taker]
        if given is None or given == held:
            return
        merged = given if held is None else merge(held, given)
        self.lives[taker].watch(KEY, held, merged)
        self.twins[taker].known |= self.twins[giver].known
        self._hold(taker, merged)

    def forget(self, node: str) -> None:
        self.lives[node].forget(KEY)
        self.held[node] = None
        self.twins[node].known = frozenset()

    def restart(self, node: str) -> None:
        self.runs += 1
        self.lives[node].end()
        self.lives[node].begin(incarnation(self.runs))

    def restore(self, node: str, which: int) -> None:
        """The node comes back with an old copy of its disk."""
        if self.states:
            held, twin = self.states[which % len(self.states)]
            self.held[node], self.twins[node].known = held, twin.known
            self.restart(node)

    def _context(self, which: int) -> tuple[bytes, Seen]:
        return self.contexts[which % len(self.contexts)]

    def _hold(self, node: str, held: bytes) -> None:
        self.held[node] = held
        self.states.append((held, TwinNode(self.past, self.twins[node].known)))

    def check(self, held: bytes, twin: TwinNode) -> None:
        """The real state shows and covers exactly what the twin says."""
        real = decode(held)
        assert {v.dot for v in real.versions} == twin.live()
        covered = {event for event in self.past if real.clock.covers(event)}
        assert covered == twin.seen()


_nodes = st.sampled_from(NODES)
_payloads = st.one_of(st.none(), st.sampled_from([b"", b"x", b"y", b"zz"]))
_which = st.integers(0, 40)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _nodes, st.one_of(st.none(), _which), _payloads),
        st.tuples(st.just("put"), _nodes, st.one_of(st.none(), _which), _payloads),
        st.tuples(st.just("sync"), _nodes, _nodes),
        st.tuples(st.just("sync"), _nodes, _nodes),
        st.tuples(st.just("read"), _nodes),
        st.tuples(st.just("forget"), _nodes),
        st.tuples(st.just("restart"), _nodes),
        st.tuples(st.just("restore"), _nodes, _which),
    ),
    min_size=1,
    max_size=24,
)
histories = steps.map(lambda taken: History().play(taken))
