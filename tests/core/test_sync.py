"""Comparisons of two owners, step by step and whole: what is asked, and what ends it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core import sync as syncs
from dynamo_ray.core.merge import merge
from dynamo_ray.core.merkle import BRANCHES, WIDTH, bucket_of
from dynamo_ray.core.messages import Code, Fetch, Fetched, Merge, Merged, Persist, Refused, Renew
from dynamo_ray.core.node import Answer, Node, ToPeer
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.settings import Limits, Settings, Times
from dynamo_ray.core.upkeep import (
    Compare,
    Compared,
    Descend,
    Descended,
    Enumerate,
    Enumerated,
)
from dynamo_ray.core.version import digest
from tests.core.histories import dot, incarnation, node_id, placement, state, version

A, B, C = map(node_id, "abc")
RING = Ring(1, 3, tuple(Member(n, n.decode()[:1]) for n in (A, B, C)), (A, B, C))
TWO = Ring(1, 2, tuple(Member(n, n.decode()[:1]) for n in (A, B)), (A, B))
SETTINGS = Settings(n=2, r=1, w=1, partitions=1, times=Times(repair_s=10.0))
NOBODY: frozenset[bytes] = frozenset()
OLD = state(version(dot("a", 1), b"old"))
NEW = state(version(dot("a", 2), b"new"), also_seen=[dot("a", 1)])
OTHER = state(version(dot("b", 1), b"other"))
Held = dict[bytes, bytes]


class World:
    """A few whole nodes; what they send arrives at once, what they persist is logged at once."""

    def __init__(self, ring: Ring, held: dict[bytes, Held], settings: Settings = SETTINGS) -> None:
        self.nodes: dict[bytes, Node] = {}
        self.sent: list[tuple[bytes, Any]] = []
        self.lost: type[Any] | None = None
        self.now_ms = 0
        for node, of in held.items():
            replica = Replica(node, settings, [of], frozenset({0}))
            self.nodes[node] = Node(replica, settings, placement(ring, settings))
            self.nodes[node].on_incarnation(incarnation(1))

    def tick(self, node: bytes, passed_ms: int = 1100) -> None:
        self.now_ms += passed_ms
        self.perform(node, self.nodes[node].on_tick(self.now_ms, 0, NOBODY))

    def perform(self, node: bytes, out: list[Any]) -> None:
        todo = deque((node, effect) for effect in out)
        while todo:
            at, effect = todo.popleft()
            if isinstance(effect, Persist):
                todo += [(at, one) for one in self.nodes[at].on_appended(effect.position)]
            elif isinstance(effect, ToPeer):
                todo += [(at, one) for one in self._ask(at, effect)]
            else:
                assert not isinstance(effect, Answer | Renew)

    def _ask(self, at: bytes, effect: ToPeer) -> list[Any]:
        self.sent.append((effect.node, effect.message))
        reply = None
        if self.lost is None or not isinstance(effect.message, self.lost):
            other = self.nodes[effect.node]
            out = other.on_request("call", effect.message, 0, self.now_ms, 0)
            for one in list(out):
                if isinstance(one, Persist):
                    out += other.on_appended(one.position)
            [reply] = [one.message for one in out if isinstance(one, Answer)]
        return self.nodes[at].on_peer(effect.node, effect.message, reply)

    def held(self, node: bytes) -> Held:
        return self.nodes[node].replica.maps[0]

    @property
    def kinds(self) -> list[str]:
        return [type(message).__name__ for _, message in self.sent]


def pair(a: Held, b: Held, settings: Settings = SETTINGS) -> World:
    """A and B, which A compares with; the first tick only says what time it is."""
    world = World(TWO, {A: a, B: b}, settings)
    world.tick(A)
    assert world.sent == []
    return world


def test_equal_copies_cost_one_round_trip() -> None:
    world = pair({b"k": OLD}, {b"k": OLD})
    world.tick(A)
    assert world.kinds == ["Compare"]
    assert world.nodes[A].sync.status()["comparisons"] == 1


def test_a_copy_that_is_behind_costs_four_and_only_what_differs_is_moved() -> None:
    same = {b"%d" % i: OLD for i in range(100)}
    world = pair({**same, b"k": NEW}, {**same, b"k": OLD})
    world.tick(A)
    assert world.kinds == ["Compare", "Descend", "Enumerate", "Fetch", "Merge"]
    assert world.sent[-1] == (B, Merge([b"k"], [0], [NEW]))
    assert world.held(A) == world.held(B) == {**same, b"k": NEW}


@pytest.mark.parametrize(
    ("a", "b", "kinds"),
    [
        ({}, {b"k": OLD}, ["Compare", "Descend", "Enumerate", "Fetch"]),
        ({b"k": OLD}, {}, ["Compare", "Descend", "Enumerate", "Merge"]),
        ({b"k": OLD}, {b"k": NEW}, ["Compare", "Descend", "Enumerate", "Fetch"]),
        ({b"k": OLD}, {b"k": OTHER}, ["Compare", "Descend", "Enumerate", "Fetch", "Merge"]),
    ],
    ids=["pulled", "pushed", "newer there", "siblings"],
)
def test_both_ends_hold_the_merge_of_both(a: Held, b: Held, kinds: list[str]) -> None:
    wanted = dict(a)
    for key, held in b.items():
        wanted[key] = merge(wanted[key], held) if key in wanted else held
    world = pair(a, b)
    world.tick(A)
    assert world.kinds == kinds
    assert world.held(A) == world.held(B) == wanted


def test_with_equal_clocks_another_value_is_found() -> None:
    """Digests are of values: two copies whose clocks are equal may differ all the same."""
    one = {b"k": state(version(dot("a", 1), b"one"))}
    other = {b"k": state(version(dot("a", 1), b"two"))}
    world = pair(one, other)
    world.tick(A)
    assert "Enumerate" in world.kinds


_keys = st.sampled_from([b"k%d" % i for i in range(12)])
_states = st.sampled_from([OLD, NEW, OTHER, merge(OLD, OTHER), state(version(dot("a", 3), None))])
_contents = st.dictionaries(_keys, _states)


@given(_contents, _contents, _contents)
def test_after_a_round_of_all_owners_all_hold_the_merge_of_all(a: Held, b: Held, c: Held) -> None:
    wanted: Held = {}
    for of in (a, b, c):
        for key, held in of.items():
            wanted[key] = merge(wanted[key], held) if key in wanted else held
    settings = Settings(partitions=1, times=Times(repair_s=10.0))
    world = World(RING, {A: dict(a), B: dict(b), C: dict(c)}, settings)
    for node in (B, A, C) * 2:  # in whatever order they have their turns
        world.tick(node)
    assert world.held(A) == world.held(B) == world.held(C) == wanted


def test_pages_are_bounded_in_keys_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncs, "PAGE_KEYS", 3)
    monkeypatch.setattr("dynamo_ray.core.compare.PAGE_KEYS", 5)
    large = state(version(dot("a", 1), bytes(200_000)))
    a = {b"a%02d" % i: OLD for i in range(8)} | {b"big%d" % i: large for i in range(3)}
    b = {b"b%02d" % i: OLD for i in range(8)} | {b"huge%d" % i: large for i in range(3)}
    world = pair(dict(a), dict(b))
    while world.held(A) != world.held(B):
        world.tick(A)
    assert world.held(A) == world.held(B) == {**a, **b}
    assert world.kinds.count("Compare") == 1
    assert world.kinds.count("Enumerate") == 3
    pushed: list[bytes] = []
    for _, message in world.sent:
        if isinstance(message, Fetch | Merge):
            size = sum(len(world.held(A)[key]) for key in message.keys)
            assert len(message.keys) <= 3
            assert len(message.keys) == 1 or size <= 256 * 1024
        if isinstance(message, Merge):
            pushed += message.keys
    assert sorted(pushed) == sorted(a)  # each once, though a page shows only some of theirs


def test_a_page_hashes_only_so_much() -> None:
    held = {b"%d" % i: state(version(dot("a", 1), bytes(700_000))) for i in range(3)}
    page = asked(pair({}, held), Enumerate(0, list(range(1024)), b""))
    assert (page.keys, page.last) == ([b"0", b"1"], False)
    page = asked(pair({}, held), Enumerate(0, list(range(1024)), b"1"))
    assert (page.keys, page.last) == ([b"2"], True)


def test_where_all_fails_a_tick_tries_one_partition_and_not_all_in_turn() -> None:
    ring = Ring(3, 2, tuple(Member(n, n.decode()[:1]) for n in (A, B)), (A, B) * 3)
    settings = Settings(n=2, r=1, w=1, partitions=3, times=Times(repair_s=10.0))
    replica = Replica(A, settings, [{b"k": OLD} for _ in range(3)], frozenset(range(3)))
    node = Node(replica, settings, placement(ring, settings))
    node.on_incarnation(incarnation(1))
    node.on_tick(0, 0, NOBODY)
    for tick in range(1, 4):
        [ask] = node.on_tick(1_100 * tick, 0, NOBODY)
        assert isinstance(ask, ToPeer)
        assert node.on_peer(B, ask.message, None) == []


def test_no_more_moves_in_a_second_than_the_budget() -> None:
    large = state(version(dot("a", 1), bytes(100_000)))
    limits = Limits(repair_bytes=200_000)
    settings = Settings(n=2, r=1, w=1, partitions=1, limits=limits, times=Times(repair_s=10.0))
    world = pair({b"%d" % i: large for i in range(20)}, {}, settings)
    moved = 0
    while len(world.held(B)) < 20:
        world.tick(A)
        status = world.nodes[A].sync.status()
        assert status["bytes"] - moved < 200_000 + 2 * 256 * 1024
        moved = status["bytes"]
    assert world.now_ms > 8_000


@pytest.mark.parametrize("lost", [Compare, Descend, Enumerate, Fetch, Merge])
def test_what_is_lost_on_the_way_is_tried_again_and_not_in_a_circle(lost: type[Any]) -> None:
    world = pair({b"k": OLD}, {b"k": OTHER})
    world.lost = lost
    world.tick(A)
    assert world.kinds.count(lost.__name__) == 1
    world.tick(A, 1)
    assert world.kinds.count(lost.__name__) == 1
    world.lost = None
    world.tick(A)
    assert world.held(A) == world.held(B) == {b"k": merge(OLD, OTHER)}


@pytest.mark.parametrize(
    "reply",
    [
        Compared(b"short", True),
        Descended(bytes(WIDTH)),
        Refused(Code.BAD_REQUEST),
        Merged(),
        Fetched([None]),
        None,
    ],
)
def test_an_answer_that_is_none_ends_the_comparison(reply: Any) -> None:
    world = pair({b"k": OLD}, {})
    node = world.nodes[A]
    world.now_ms += 1100
    [asked] = node.on_tick(world.now_ms, 0, NOBODY)
    assert isinstance(asked, ToPeer)
    assert node.on_peer(B, asked.message, reply) == []
    assert node.rounds.oldest_ms < 0
    assert node.sync.status()["running"] is None


@pytest.mark.parametrize(
    "page",
    [
        Enumerated([], [], [], False),
        Enumerated([b"b", b"a"], [bytes(16)] * 2, [1, 1], True),
        Enumerated([b"a"], [], [1], True),
        Enumerated([b""], [bytes(16)], [1], True),
    ],
)
def test_a_page_that_leads_nowhere_ends_the_comparison(page: Enumerated) -> None:
    world = pair({b"k": OLD}, {})
    node = world.nodes[A]
    world.now_ms += 1100
    [compare] = node.on_tick(world.now_ms, 0, NOBODY)
    assert isinstance(compare, ToPeer)
    [descend] = node.on_peer(B, compare.message, Compared(bytes(WIDTH), True))
    assert isinstance(descend, ToPeer)
    [enumerate_] = node.on_peer(B, descend.message, Descended(bytes(WIDTH)))
    assert isinstance(enumerate_, ToPeer)
    assert node.on_peer(B, enumerate_.message, page) == []
    assert node.sync.status()["running"] is None


def test_a_tree_that_is_not_hashed_yet_is_asked_for_again_at_the_next_tick() -> None:
    world = pair({}, {b"k": OLD})
    world.nodes[B].replica.forest._effort = 0  # all that this tick may hash is hashed
    world.tick(A)
    assert world.kinds == ["Compare"]
    world.nodes[B].replica.forest.on_tick()
    world.tick(A, 1)
    assert world.held(A) == {b"k": OLD}


def test_one_in_doubt_takes_part_and_is_not_done_with() -> None:
    world = pair({b"k": OLD}, {b"l": OLD})
    world.nodes[B].replica.doubted = frozenset({0})
    world.tick(A)
    assert world.held(A) == world.held(B) == {b"k": OLD, b"l": OLD}
    assert world.nodes[A].repair_status()["round_s"] is None
    world.nodes[B].replica.doubted = frozenset()
    world.tick(A)
    assert world.nodes[A].repair_status()["round_s"] is not None


def test_one_that_doubts_itself_leaves_it_to_its_rebuilding() -> None:
    world = pair({b"k": OLD}, {})
    world.nodes[A].replica.doubted = frozenset({0})
    world.tick(A)
    assert world.sent == []


def test_what_is_sent_is_what_is_held_by_then() -> None:
    """No state waits in the machine: what was let go of meanwhile is not sent, and not undone."""
    world = pair({b"k": OLD}, {})
    node = world.nodes[A]
    world.now_ms += 1100
    [compare] = node.on_tick(world.now_ms, 0, NOBODY)
    assert isinstance(compare, ToPeer)
    [descend] = node.on_peer(B, compare.message, Compared(bytes(WIDTH), True))
    assert isinstance(descend, ToPeer)
    [asked] = node.on_peer(B, descend.message, Descended(bytes(WIDTH)))
    assert isinstance(asked, ToPeer) and isinstance(asked.message, Enumerate)
    del node.replica.maps[0][b"k"]
    assert node.on_peer(B, asked.message, Enumerated([], [], [], True)) == []


def test_a_hint_that_goes_home_meanwhile_is_not_taken_for_its_answer() -> None:
    world = pair({b"k": OLD}, {})
    node = world.nodes[A]
    node.replica.hints.add(B, b"k", 0, len(OLD))
    world.now_ms += 1100
    out = node.on_tick(world.now_ms, 0, NOBODY)
    hint, compare = (effect for effect in out if isinstance(effect, ToPeer))
    assert isinstance(hint.message, Merge) and isinstance(compare.message, Compare)
    node.on_peer(B, hint.message, Merged())
    assert not len(node.replica.hints)
    assert node.sync.has_asked(compare.message)


def asked(world: World, message: Any) -> Any:
    [answer] = world.nodes[B].on_request("to", message, 0, 0, 0)
    assert isinstance(answer, Answer)
    return answer.message


@pytest.mark.parametrize(
    "message",
    [
        Compare(1, b""),
        Compare(-1, b""),
        Compare(True, b""),
        Compare([0], b""),  # type: ignore[arg-type]
        Compare(0, "root"),  # type: ignore[arg-type]
        Descend(0, [BRANCHES]),
        Descend(0, list(range(BRANCHES)) * 2),
        Enumerate(0, [1024], b""),
        Enumerate(0, 5, b""),  # type: ignore[arg-type]
        Enumerate(0, [1], "after"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_asked_is_refused(message: Any) -> None:
    answer = asked(pair({}, {}), message)
    assert isinstance(answer, Refused) and answer.code == Code.BAD_REQUEST


def test_an_answer_waits_for_the_log_up_to_what_it_shows() -> None:
    world = pair({}, {})
    node = world.nodes[B]
    [record] = node.on_request("to", Merge([b"k"], [0], [OLD]), 0, 0, 0)
    assert isinstance(record, Persist)
    for message in (Compare(0, b""), Descend(0, [1]), Enumerate(0, [bucket_of(b"k")], b"")):
        assert node.on_request("to", message, 0, 0, 0) == []
    out = [one.message for one in node.on_appended(1) if isinstance(one, Answer)]
    assert out[0] == Merged() and len(out) == 4
    assert out[3] == Enumerated([b"k"], [digest(OLD)], [len(OLD)], True)
