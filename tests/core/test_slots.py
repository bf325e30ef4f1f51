"""The ring as it follows from what is known: alike for all, and always one that can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.membership import (
    COORDINATOR_ROLE,
    LINE,
    NODE_ROLE,
    Fact,
    Slot,
    View,
    Wish,
    merge_views,
)
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement, placed
from tests.core.histories import incarnation, node_id

FOUNDERS, LATER = "abcd", "efg"
A, B, C, D, E, F = map(node_id, "abcdef")
NOBODY = b""
SETTINGS = Settings(n=3, r=2, w=2, partitions=8)
CHARTER = Charter(bytes(16), "carts", SETTINGS, tuple(Member(node_id(x), x) for x in FOUNDERS))
FOUNDED = placed(CHARTER, View())
RING = FOUNDED.ring
SLOTS = len(RING.slots)


def fact(letter: str, zone: str = "", weight: float = 1.0, role: str = NODE_ROLE) -> Fact:
    where = letter, "host", 7_000, zone, weight
    return Fact(incarnation(1), 0, node_id(letter), role, *where)


def knowing(view: View) -> Placement:
    return FOUNDED.learn(view)


def joined(letters: str = "e") -> View:
    return View().with_facts(map(fact, letters))


def slot_of(node: bytes) -> int:
    """The first slot of a node."""
    return RING.slots.index(node)


# Who is there.


def test_with_nothing_known_it_is_the_charters_ring() -> None:
    assert RING == CHARTER.ring() == FOUNDED.founded
    assert knowing(View()) is FOUNDED


def test_one_that_joined_is_a_member_and_owns_nothing() -> None:
    ring = knowing(View().with_facts([fact("e", zone="z", weight=2.0)])).ring
    assert ring.slots == RING.slots
    assert Member(E, "e", "z", 2.0) in ring.members


def test_a_coordinator_is_no_member() -> None:
    assert knowing(View().with_facts([fact("e", role=COORDINATOR_ROLE)])).ring is RING


def test_what_changes_no_ring_keeps_the_one_there_is() -> None:
    """So that nobody takes it for another."""
    slot = slot_of(A)
    wished = knowing(View(wishes={slot: Wish(0, b"1", B)}))
    assert wished is not FOUNDED and wished.ring is RING


def test_a_founder_says_itself_what_its_zone_and_weight_are() -> None:
    ring = knowing(View().with_facts([fact("a", zone="z", weight=0.0)])).ring
    assert Member(A, "a", "z", 0.0) in ring.members and ring.slots == RING.slots


# Who owns what.


def test_a_slot_belongs_to_whom_its_owner_gave_it() -> None:
    slot = slot_of(A)
    found = knowing(merge_views(joined(), View(slots={slot: Slot(1, E)})))
    assert found.ring.slots[slot] == E
    assert found.ring.slots[:slot] + found.ring.slots[slot + 1 :] == (
        RING.slots[:slot] + RING.slots[slot + 1 :]
    )
    assert slot // 3 in found.owned(E) and slot // 3 not in found.owned(A)


def test_one_that_is_replaced_leaves_its_slots_to_its_heir() -> None:
    ring = knowing(merge_views(joined(), View(ends={A: E}))).ring
    assert ring.slots == tuple(E if owner == A else owner for owner in RING.slots)
    assert A not in {member.node for member in ring.members}


def test_an_heir_that_is_replaced_leaves_them_to_its_own() -> None:
    ring = knowing(merge_views(joined("ef"), View(ends={A: E, E: F}))).ring
    assert ring.slots == tuple(F if owner == A else owner for owner in RING.slots)


def test_a_circle_of_heirs_leaves_them_to_others() -> None:
    ring = knowing(merge_views(joined("ef"), View(ends={A: E, E: A}))).ring
    assert not {A, E} & set(ring.slots)


def test_what_nobody_owns_any_more_falls_to_the_next_node() -> None:
    ring = knowing(View(ends={A: NOBODY})).ring
    assert A not in ring.slots
    for before, after in zip(RING.slots, ring.slots, strict=True):
        assert before in (after, A)


def test_it_falls_to_the_same_node_in_whatever_order_they_were_heard_of() -> None:
    gone = View(ends={C: NOBODY, D: NOBODY})
    one = knowing(joined("e")).learn(joined("f")).learn(gone)
    other = knowing(joined("f")).learn(joined("e")).learn(gone)
    assert E in one.ring.slots and one.ring == other.ring


def test_too_few_members_are_not_believed_to_be_gone() -> None:
    ring = knowing(View(ends={A: NOBODY, B: NOBODY})).ring
    assert ring == RING


letters = st.sampled_from(FOUNDERS + LATER)
ids = letters.map(node_id)
strangers = st.one_of(ids, st.just(b"stranger"))
slot_numbers = st.integers(0, SLOTS + 3)
views = st.builds(
    lambda facts, slots, wishes, ends: merge_views(
        View({}, slots, wishes, ends), View().with_facts(facts)
    ),
    st.lists(st.builds(fact, letters, st.just(""), st.sampled_from([0.0, 1.0])), max_size=4),
    st.dictionaries(slot_numbers, st.builds(Slot, st.integers(0, 3), strangers), max_size=12),
    st.dictionaries(slot_numbers, st.builds(Wish, st.integers(0, 3), st.just(b"s"), strangers)),
    st.dictionaries(ids, st.one_of(strangers, st.just(NOBODY)), max_size=6),
)


@given(st.lists(views, max_size=4))
def test_whoever_knows_the_same_makes_the_same_and_it_can_be(known: list[View]) -> None:
    """In whatever order it was learnt. A ring refuses an owner twice, and one that is no member."""
    one = other = FOUNDED
    for view in known:
        one = one.learn(view)
    for view in reversed(known):
        other = other.learn(view)
    assert one.ring == other.ring == placed(CHARTER, one.view).ring
    assert one.ring.epoch == other.ring.epoch
    alive = {m.node for m in CHARTER.members} | set(one.view.nodes()) - one.view.ends.keys()
    alive -= one.view.ends.keys()
    if len(alive) >= SETTINGS.n:
        assert {member.node for member in one.ring.members} == alive


# What is wished.


def test_a_wish_is_its_owners_to_fulfil() -> None:
    slot = slot_of(A)
    wish = Wish(0, b"1", E)
    found = knowing(merge_views(joined(), View(wishes={slot: wish})))
    assert found.wished(A) == {slot: wish} == found.under_way
    assert found.wished(B) == {}
    assert found.is_wished_for(slot // 3, E) and not found.is_wished_for(slot // 3, B)
    assert not found.is_wished_for((slot // 3 + 1) % 8, E)


def test_a_wish_is_void_once_its_slot_has_changed_hands() -> None:
    """To whomever: what was planned knew nothing of that."""
    slot = slot_of(A)
    wished = knowing(merge_views(joined("ef"), View(wishes={slot: Wish(0, b"1", E)})))
    given_to_f = wished.learn(View(slots={slot: Slot(1, F)}))
    assert given_to_f.wished(F) == {} == given_to_f.under_way
    assert not given_to_f.is_wished_for(slot // 3, E)
    assert slot not in given_to_f.view.wishes


def test_a_wish_for_a_generation_to_come_waits() -> None:
    slot = slot_of(A)
    early = knowing(merge_views(joined(), View(wishes={slot: Wish(1, b"1", E)})))
    assert early.wished(A) == {} == early.under_way
    assert early.is_wished_for(slot // 3, E), "its copies may be on their way already"
    assert early.learn(View(slots={slot: Slot(1, B)})).view.wishes


def test_nothing_is_wished_for_one_that_is_gone_or_an_owner_already() -> None:
    slot = slot_of(A)
    wishes = View(wishes={slot: Wish(0, b"1", E)})
    assert knowing(wishes).under_way == {}, "nobody knows where it is"
    gone = merge_views(merge_views(joined(), wishes), View(ends={E: NOBODY}))
    assert knowing(gone).under_way == {}
    neighbour = next(node for node in RING.owners(slot // 3) if node != A)
    assert knowing(View(wishes={slot: Wish(0, b"1", neighbour)})).under_way == {}


def test_a_slot_that_is_not_there_is_wished_in_vain() -> None:
    assert knowing(merge_views(joined(), View(wishes={SLOTS: Wish(0, b"1", E)}))).under_way == {}


def test_a_command_wishes_for_slots_as_they_are_now() -> None:
    slot = slot_of(A)
    found = knowing(merge_views(joined(), View(slots={slot: Slot(4, B)})))
    view = found.with_wishes([(slot, E)], b"stamp")
    assert view.wishes == {slot: Wish(4, b"stamp", E)}


def test_the_later_command_counts_and_one_for_the_owner_takes_it_back() -> None:
    slot = slot_of(A)
    found = knowing(merge_views(joined(), View(wishes={slot: Wish(0, b"1", E)})))
    assert found.taken_back(A) == {}
    back = found.learn(View(wishes={slot: Wish(0, b"2", A)}))
    assert back.wished(A) == {}
    assert back.taken_back(A) == {slot: Slot(1, A)}, "a promise of generation 1 is settled by it"
    assert back.taken_back(B) == {}
    done = back.learn(View(slots=back.taken_back(A)))
    assert done.taken_back(A) == {} and done.ring is back.ring


def test_a_wish_for_one_that_owns_it_already_or_is_gone_takes_an_earlier_one_back() -> None:
    """Nobody is to have the slot, and a promise of the earlier wish would stand in others' way."""
    slot = slot_of(A)
    neighbour = next(node for node in RING.owners(slot // 3) if node != A)
    for receiver, ends in ((neighbour, {}), (E, {E: NOBODY})):
        found = knowing(merge_views(joined(), View(wishes={slot: Wish(0, b"1", E)})))
        found = found.learn(View(wishes={slot: Wish(0, b"2", receiver)}, ends=ends))
        assert found.under_way == {} and found.taken_back(A) == {slot: Slot(1, A)}
    unknown = knowing(View(wishes={slot: Wish(0, b"1", F)}))
    assert unknown.taken_back(A) == {}, "it may come yet"


# What nobody gave.


def test_an_heir_is_to_say_what_it_owns_and_above_all_of_the_line_before() -> None:
    ends = merge_views(joined("ef"), View(ends={A: E}))
    slot = slot_of(A)
    found = knowing(merge_views(ends, View(slots={slot: Slot(3, A)})))
    due = found.inherited(E)
    assert due == {at: Slot(LINE, E) for at, owner in enumerate(RING.slots) if owner == A}
    assert found.inherited(B) == {}
    said = found.learn(View(slots=due))
    assert said.inherited(E) == due, "until nobody need be told"
    given_on = said.learn(View(slots={slot: Slot(LINE + 1, F)}))
    assert slot not in given_on.inherited(E) and slot not in given_on.inherited(F)
    second = said.learn(View(ends={E: F})).inherited(F)
    assert second == {at: Slot(2 * LINE, F) for at in due}


def test_what_was_given_before_the_giver_died_is_not_inherited() -> None:
    slot = slot_of(A)
    given = View(slots={slot: Slot(1, F)})
    found = knowing(merge_views(joined("ef"), View(ends={A: E}))).learn(given)
    assert found.ring.slots[slot] == F and slot not in found.inherited(E)


def test_what_a_stranger_owns_is_not_inherited_by_who_has_it_for_want_of_him() -> None:
    """Found by the simulator: that its fact was on its way made another node the owner."""
    slot = slot_of(A)
    found = knowing(merge_views(joined("e"), View(ends={B: E}, slots={slot: Slot(1, F)})))
    instead = found.ring.slots[slot]
    assert instead != F and slot not in found.inherited(instead)
    assert found.unclaimed(instead) == {slot // SETTINGS.n}
    assert not any(found.unclaimed(other) for other in {A, C, D, E, F} - {instead})
    assert not found.learn(joined("f")).unclaimed(instead), "now it is known who that is"
    gone = found.learn(View(ends={F: NOBODY}))
    assert not gone.unclaimed(instead) and slot in gone.inherited(gone.ring.slots[slot])


@given(st.permutations([(1, F), (5, F), (LINE, E), (LINE, D)]))
def test_of_two_owners_of_a_slot_all_take_the_same(said: list[tuple[int, bytes]]) -> None:
    """Whoever was given it, by a giver of whom nobody heard it, and two heirs of that giver."""
    slot = slot_of(A)
    found = knowing(merge_views(joined("ef"), View(ends={A: E})))
    for generation, owner in said:
        found = found.learn(View(slots={slot: Slot(generation, owner)}))
    assert found.view.slots[slot] == Slot(LINE, max(D, E))


def test_whoever_follows_one_that_was_removed_is_to_say_so_too() -> None:
    found = knowing(View(ends={A: NOBODY}))
    due = [found.inherited(node) for node in (B, C, D)]
    assert sorted(slot for of in due for slot in of) == [
        slot for slot, owner in enumerate(RING.slots) if owner == A
    ]
    said = found
    for of in due:
        said = said.learn(View(slots=of))
    assert said.ring is found.ring
    assert [said.inherited(node) for node in (B, C, D)] == due
