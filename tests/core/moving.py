"""Whole nodes between which slots move: what they send arrives at once, unless it gets lost.

What a node persists is fsynced at once, unless its log is stalled or its disk is slow; so is what
it notes beside the log. What it publishes it knows at once, the others as soon as they are told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.handover import Publish
from dynamo_ray.core.membership import Slot, View, Wish
from dynamo_ray.core.messages import Merge, Mint, Persist
from dynamo_ray.core.node import Answer, Node, ToPeer
from dynamo_ray.core.receive import Grant
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.settings import Settings, Times
from dynamo_ray.core.slots import Placement
from tests.core.histories import dot, incarnation, node_id, placement, state, version

A, B, C, D = map(node_id, "abcd")
MEMBERS = tuple(Member(n, n.decode()[:1]) for n in (A, B, C, D))
TIMES = Times(repair_s=86_400.0)
ALONE = Ring(1, 1, MEMBERS, (A,))
"""One slot, of which A is the owner."""
TWO = Ring(2, 1, MEMBERS, (A, A))
SHARED = Ring(1, 2, MEMBERS, (A, B))
CLIENT = "client"
TICK_MS = 100
Held = dict[bytes, bytes]


def value_of(number: int) -> bytes:
    return state(version(dot("a", number + 1), b"%d" % number))


def keys(count: int, of: str = "k") -> Held:
    return {f"{of}{i:04}".encode(): value_of(i) for i in range(count)}


def settings_of(ring: Ring) -> Settings:
    return Settings(n=ring.copies, r=1, w=1, partitions=ring.partitions, times=TIMES)


def wish(receiver: bytes, generation: int = 0, stamp: bytes = b"1") -> Wish:
    return Wish(generation, stamp, receiver)


class World:
    """The nodes, what is on their disks, and what was said."""

    def __init__(self, ring: Ring, held: Mapping[bytes, list[Held]], **known: Any) -> None:
        self.settings = settings_of(ring)
        begun = placement(ring, self.settings).learn(View(**known))
        self.partitions = ring.partitions
        self.placements: dict[bytes, Placement] = {m.node: begun for m in ring.members}
        self.disks: dict[bytes, list[Held]] = {
            node: [dict(of) for of in held.get(node, [{}] * ring.partitions)]
            for node in self.placements
        }
        self.granted: dict[bytes, dict[int, tuple[int, int]]] = {n: {} for n in self.placements}
        self.nodes: dict[bytes, Node] = {}
        self.runs = 0
        self.now_ms = 0
        self.sent: list[tuple[bytes, Any]] = []
        self.answers: list[Any] = []
        self.published: list[tuple[bytes, Mapping[int, Slot]]] = []
        self.on_sent: Callable[[Any], object] = lambda message: None  # what a test does just then
        self.lost: tuple[type[Any], ...] = ()  # kinds of messages that do not arrive
        self.muted: tuple[type[Any], ...] = ()  # kinds of answers that do not arrive
        self.stalled: set[bytes] = set()  # nodes whose log takes nothing for now
        self.slow: set[bytes] = set()  # nodes whose disk appends, and fsyncs and notes nothing yet
        self.full: set[bytes] = set()  # nodes whose disk takes no note
        self.away: frozenset[bytes] = frozenset()
        self._waiting: dict[bytes, list[Any]] = {n: [] for n in self.placements}
        for node in self.placements:
            self.start(node)

    def start(self, node: bytes) -> None:
        """Start with what is on the disk, and what the node knew."""
        self.runs += 1
        owned = self.placements[node].owned(node)
        maps = [dict(of) for of in self.disks[node]]
        replica = Replica(node, self.settings, maps, owned)
        self._waiting[node] = []
        self.nodes[node] = Node(
            replica, self.settings, self.placements[node], dict(self.granted[node])
        )
        self.nodes[node].on_incarnation(incarnation(self.runs))

    def tick(self, *nodes: bytes, passed_ms: int = TICK_MS) -> None:
        """Time passes, and these nodes (or all) ask what should be true."""
        self.now_ms += passed_ms
        for node in nodes or tuple(self.nodes):
            self.perform(node, self.nodes[node].on_tick(self.now_ms, 0, self.away))

    def run(self, ticks: int = 40) -> None:
        for _ in range(ticks):
            self.tick()

    def ask(self, node: bytes, message: Any) -> Any:
        """The node's answer to a request of a coordinator that knows what the node knows."""
        self.answers.clear()
        epoch = self.placements[node].ring.epoch_of(0)
        expires_ms = self.now_ms + 1000 if isinstance(message, Mint) else 0
        self.perform(
            node, self.nodes[node].on_request(CLIENT, message, expires_ms, self.now_ms, 0, epoch)
        )
        return self.answers[0] if self.answers else None

    def put(self, node: bytes, key: bytes, partition: int = 0) -> Any:
        """Mint a value at a node."""
        return self.ask(node, Mint([key], [partition], [b"v"], [None], [key.ljust(16)], [0], b""))

    def merge(self, node: bytes, key: bytes, held: bytes) -> Any:
        return self.ask(node, Merge([key], [0], [held]))

    def tell(self, *nodes: bytes) -> None:
        """These nodes (or all) learn what any of them knows."""
        everybody = nodes or tuple(self.nodes)
        for node in everybody:
            for other in everybody:
                self.learn(node, self.placements[other].view)

    def learn(self, node: bytes, view: View) -> None:
        before = self.placements[node]
        self.placements[node] = before.learn(view)
        if self.placements[node] is not before:
            self.nodes[node].on_placement(self.placements[node])

    def go_on(self, node: bytes) -> None:
        """What waited for the disk of a node is done."""
        self.stalled.discard(node)
        self.slow.discard(node)
        waiting, self._waiting[node] = self._waiting[node], []
        self.perform(node, waiting)

    def perform(self, node: bytes, out: list[Any]) -> None:
        todo = deque((node, effect) for effect in out)
        while todo:
            at, effect = todo.popleft()
            todo += [(who, one) for who, more in self._perform(at, effect) for one in more]

    def held(self, node: bytes, partition: int = 0) -> Held:
        return self.nodes[node].replica.maps[partition]

    def owners(self, slot: int = 0) -> set[bytes]:
        """Who takes itself for the owner of a slot."""
        return {n for n, known in self.placements.items() if known.ring.slots[slot] == n}

    @property
    def kinds(self) -> list[str]:
        return [type(message).__name__ for _, message in self.sent]

    def _perform(self, at: bytes, effect: Any) -> list[tuple[bytes, list[Any]]]:
        node = self.nodes[at]
        is_for_disk = isinstance(effect, Persist | Grant | Publish)
        if is_for_disk and (at in self.stalled or at in self.slow):
            self._waiting[at].append(effect)
            is_appended = isinstance(effect, Persist) and at in self.slow
            return [(at, node.on_appended(effect.position))] if is_appended else []
        if isinstance(effect, Persist):
            return [(at, self._log(at, effect))]
        if isinstance(effect, ToPeer):
            return self._send(at, effect)
        if isinstance(effect, Exchange):
            self.tell(at, effect.node)
        elif isinstance(effect, Publish):
            return self._publish(at, effect)
        elif isinstance(effect, Grant):
            is_durable = at not in self.full
            if is_durable:
                self.granted[at][effect.partition] = effect.slot, effect.generation
            return [(at, node.on_granted(effect, is_durable))]
        elif isinstance(effect, Answer):
            return self._answer(at, effect)
        return []

    def _send(self, at: bytes, effect: ToPeer) -> list[tuple[bytes, list[Any]]]:
        self.sent.append((effect.node, effect.message))
        self.on_sent(effect.message)
        if isinstance(effect.message, self.lost):
            return [(at, self.nodes[at].on_peer(effect.node, effect.message, None, self.now_ms))]
        to = at, effect.node, effect.message
        other = self.nodes[effect.node]
        out = other.on_request(to, effect.message, 0, self.now_ms, 0, effect.epoch)
        return [(effect.node, out)]

    def _answer(self, at: bytes, effect: Answer) -> list[tuple[bytes, list[Any]]]:
        if effect.to == CLIENT:
            self.answers.append(effect.message)
            return []
        asker, _, request = effect.to
        reply = None if isinstance(effect.message, self.muted) else effect.message
        return [(asker, self.nodes[asker].on_peer(at, request, reply, self.now_ms))]

    def _publish(self, at: bytes, effect: Publish) -> list[tuple[bytes, list[Any]]]:
        is_durable = at not in self.full
        if is_durable:
            self.published.append((at, effect.slots))
            self.learn(at, View(slots=effect.slots))
        return [(at, self.nodes[at].on_published(is_durable))]

    def _log(self, at: bytes, record: Persist) -> list[Any]:
        rows = zip(record.partitions, record.keys, record.states, strict=True)
        for partition, key, held in rows:
            self.disks[at][partition].pop(key, None)
            if held is not None:
                self.disks[at][partition][key] = held
        node = self.nodes[at]
        return node.on_appended(record.position) + node.on_synced(record.position)
