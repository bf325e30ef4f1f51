"""Partitions in doubt: compared with enough owners that can be sure, or with all there are."""

from __future__ import annotations

import pytest

from dynamo_ray.core.messages import Merge
from dynamo_ray.core.rebuild import AT_ONCE, PAUSE_S, PROOF, Ask, Out, Prove, Rebuild, Take
from dynamo_ray.core.ring import Member, Ring, claim
from dynamo_ray.core.upkeep import Copied, Copy

PARTITIONS = 32
NOBODY: frozenset[bytes] = frozenset()
ONE = frozenset({0})


def ring_of(n: int) -> Ring:
    return claim([Member(b"node %3d" % i, f"n{i}") for i in range(n)], PARTITIONS, n)


class World:
    """A node in doubt about `doubted`, among owners of which everything is known here."""

    def __init__(self, n: int = 3, w: int = 2, doubted: frozenset[int] = ONE) -> None:
        self.ring = ring_of(n)
        self.me, *self.others = self.ring.owners(0)
        self.machine = Rebuild(self.me, self.ring, w)
        self.doubted = doubted
        self.owned = frozenset(range(PARTITIONS))
        self.held: dict[bytes, dict[bytes, bytes]] = {node: {} for node in self.others}
        self.unsure: set[bytes] = set()
        self.silent: set[bytes] = set()
        self.asked: list[bytes] = []
        self.taken: dict[bytes, bytes] = {}
        self.page = 2
        self.now = 0.0

    def tick(self, unreachable: frozenset[bytes] = NOBODY, seconds: float = PAUSE_S) -> None:
        """One tick, and all that comes of it."""
        self.now += seconds
        out = self.machine.on_tick(self.doubted, self.owned, unreachable, self.now)
        while out:
            out = out[1:] + self.perform(out[0])

    def perform(self, effect: Out) -> list[Out]:
        if isinstance(effect, Prove):
            self.doubted -= effect.partitions
            self.machine.on_proved()
            return []
        if isinstance(effect, Take):
            self.taken.update(zip(effect.message.keys, effect.message.states, strict=True))
            return self.machine.on_taken(effect.partition, True)
        node, asked = effect.node, effect.message
        self.asked.append(node)
        if node in self.silent:
            return self.machine.on_failure(node, asked)
        return self.machine.on_page(node, asked, self.page_of(node, asked))

    def page_of(self, node: bytes, asked: Copy) -> Copied:
        keys = sorted(key for key in self.held[node] if key > asked.after)[: self.page]
        states = [self.held[node][key] for key in keys]
        return Copied(keys, states, self.page, node not in self.unsure)


def test_what_enough_others_hold_is_merged_and_then_it_is_proved() -> None:
    world = World()
    world.held[world.others[0]] = {b"k%d" % i: b"v" for i in range(5)}
    world.held[world.others[1]] = {b"other": b"v"}
    world.tick()
    assert world.taken.keys() == {b"k0", b"k1", b"k2", b"k3", b"k4", b"other"}
    assert world.doubted == ONE, "not before a tick: many partitions share one proof"
    world.tick()
    assert world.doubted == NOBODY


def test_owners_are_asked_as_owners_of_the_present_ring() -> None:
    world = World()
    asked = world.machine.on_tick(ONE, world.owned, NOBODY, 0.0)
    (first,) = [effect for effect in asked if isinstance(effect, Ask)]
    (second,) = world.machine.on_page(first.node, first.message, Copied([b"k"], [b"v"], 1, True))
    assert isinstance(second, Take)
    (third,) = world.machine.on_taken(0, True)
    assert isinstance(third, Ask) and third.message.after == b"k"
    assert first.epoch == third.epoch == world.ring.epoch_of(0)


def test_with_w_of_all_one_sure_owner_is_enough() -> None:
    world = World(n=3, w=3)
    world.tick()
    world.tick()
    assert world.asked == world.others[:1]
    assert not world.doubted


def test_an_owner_in_doubt_proves_nothing_by_what_it_does_not_hold() -> None:
    """Both of two lost their disks; the third, that has it all, is out of reach."""
    world = World(n=3, w=3)
    unsure, sure = world.others
    world.unsure.add(unsure)
    world.held[sure] = {b"k": b"v"}
    for _ in range(5):
        world.tick(unreachable=frozenset({sure}))
    assert world.doubted == ONE
    world.tick()
    world.tick()
    assert world.taken == {b"k": b"v"}
    assert not world.doubted


def test_owners_that_are_all_in_doubt_prove_each_other_once_all_are_there() -> None:
    world = World(n=3, w=2)
    world.unsure.update(world.others)
    world.held[world.others[1]] = {b"k": b"v"}
    for _ in range(5):
        world.tick(unreachable=frozenset(world.others[1:]))
    assert world.doubted == ONE
    world.tick()
    world.tick()
    assert world.taken == {b"k": b"v"}
    assert not world.doubted


def test_an_owner_that_becomes_sure_is_asked_again_and_read_whole() -> None:
    """What it got while it was read the first time may stand before the page that was read."""
    world = World(n=4, w=4)
    first, *away = world.others
    world.unsure.add(first)
    world.tick(unreachable=frozenset(away))
    world.held[first] = {b"k": b"v"}
    world.unsure.clear()
    world.tick(unreachable=frozenset(away))
    assert world.taken == {b"k": b"v"}


def test_one_that_is_still_in_doubt_is_not_copied_again() -> None:
    world = World(n=3, w=3)
    world.unsure.add(world.others[0])
    world.held[world.others[0]] = {b"k%d" % i: b"v" for i in range(9)}
    away = frozenset(world.others[1:])
    world.tick(away)
    asked = len(world.asked)
    world.tick(away)
    assert len(world.asked) == asked + 1


def test_a_single_copy_has_nobody_to_be_compared_with() -> None:
    world = World(n=1, w=1)
    world.tick()
    assert not world.doubted


def test_nothing_is_proved_by_silence_and_it_is_asked_again_after_a_pause() -> None:
    world = World()
    world.silent.update(world.others)
    world.tick()
    assert len(world.asked) == 2
    world.tick(seconds=PAUSE_S / 2)
    assert len(world.asked) == 2
    world.tick()
    assert len(world.asked) == 4
    assert world.doubted == ONE
    world.silent.clear()
    world.tick()
    world.tick()
    assert not world.doubted


def test_an_owner_that_was_compared_is_not_compared_again() -> None:
    world = World()
    world.silent.add(world.others[1])
    for _ in range(4):
        world.tick()
    assert world.asked.count(world.others[0]) == 1
    assert world.asked.count(world.others[1]) == 4


def test_what_is_not_owned_stays_in_doubt_without_a_question() -> None:
    """It may be given to this node, or taken over by it, and then counts as what it is."""
    world = World()
    world.owned = frozenset()
    before = world.doubted
    world.tick()
    assert world.doubted == before and not world.asked


def test_few_partitions_are_asked_for_at_a_time_and_one_page_of_each() -> None:
    world = World(doubted=frozenset(range(PARTITIONS)))
    out = world.machine.on_tick(world.doubted, world.owned, NOBODY, 0.0)
    assert [effect.message.partition for effect in out] == list(range(AT_ONCE))
    assert world.machine.on_tick(world.doubted, world.owned, NOBODY, 0.5) == []
    first = out[0]
    more = world.machine.on_failure(first.node, first.message)
    assert len(more) == 1
    out = [*out[1:], *more]
    for _ in range(4):
        while out:
            out = out[1:] + world.perform(out[0])
        world.tick()
    assert not world.doubted


def test_a_merge_that_the_log_did_not_take_is_no_comparison() -> None:
    world = World(n=2, w=2)
    (other,) = world.others
    world.held[other] = {b"k": b"v"}
    (asked,) = world.machine.on_tick(ONE, world.owned, NOBODY, 0.0)
    (taking,) = world.machine.on_page(other, asked.message, world.page_of(other, asked.message))
    assert taking == Take(0, Merge([b"k"], [0], [b"v"]))
    assert world.machine.on_taken(0, False) == []
    assert world.machine.on_tick(ONE, world.owned, NOBODY, 0.1) == []
    assert world.machine.on_tick(ONE, world.owned, NOBODY, PAUSE_S) == [asked]


def test_it_is_not_proved_before_all_that_was_merged_is_fsynced() -> None:
    world = World(n=1, w=1)
    (barrier,) = world.machine.on_tick(ONE, world.owned, NOBODY, 0.0)
    assert barrier == Take(PROOF, Merge([], [], [], durable=True))
    assert world.machine.on_tick(ONE, world.owned, NOBODY, 1.0) == []
    assert world.machine.on_taken(PROOF, False) == [], "the log failed"
    assert world.machine.on_tick(ONE, world.owned, NOBODY, 2.0) == [barrier]
    assert world.machine.on_taken(PROOF, True) == [Prove(ONE)]
    world.machine.on_proved()  # and could not be noted: the disk is full
    assert world.machine.on_tick(ONE, world.owned, NOBODY, 3.0) == [barrier]


def test_an_answer_to_an_earlier_question_is_nothing() -> None:
    world = World()
    (asked,) = world.machine.on_tick(ONE, world.owned, NOBODY, 0.0)
    (again,) = world.machine.on_failure(asked.node, asked.message)
    page = Copied([], [], 2, True)
    assert world.machine.on_page(asked.node, asked.message, page) == []
    assert world.machine.on_failure(asked.node, asked.message) == []
    assert again.node != asked.node
    assert world.machine.on_taken(0, True) != [] or world.doubted


@pytest.mark.parametrize(
    "page",
    [
        Copied([b"b", b"a"], [b"v", b"v"], 2, True),
        Copied([b"a", b"a"], [b"v", b"v"], 2, True),
        Copied([b"", b"a"], [b"v", b"v"], 2, True),
        Copied([b"a"], [], 2, True),
    ],
)
def test_a_page_that_leads_round_in_a_circle_is_no_answer(page: Copied) -> None:
    world = World(n=2, w=2)
    (asked,) = world.machine.on_tick(ONE, world.owned, NOBODY, 0.0)
    assert isinstance(asked, Ask)
    assert world.machine.on_page(asked.node, asked.message, page) == []


def test_an_empty_page_ends_whatever_size_it_claims() -> None:
    world = World(n=2, w=2)
    (asked,) = world.machine.on_tick(ONE, world.owned, NOBODY, 0.0)
    assert world.machine.on_page(asked.node, asked.message, Copied([], [], 0, True)) == []
    world.tick()
    assert not world.doubted
