"""Routes: whom to ask first, and who stands in for whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.ring import Member, claim
from dynamo_ray.core.routing import Route, StandIns, minters, pair_stand_ins
from dynamo_ray.core.routing import routes as routes_of

A, B, C, D, E, F = (bytes([i]) * 8 for i in b"ABCDEF")
ROUTE = Route(owners=(A, B, C), spares=(D, E, F))


def suspecting(*nodes: bytes) -> Route:
    return Route(ROUTE.owners, ROUTE.spares, frozenset(nodes))


def test_a_route_is_the_preference_list_cut_after_the_owners() -> None:
    ring = claim([Member(node, "") for node in (A, B, C, D, E)])
    for partition in range(ring.partitions):
        found = routes_of(ring, frozenset([A]))[ring.route_key(partition)]
        assert found.owners == ring.owners(partition)
        assert found.owners + found.spares == ring.preference(partition)
        assert found.suspected == {A}


def test_suspicion_hides_nobody_from_the_owners() -> None:
    assert suspecting(A, D).owners == (A, B, C)
    assert suspecting(A, D).healthy_owners == (B, C)
    assert suspecting(A, D).healthy_spares == (E, F)


def test_owners_mint_first_in_their_order() -> None:
    assert minters(ROUTE) == (A, B, C, D, E, F)
    assert minters(ROUTE, strict=True) == (A, B, C)


def test_the_first_healthy_owner_mints_and_suspected_ones_are_tried_last() -> None:
    assert minters(suspecting(A)) == (B, C, D, E, F, A)
    assert minters(suspecting(A, E), strict=True) == (B, C, A)
    assert minters(suspecting(A, B, C, E)) == (D, F, A, B, C)


def test_a_slow_owner_mints_after_the_other_healthy_owners() -> None:
    assert minters(suspecting(), slow=frozenset({A, D})) == (B, C, A, D, E, F)
    assert minters(suspecting(B), slow=frozenset({A, B})) == (C, A, D, E, F, B)


def test_a_sloppy_quorum_asks_the_first_n_healthy_nodes() -> None:
    """Dynamo §4.6: operations are done on the first N healthy nodes of the preference list."""
    down = suspecting(B, D)
    pairs = pair_stand_ins(down)
    assert pairs == ((B, E),)
    assert minters(down)[:3] == (A, C, E)
    assert {A, C} | {spare for _, spare in pairs} == set(minters(down)[:3])


def test_each_missing_owner_gets_a_spare_of_its_own_while_spares_last() -> None:
    assert pair_stand_ins(ROUTE, (C, A)) == ((A, D), (C, E))
    assert pair_stand_ins(suspecting(A, B, C, D, E)) == ((A, F),)
    assert pair_stand_ins(ROUTE) == ()


def test_a_stand_in_that_failed_too_is_followed_by_the_next() -> None:
    stand_ins = StandIns(ROUTE)
    assert [stand_ins.next_for(A) for _ in range(4)] == [D, E, F, None]


def test_the_spare_that_mints_stands_in_for_nobody_else() -> None:
    stand_ins = StandIns(ROUTE)
    stand_ins.use(D)
    assert stand_ins.next_for(A) == E


def placed(*suspected: bytes, **places: str) -> Route:
    by_node = {letter.encode() * 8: (place[0], place[1:]) for letter, place in places.items()}
    return Route(ROUTE.owners, ROUTE.spares, frozenset(suspected), by_node)


def test_a_stand_in_stands_where_no_other_copy_is() -> None:
    zones = {"A": "x", "B": "y", "C": "z", "D": "y", "E": "x", "F": "z"}
    assert pair_stand_ins(placed(A, **zones)) == ((A, E),)
    assert pair_stand_ins(placed(B, **zones)) == ((B, D),)
    assert pair_stand_ins(placed(A, B, C, **zones)) == ((A, D), (B, E), (C, F))


def test_an_owner_that_turned_out_to_be_unreachable_leaves_its_zone_free() -> None:
    zones = {"A": "x", "B": "y", "C": "z", "D": "y", "E": "x", "F": "z"}
    assert StandIns(placed(**zones)).next_for(A) == E


def test_a_fourth_zone_is_as_good_as_the_missing_owners_own() -> None:
    zones = {"A": "x", "B": "y", "C": "z", "D": "y", "E": "w", "F": "x"}
    assert pair_stand_ins(placed(A, **zones)) == ((A, E),)


def test_where_every_zone_is_taken_another_machine_is_better_than_the_same() -> None:
    places = {"A": "x1", "B": "y1", "C": "y2", "D": "y1", "E": "y3", "F": "y2"}
    assert pair_stand_ins(placed(A, **places)) == ((A, E),)


def test_any_spare_is_better_than_none() -> None:
    places = {"A": "x1", "B": "y1", "C": "z1", "D": "y1", "E": "z1", "F": "y1"}
    assert pair_stand_ins(placed(A, **places)) == ((A, D),)


nodes = st.lists(st.binary(min_size=1, max_size=1), min_size=1, max_size=8, unique=True)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    order = tuple(draw(nodes))
    copies = draw(st.integers(1, len(order)))
    suspected = frozenset(draw(st.sets(st.sampled_from(order))))
    place = st.tuples(st.sampled_from("xyz"), st.sampled_from("12"))
    places = {node: draw(place) for node in order} if draw(st.booleans()) else {}
    return Route(order[:copies], order[copies:], suspected, places)


@given(routes(), st.data())
def test_spares_are_used_once_and_only_while_healthy(found: Route, data: st.DataObject) -> None:
    stand_ins = StandIns(found)
    owners = data.draw(st.lists(st.sampled_from(found.owners), max_size=10))
    given_out = [stand_ins.next_for(owner) for owner in owners]
    spares = [spare for spare in given_out if spare is not None]
    assert len(set(spares)) == len(spares)
    assert set(spares) <= set(found.spares) - found.suspected
    assert len(spares) == min(len(owners), len(found.healthy_spares))


@given(routes())
def test_stand_ins_stay_out_of_taken_zones_while_there_is_a_choice(found: Route) -> None:
    if not found.places:
        return
    zone = {node: place[0] for node, place in found.places.items()}
    held = [zone[node] for node in found.healthy_owners]
    free = list(found.healthy_spares)
    for _, spare in pair_stand_ins(found):
        if any(zone[node] not in held for node in free):
            assert zone[spare] not in held
        held.append(zone[spare])
        free.remove(spare)


@given(routes(), st.booleans())
def test_minters_are_the_healthy_and_then_the_suspected_owners(found: Route, strict: bool) -> None:
    order = minters(found, strict)
    allowed = found.owners if strict else found.owners + found.healthy_spares
    assert sorted(order) == sorted(allowed)
    ranks = [(n in found.suspected, n not in found.owners) for n in order]
    assert ranks == sorted(ranks)
