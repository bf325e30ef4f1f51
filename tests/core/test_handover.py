"""Giving slots away, step by step and whole: until all is there the giver alone is the owner."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.handover import AGAIN_MS, CLOSED_MS_MAX, NEAR_KEYS
from dynamo_ray.core.membership import LINE, Slot, View
from dynamo_ray.core.messages import Code, Fetch, Fetched, Merge, Merged, Mint, Minted, Refused
from dynamo_ray.core.upkeep import Compare, Offer, Offered, Seal, Sealed
from tests.core.moving import (
    ALONE,
    SHARED,
    TICK_MS,
    TWO,
    A,
    B,
    C,
    D,
    World,
    keys,
    value_of,
    wish,
)

TO_B = {0: wish(B)}
MANY = keys(3 * NEAR_KEYS)


def world(count: int = 20, **known: Any) -> World:
    """A is to give its only slot to B."""
    return World(ALONE, {A: [keys(count)]}, **{"wishes": TO_B, **known})


def closed(world: World) -> World:
    """A has closed and waits for the answer to its Seal: the receiver's disk is slow."""
    world.slow = {B}
    while "Seal" not in world.kinds:
        world.tick(A)
        assert world.now_ms < AGAIN_MS
    assert world.nodes[A].handover.closed == {0}
    return world


def step_of(world: World) -> str:
    return str(world.nodes[A].handover.status(repr)["step"])


def code_of(answer: Any) -> int | None:
    return answer.code if isinstance(answer, Refused) else None


# Whole moves.


def test_a_slot_moves_with_all_that_it_holds() -> None:
    at = world(20)
    at.run(10)
    assert at.published == [(A, {0: Slot(1, B)})]
    assert at.disks[B][0] == keys(20)
    assert at.placements[A].ring.slots == (B,)
    at.tell()
    assert at.owners() == {B}
    status = at.nodes[A].handover.status(bytes.decode)
    assert status["given"] == 1 and status["left"] == 0 and status["keys"] == 20
    assert at.nodes[A].handover.is_idle and not at.nodes[A].handover.closed


def test_a_partition_that_holds_nothing_moves_too() -> None:
    at = world(0)
    at.run(10)
    assert at.published == [(A, {0: Slot(1, B)})]


def test_while_much_is_sent_it_is_compared_again_before_it_closes() -> None:
    """Writes are refused for the last of it only, not while all of it is sent."""
    at = World(ALONE, {A: [dict(MANY)]}, wishes=TO_B)
    seen: list[tuple[int, bool]] = []

    def look(message: Any) -> None:
        status = at.nodes[A].handover.status(repr)
        if isinstance(message, Compare) and (int(status["keys"]), is_closed()) not in seen:
            seen.append((int(status["keys"]), is_closed()))

    def is_closed() -> bool:
        return bool(at.nodes[A].handover.closed)

    at.on_sent = look
    at.run()
    assert seen == [(0, False), (len(MANY), False), (len(MANY), True)]
    assert at.disks[B][0] == MANY
    assert at.kinds[0] == "Offer" and at.kinds.count("Offer") == at.kinds.count("Seal") == 1


def test_where_nodes_are_busy_copying_rests_and_a_closed_partition_does_not() -> None:
    """Clients come first, but for what keeps them from writing."""
    at = World(ALONE, {A: [dict(MANY)]}, wishes=TO_B)
    sent: dict[bool, list[int]] = {False: [], True: []}

    def busy(message: Any) -> None:
        sent[bool(at.nodes[A].handover.closed)].append(at.now_ms)
        at.now_ms += 100  # so long each answer takes

    at.on_sent = busy
    at.run(400)
    assert at.published == [(A, {0: Slot(1, B)})]
    spans = {is_closed: (of[-1] - of[0]) / (len(of) - 1) for is_closed, of in sent.items()}
    assert spans[False] > 500 and spans[True] < 100 + 2 * TICK_MS


def test_what_is_written_faster_than_it_is_sent_with_rests_moves_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it is closed with so much left that it must be opened again, for ever."""
    monkeypatch.setattr("dynamo_ray.core.handover.CLOSED_MS_MAX", 300)
    names = sorted(keys(1000))
    at = World(ALONE, {A: [keys(1000)]}, wishes=TO_B)

    def busy(message: Any) -> None:
        at.now_ms += 40

    at.on_sent = busy
    written = 0
    while not at.published:
        for _ in range(30):
            written += 1
            key, put_id = names[written % len(names)], written.to_bytes(16, "big")
            at.ask(A, Mint([key], [0], [b"%d" % written], [None], [put_id], [0], b""))
        at.tick()
        assert at.now_ms < 60_000
    assert at.kinds.count("Offer") == 1, "and is closed once"
    assert at.disks[B][0] == at.disks[A][0]


def test_what_is_written_meanwhile_goes_too() -> None:
    at = World(ALONE, {A: [dict(MANY)]}, wishes=TO_B)
    acknowledged = set()
    for number in range(60):
        at.tick()
        key = b"new%d" % number
        if at.owners() == {A} and isinstance(at.put(A, key), Minted):
            acknowledged.add(key)
    assert len(at.published) == 1 and acknowledged
    assert at.disks[B][0].keys() >= MANY.keys() | acknowledged


def test_all_slots_move_one_after_the_other() -> None:
    at = World(TWO, {A: [keys(5), keys(7, "l")]}, wishes={0: wish(B), 1: wish(C)})
    at.run()
    assert at.published == [(A, {0: Slot(1, B)}), (A, {1: Slot(1, C)})]
    assert at.disks[B][0] == keys(5) and at.disks[C][1] == keys(7, "l")


def test_what_the_receiver_holds_beside_it_does_no_harm() -> None:
    """It is merged here, too: the receiver must hold all that is here, not the same."""
    at = World(ALONE, {A: [keys(3)], B: [{b"other": value_of(9)}]}, wishes=TO_B)
    at.run(10)
    assert at.published and at.disks[B][0] == {**keys(3), b"other": value_of(9)}


# Nobody is on the new ring before the receiver has it all.


def test_nothing_is_published_before_the_receiver_has_fsynced_it_all() -> None:
    at = closed(world())
    assert not at.published and at.owners() == {A}
    assert at.disks[B] == [{}]
    at.go_on(B)
    assert at.disks[B] == [keys(20)]
    assert at.published == [(A, {0: Slot(1, B)})]


def test_nothing_is_published_before_the_receiver_has_promised_to_keep_it() -> None:
    at = world()
    at.full = {B}
    at.run(8)
    assert "Seal" in at.kinds and not at.published
    at.full = set()
    at.run(20)
    assert at.granted[B] == {0: (0, 1)} and at.published


def test_while_it_is_closed_nothing_is_written_here_and_reads_go_on() -> None:
    at = closed(world())
    assert code_of(at.put(A, b"k")) == Code.NOT_READY
    assert code_of(at.merge(A, b"k", value_of(1))) == Code.NOT_READY
    assert at.held(A) == keys(20)
    assert at.ask(A, Fetch([b"k0000"], [0])) == Fetched([value_of(0)], True)


def test_only_the_partition_that_moves_is_closed() -> None:
    at = World(TWO, {A: [keys(5), {}]}, wishes={0: wish(B)})
    closed(at)
    assert isinstance(at.put(A, b"l", partition=1), Minted)


def written_late(at: World) -> World:
    """A key is written while the first comparison says that nothing differs; A's log is slow."""

    def write(message: Any) -> None:
        if isinstance(message, Compare) and not at.held(A):
            at.stalled = {A}
            assert at.put(A, b"late") is None

    at.on_sent = write
    at.run(10)
    assert step_of(at) == "closing" and at.kinds == ["Offer", "Compare"]
    return at


def test_the_last_comparison_waits_until_the_log_has_what_was_taken_before() -> None:
    at = written_late(world(0))
    at.go_on(A)
    at.run(3)
    assert b"late" in at.disks[B][0] and at.published


def test_it_waits_until_the_tree_shows_that_too(monkeypatch: pytest.MonkeyPatch) -> None:
    at = written_late(world(0))
    at.go_on(A)
    with monkeypatch.context() as patch:
        patch.setattr(at.nodes[A].replica.forest, "is_exact", lambda partition: False)
        at.run(5)
        assert step_of(at) == "closing" and "Seal" not in at.kinds
    at.run(3)
    assert b"late" in at.disks[B][0] and at.published


def test_what_is_lost_of_the_last_is_not_sealed() -> None:
    at = written_late(world(0))
    at.lost = (Merge,)
    at.go_on(A)
    at.run(3)
    assert at.kinds[-1] == "Merge" and not at.published and not at.nodes[A].handover.closed
    at.lost = ()
    at.run(20)
    assert b"late" in at.disks[B][0] and at.published


# What fails is tried again later.


def test_it_opens_again_when_nothing_is_heard_of_the_seal_for_long() -> None:
    at = closed(world())
    at.tick(A, passed_ms=CLOSED_MS_MAX - 2 * 100)
    assert code_of(at.put(A, b"k")) == Code.NOT_READY
    at.tick(A, passed_ms=3 * 100)
    assert isinstance(at.put(A, b"k"), Minted)
    assert at.owners() == {A} and not at.published


def test_an_answer_that_comes_after_it_has_opened_again_is_none() -> None:
    """What was written since is not there: to publish now would lose it."""
    at = closed(world())
    at.tick(A, passed_ms=CLOSED_MS_MAX + 1)
    assert isinstance(at.put(A, b"new"), Minted)
    at.go_on(B)
    assert not at.published
    at.run(30)
    assert at.published and b"new" in at.disks[B][0]


@pytest.mark.parametrize("kind", [Offer, Compare, Merge, Seal])
def test_what_is_lost_opens_it_and_it_begins_again_later(kind: type[Any]) -> None:
    at = world()
    at.lost = (kind,)
    at.run(AGAIN_MS // 100)
    assert not at.published and not at.nodes[A].handover.closed
    assert at.kinds.count(kind.__name__) == 1, "not in a circle"
    at.lost = ()
    at.run(30)
    assert at.published and at.disks[B] == [keys(20)]


@pytest.mark.parametrize("kind", [Offered, Merged, Sealed])
def test_a_lost_answer_leads_to_one_owner(kind: type[Any]) -> None:
    at = world()
    at.muted = (kind,)
    at.run(AGAIN_MS // 100)
    assert at.owners() == {A} and not at.published and not at.nodes[A].handover.closed
    assert isinstance(at.put(A, b"since"), Minted)
    at.muted = ()
    at.run(30)
    assert b"since" in at.disks[B][0]
    at.tell()
    assert at.owners() == {B}


def test_one_that_is_away_is_offered_nothing() -> None:
    at = world()
    at.away = frozenset({B})
    at.run(20)
    assert at.sent == []
    at.away = frozenset()
    at.run(10)
    assert at.published


def test_one_that_goes_away_opens_it_at_once() -> None:
    at = closed(world())
    at.away = frozenset({B})
    at.tick(A)
    assert not at.nodes[A].handover.closed
    assert isinstance(at.put(A, b"k"), Minted)


def test_after_a_failure_other_slots_go_first() -> None:
    at = World(TWO, {A: [keys(5), keys(5)]}, wishes={0: wish(B), 1: wish(C)})
    at.lost = (Offer,)
    at.tick(A)
    at.lost = ()
    at.run(8)
    assert at.published == [(A, {1: Slot(1, C)})]
    at.run(20)
    assert len(at.published) == 2


def test_what_the_disk_does_not_take_is_not_published() -> None:
    at = world()
    at.full = {A}
    at.run(30)
    assert "Seal" in at.kinds and at.owners() == {A} and not at.nodes[A].handover.closed
    at.full = set()
    at.run(30)
    assert at.published == [(A, {0: Slot(1, B)})]


def test_a_node_in_doubt_does_not_give() -> None:
    """It may lack what it acknowledged, and the receiver would be believed to hold it all."""
    at = world()
    at.nodes[A].replica.doubted = frozenset({0})
    at.run(40)
    assert "Seal" not in at.kinds and not at.published
    at.nodes[A].replica.doubted = frozenset()
    at.run(30)
    assert at.published


def test_a_giver_that_starts_again_begins_again_with_what_is_there() -> None:
    at = closed(world())
    at.start(A)
    assert not at.nodes[A].handover.closed
    at.go_on(B)
    assert not at.published
    sent = at.kinds.count("Merge")
    at.run(30)
    assert at.published and at.kinds.count("Merge") == sent, "what is there is not sent again"


def test_a_receiver_that_starts_again_is_given_what_it_lost() -> None:
    """The token of an earlier run seals nothing: what that held may be gone."""
    at = closed(world())
    at.start(B)
    at.slow = set()
    at.run(60)  # nothing is heard of the Seal, which is over with the run that was asked
    assert at.disks[B] == [keys(20)]
    assert at.published == [(A, {0: Slot(1, B)})]


# What is wished may change.


def test_a_wish_that_is_taken_back_opens_it_and_no_promise_is_left() -> None:
    at = closed(world())
    at.learn(A, View(wishes={0: wish(A, stamp=b"2")}))
    assert not at.nodes[A].handover.closed
    at.go_on(B)
    at.run(3)
    assert at.published == [(A, {0: Slot(1, A)})]
    at.tell()
    assert at.owners() == {A}
    at.run(5)
    assert at.disks[B] == [{}], "what came is let go of"


def test_a_later_wish_for_another_counts() -> None:
    at = closed(world())
    at.learn(A, View(wishes={0: wish(C, stamp=b"2")}))
    at.go_on(B)
    at.tell()
    at.run(20)
    assert at.published == [(A, {0: Slot(1, C)})] and at.disks[C] == [keys(20)]


def test_what_was_begun_with_one_is_not_gone_on_with_for_another() -> None:
    at = world()
    at.stalled = {B}
    at.run(5)
    assert step_of(at) == "copying" and at.kinds[-1] == "Merge"
    at.learn(A, View(wishes={0: wish(C, stamp=b"2")}))
    at.sent.clear()
    at.go_on(B)
    at.run(10)
    assert at.published == [(A, {0: Slot(1, C)})] and at.disks[C] == [keys(20)]
    assert {node for node, _ in at.sent} == {C}


def test_once_it_is_on_its_way_to_the_disk_a_later_wish_comes_too_late() -> None:
    at = world()
    node = at.nodes[A]
    at.slow = {A}
    at.run(8)
    at.learn(A, View(wishes={0: wish(C, stamp=b"2")}))
    assert node.handover.closed == {0} and step_of(at) == "publishing"
    at.tick(A, passed_ms=CLOSED_MS_MAX + 1)
    assert node.handover.closed == {0}
    at.go_on(A)
    assert at.published == [(A, {0: Slot(1, B)})] and not node.handover.closed


def test_one_thing_at_a_time_is_on_its_way_to_the_disk() -> None:
    at = World(ALONE, {A: [keys(3)]}, wishes={0: wish(A)})
    at.slow = {A}
    at.run(5)
    at.go_on(A)
    assert at.published == [(A, {0: Slot(1, A)})]


# What nobody gave.


def test_an_heir_takes_no_writes_before_every_other_owner_knows() -> None:
    at = World(SHARED, {B: [keys(3)]})
    at.learn(C, View(ends={A: C}))
    assert at.placements[C].ring.owners(0) == (C, B)
    assert at.nodes[C].handover.closed == {0}
    at.tick(C)
    assert not at.published and code_of(at.put(C, b"k")) == Code.NOT_READY
    for node in (D, B):
        at.learn(node, at.placements[C].view)
    at.nodes[C].on_told(D, at.placements[D].view)
    at.tick(C)
    assert not at.published, "another node knows, and not the other owner"
    at.nodes[C].on_told(B, View())
    at.tick(C)
    assert not at.published, "it spoke, and did not know"
    at.nodes[C].on_told(B, at.placements[B].view)
    at.tick(C)
    assert at.published == [(C, {0: Slot(LINE, C)})]
    at.nodes[C].on_told(B, View(ends={A: C}))
    assert code_of(at.put(C, b"k")) == Code.NOT_READY, "that it is published B does not know"
    at.tell(B, C)
    at.nodes[C].on_told(B, at.placements[B].view)
    assert not at.nodes[C].handover.closed and isinstance(at.put(C, b"k"), Minted)


def test_an_heir_proves_nothing_before_every_other_owner_knows() -> None:
    """Until then others may count under whom it takes the place of, at owners it has asked."""
    at = World(SHARED, {B: [keys(3)]})
    at.learn(C, View(ends={A: C}))
    node = at.nodes[C]
    assert 0 in node.replica.in_doubt and 0 not in node.to_prove
    at.tell(B, C)
    node.on_told(B, at.placements[B].view)
    at.tick(C)
    assert at.published and 0 not in node.to_prove
    at.tell(B, C)
    node.on_told(B, at.placements[B].view)
    assert 0 in node.to_prove


def test_an_heir_that_starts_again_asks_again_until_it_is_rebuilt() -> None:
    at = World(SHARED, {B: [keys(3)]})
    at.learn(C, View(ends={A: C}, slots={0: Slot(LINE, C)}))
    at.start(C)
    node = at.nodes[C]
    for doubted in (frozenset({0}), frozenset[int]()):  # as its disk says
        node.replica.doubted = doubted
        node.on_placement(at.placements[C])
        assert node.handover.closed == doubted, "it was open, or it would be in doubt"


def test_whom_an_heir_has_to_tell_changes_with_the_owners() -> None:
    at = World(SHARED, {B: [keys(3)]})
    at.learn(C, View(ends={A: C}))
    at.nodes[C].on_told(B, View(ends={A: C}))
    at.learn(C, View(slots={1: Slot(1, D)}))
    assert at.placements[C].ring.owners(0) == (C, D)
    at.tick(C)
    assert not at.published, "D has not heard of it"


def test_what_is_inherited_is_not_given_before_it_is_said() -> None:
    at = World(SHARED, {B: [keys(3)]}, wishes={0: wish(D)})
    at.learn(C, View(ends={A: C}))
    for _ in range(5):
        at.tick(C)
    assert "Offer" not in at.kinds
    at.tell()
    at.nodes[C].on_told(B, at.placements[B].view)
    at.run(10)
    assert at.published == [(C, {0: Slot(LINE, C)})], "and by then it is another generation"
