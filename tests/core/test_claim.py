"""The arithmetic of who gets which slot: shares, dealing, and the picture of the circle."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement, groupby, product

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.claim import Path, deal, lay_out, shares
from tests.core.costly import costly

ONE = Fraction(1)


def nodes_in(*zones: str) -> list[Path]:
    """Paths of nodes: one letter for the zone of each, and a digit for its machine if wanted."""
    return sorted((zone[0], zone[1:], i) for i, zone in enumerate(zones))


def test_equal_nodes_have_equal_shares() -> None:
    assert shares(nodes_in(*"aaaaa"), [ONE] * 5, 256, 3) == [Fraction(768, 5)] * 5


def test_a_node_has_its_weight_but_never_two_copies_of_a_partition() -> None:
    assert shares(nodes_in(*"aaa"), [ONE, ONE, 2 * ONE], 100, 1) == [25, 25, 50]
    assert shares(nodes_in(*"aaaa"), [ONE, ONE, ONE, 9 * ONE], 100, 2) == [
        *[Fraction(100, 3)] * 3,
        100,
    ]


def test_with_enough_zones_none_has_two_copies() -> None:
    assert shares(nodes_in(*"abcccc"), [ONE] * 6, 100, 3) == [100, 100, 25, 25, 25, 25]


def test_with_few_zones_each_has_a_copy() -> None:
    assert shares(nodes_in(*"abbbbb"), [ONE] * 6, 100, 3) == [100, *[40] * 5]


def test_with_few_zones_copies_are_on_distinct_machines() -> None:
    paths = nodes_in("a1", "a1", "a1", "b1", "b2", "b3")
    assert shares(paths, [ONE] * 6, 300, 3) == [*[100] * 3, *[200] * 3]


def test_the_picture() -> None:
    """Three zones of three nodes: borders at the same places in each, so three sets of owners."""
    rows = lay_out(nodes_in(*"aaabbbccc"), [ONE] * 9, 9, 3)
    assert [set(row) for row in rows] == 3 * [{0, 3, 6}, {1, 4, 7}, {2, 5, 8}]
    assert [row[0] for row in rows] == list(range(9))


def test_five_nodes_are_first_in_one_block_each_and_follow_each_other() -> None:
    rows = lay_out(nodes_in(*"aaaaa"), [ONE] * 5, 25, 3)
    assert list(dict.fromkeys(rows)) == [(0, 1, 3), (1, 2, 4), (2, 3, 0), (3, 4, 1), (4, 0, 2)]
    assert [row[0] for row in rows] == [node for node in range(5) for _ in range(5)]


@st.composite
def members(draw: st.DrawFn) -> tuple[list[Path], list[Fraction], int, int]:
    """Paths, weights, Q and N."""
    zones = draw(st.integers(1, 5))
    place = st.tuples(st.integers(0, zones - 1), st.integers(0, 2))
    places = draw(st.lists(place, min_size=1, max_size=12))
    paths = sorted((f"z{zone}", f"m{machine}", i) for i, (zone, machine) in enumerate(places))
    weight = st.one_of(st.just(ONE), st.fractions(Fraction(1, 9), 9, max_denominator=9))
    weights = [draw(weight) for _ in paths]
    q = draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 256])))
    return paths, weights, q, draw(st.integers(1, min(5, len(paths))))


def grouped(paths: list[Path], level: int, among: list[int] | None = None) -> list[list[int]]:
    """Members (all, or some) by zone, by zone and machine, …"""
    these = range(len(paths)) if among is None else among
    return [list(group) for _, group in groupby(these, key=lambda m: paths[m][:level])]


@given(members())
@costly
def test_shares_are_level(drawn: tuple[list[Path], list[Fraction], int, int]) -> None:
    """In a group, whoever has less for its weight than another is full, or the other is held up.

    Full is a whole copy of every partition for each zone (machine, node) there is; held up is a
    part that is needed so that the whole does not crowd elsewhere.
    """
    paths, weights, q, n = drawn
    found = shares(paths, weights, q, n)
    assert sum(found) == n * q
    for level, family in [(1 + i, f) for i in range(3) for f in grouped(paths, i)]:
        groups = grouped(paths, level, family)
        parts = [sum(found[m] for m in group) for group in groups]
        heavy = [sum(weights[m] for m in group) for group in groups]
        stops = [
            {0} | {q * len({paths[m][:depth] for m in group}) for depth in range(level, 4)}
            for group in groups
        ]
        for (less, weight, stop), (more, other, other_stop) in product(
            zip(parts, heavy, stops, strict=True), repeat=2
        ):
            assert less / weight >= more / other or less in stop or more in other_stop


@given(members())
@costly
def test_a_layout_is_balanced_and_spread_as_far_as_can_be(
    drawn: tuple[list[Path], list[Fraction], int, int],
) -> None:
    paths, weights, q, n = drawn
    rows = lay_out(paths, weights, q, n)
    due = shares(paths, weights, q, n)
    held = Counter(member for row in rows for member in row)
    assert len(rows) == q
    assert all(abs(held[member] - share) < 1 for member, share in enumerate(due))
    most = [min(n, len({path[:depth] for path in paths})) for depth in (1, 2, 3)]
    for row in rows:
        assert [len({paths[m][:depth] for m in row}) for depth in (1, 2, 3)] == most


@given(members())
@costly
def test_a_layout_has_few_routes(drawn: tuple[list[Path], list[Fraction], int, int]) -> None:
    paths, weights, q, n = drawn
    rows = lay_out(paths, weights, q, n)
    assert len({frozenset(row) for row in rows}) <= len(paths)
    # A route differs from another of the same owners in who is first, and is one stretch.
    assert len(set(rows)) == len({(row[0], frozenset(row)) for row in rows})
    assert len(list(groupby(rows))) == len(set(rows))


arcs = st.lists(
    st.tuples(st.integers(1, 3), st.sets(st.integers(0, 3), min_size=1, max_size=3).map(tuple)),
    min_size=1,
    max_size=4,
)


@given(arcs, st.lists(st.integers(-4, 8).map(lambda n: Fraction(n, 2)), min_size=4, max_size=4))
def test_dealing_is_as_good_as_the_best_of_all_deals(
    given_arcs: list[tuple[int, tuple[int, ...]]], due: list[Fraction]
) -> None:
    """The dumb twin tries every deal there is."""

    def cost(deals: tuple[tuple[int, ...], ...]) -> Fraction:
        got = Counter(member for takers in deals for member in takers)
        return sum(((got[m] - share) ** 2 for m, share in enumerate(due)), Fraction(0))

    ways = [combinations_with_replacement(who, units) for units, who in given_arcs]
    best = min(cost(deals) for deals in product(*ways))
    dealt = deal(given_arcs, due)
    for (units, who), takers in zip(given_arcs, dealt, strict=True):
        assert sum(takers.values()) == units
        assert set(takers) <= set(who)
        assert all(n > 0 for n in takers.values())
    assert cost(tuple(tuple(Counter(takers).elements()) for takers in dealt)) == best
