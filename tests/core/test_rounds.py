"""Whose turn it is: by time, soon after an owner came back, and at once by command."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.pace import NEVER
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.rounds import Rounds, Turn
from tests.core.histories import node_id

A, B, C = map(node_id, "abc")
MEMBERS = tuple(Member(n, n.decode()[:1]) for n in (A, B, C))
RING = Ring(4, 3, MEMBERS, (A, B, C, A, B, C, C, B, A, B, A, C))  # A leads four times to C and B
NOBODY: frozenset[bytes] = frozenset()
REPAIR_S, QUIET_MS, AGAIN_MS = 100.0, 2_000, 10_000


def rounds(me: bytes = A, now_ms: int = 0) -> Rounds:
    made = Rounds(me, RING, REPAIR_S)
    made.on_tick(now_ms, NOBODY)
    return made


def taken(
    of: Rounds, now_ms: int, away: frozenset[bytes] = NOBODY, done: bool = True
) -> list[Turn]:
    """All turns that are due now, each of which succeeds (or not)."""
    of.on_tick(now_ms, away)
    turns = []
    while (turn := of.next()) is not None:
        turns.append(turn)
        of.on_end(turn, now_ms, done)
    return turns


def pairs(turns: list[Turn]) -> set[tuple[int, bytes]]:
    return {(turn.partition, turn.node) for turn in turns}


LED = {(0, B), (0, C), (1, B), (1, C), (3, C)}


def test_of_two_owners_the_first_compares_every_repair_s() -> None:
    of = rounds()
    assert taken(of, QUIET_MS - 2) == []  # what was kept for whom was away goes home first
    assert of.oldest_ms == NEVER
    assert pairs(taken(of, QUIET_MS)) == LED
    assert of.oldest_ms == QUIET_MS
    assert taken(of, QUIET_MS + 99_999) == []
    assert pairs(taken(of, QUIET_MS + 100_000)) == LED
    led = [pairs(taken(rounds(me), QUIET_MS)) for me in (A, B, C)]
    whole = [(p, frozenset({me, n})) for me, of in zip((A, B, C), led, strict=True) for p, n in of]
    assert len(whole) == len(set(whole)) == 4 * 3  # each two owners of a partition once


def test_who_was_away_is_compared_with_soon_after_whoever_leads() -> None:
    of = rounds()
    taken(of, QUIET_MS)
    away = frozenset({B})
    assert taken(of, 5_000, away) == []
    assert taken(of, 6_000, away) == []
    assert taken(of, 6_000 + QUIET_MS - 1) == []
    back = taken(of, 6_000 + QUIET_MS)
    assert pairs(back) == {(0, B), (1, B), (2, B), (3, B)}
    assert {turn.partition for turn in back if not turn.leads} == {2, 3}
    assert taken(of, 20_000) == []


def test_a_comparison_that_was_begun_before_the_other_was_away_says_nothing() -> None:
    of = rounds()
    of.on_tick(QUIET_MS, NOBODY)
    turn = of.next()
    assert turn is not None
    of.on_tick(QUIET_MS + 100, frozenset({turn.node}))
    of.on_end(turn, QUIET_MS, True)
    assert (turn.partition, turn.node) in pairs(taken(of, 9_000))


def test_what_failed_is_tried_again_after_a_while() -> None:
    of = rounds()
    assert pairs(taken(of, QUIET_MS, done=False)) == LED
    assert of.oldest_ms == NEVER
    assert taken(of, QUIET_MS + AGAIN_MS - 1) == []
    assert pairs(taken(of, QUIET_MS + AGAIN_MS)) == LED
    assert of.oldest_ms == QUIET_MS + AGAIN_MS


def test_nobody_waits_for_ever_behind_another() -> None:
    of = rounds()
    of.on_tick(QUIET_MS, NOBODY)
    nodes = []
    for _ in range(4):
        turn = of.next()
        assert turn is not None
        nodes.append(turn.node)
        of.on_end(turn, QUIET_MS, True)
    assert nodes in ([B, C, B, C], [C, B, C, B])


def test_by_command_at_once_and_only_with_whom_is_there() -> None:
    of = rounds()
    taken(of, QUIET_MS)
    of.on_tick(3_000, frozenset({B}))
    assert of.on_demand([0, 1, 2], frozenset({B})) == [B]
    assert of.demanded == 2
    turns = taken(of, 3_001, frozenset({B}))
    assert pairs(turns) == {(0, C), (1, C)} and all(turn.demanded for turn in turns)
    assert (of.demanded, of.failed) == (0, 0)
    of.on_tick(3_002, NOBODY)
    of.on_demand([0], NOBODY)
    of.on_tick(3_003, frozenset({B, C}))  # both went away before their turn
    assert (of.demanded, of.failed) == (0, 2)


def test_what_was_asked_for_by_command_is_waited_for_until_it_has_ended() -> None:
    of = rounds()
    assert not of.is_waited_for
    of.on_demand([3], NOBODY)
    assert of.is_waited_for, "also while another comparison is under way"
    turns = []
    while (turn := of.next()) is not None:
        turns.append(turn)
    assert turns and of.is_waited_for
    for turn in turns:
        of.on_end(turn, 0, True)
    assert not of.is_waited_for


def test_a_demanded_comparison_that_fails_is_counted_and_not_repeated() -> None:
    of = rounds()
    taken(of, QUIET_MS)
    of.on_demand([3], NOBODY)
    assert pairs(taken(of, 3_000, done=False)) == {(3, C)}
    assert (of.demanded, of.failed) == (0, 1)
    assert taken(of, 3_001) == []


def test_what_was_demanded_is_done_though_the_ring_changes_meanwhile() -> None:
    of = rounds()
    assert of.on_demand([0, 1, 3], NOBODY) == []
    under_way = of.next()
    assert under_way is not None and of.status()["demanded"] == 5
    d = node_id("d")
    members = (*MEMBERS, Member(d, "d"))
    # 0 as before; B's slot of 1 went to another node, and C leads 3 by now.
    of.on_ring(Ring(4, 3, members, (A, B, C, A, d, C, C, B, A, C, A, B)))
    of.on_end(under_way, 0, False)
    assert of.status()["demanded"] == 3 and of.failed == 0
    of.on_tick(1, NOBODY)
    turns = []
    while (turn := of.next()) is not None and turn.demanded:
        turns.append(turn)
        of.on_end(turn, 1, True)
    assert pairs(turns) == {(0, B), (0, C), (1, C)}
    assert of.status()["demanded"] == 0


D, E = map(node_id, "de")
FIVE = tuple(Member(n, n.decode()[:1]) for n in (A, B, C, D, E))
_owners = st.permutations([A, B, C, D, E]).map(lambda nodes: tuple(nodes[:3]))
_rings = st.lists(st.lists(_owners, min_size=4, max_size=4), min_size=2, max_size=6)


@given(_rings, st.randoms(use_true_random=False))
def test_whatever_changes_each_pair_has_one_turn_and_what_it_keeps_is_its_time(
    changes: list[list[tuple[bytes, ...]]], chance: Any
) -> None:
    """As if all were made anew from what is known of the pairs that stay."""
    rings = [Ring(4, 3, FIVE, sum(rows, ())) for rows in changes for _ in range(2)]
    of = Rounds(A, rings[0], REPAIR_S)
    compared: dict[tuple[int, bytes], int] = {}
    for turn_of, ring in enumerate(rings, start=1):
        of.on_ring(ring)
        now_ms = turn_of * (QUIET_MS + 1)
        of.on_tick(now_ms, NOBODY)
        shared = {
            (at, node): ring.owners(at).index(A) < ring.owners(at).index(node)
            for at in range(4)
            for node in ring.owners(at)
            if A in ring.owners(at) and node != A
        }
        queued = [
            ((at, node), (leads, when))
            for node, other in of._others.items()
            for leads, queue in ((True, other.leads), (False, other.follows))
            for at, when in queue
        ]
        assert {pair: leads for pair, (leads, _) in queued} == shared
        assert len(queued) == len(shared)
        for pair, (_, when) in queued:
            assert when == compared.get(pair, when)
        assert all(
            list(o.leads) == sorted(o.leads, key=lambda t: t[1]) for o in of._others.values()
        )
        compared = {pair: when for pair, (_, when) in queued}
        for turn in [turn for turn in (of.next() for _ in range(6)) if turn is not None]:
            compared.pop((turn.partition, turn.node))
            if chance.random() < 0.6:
                of.on_end(turn, now_ms, is_done=chance.random() < 0.7)
                if (turn.partition, turn.node) in {
                    (at, node)
                    for node, other in of._others.items()
                    for at, _ in (*other.leads, *other.follows)
                }:
                    compared[turn.partition, turn.node] = now_ms
