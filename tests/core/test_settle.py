"""Layouts in use, fitted to other members: what moves, and that nothing else does."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_ray.core.claim import Path, Row, lay_out
from dynamo_ray.core.settle import HOLE, settle

ONE = Fraction(1)


def nodes_in(zones: str) -> list[Path]:
    return [(zone, "", i) for i, zone in enumerate(sorted(zones))]


def held(rows: list[Row]) -> list[int]:
    return [n for _, n in sorted(Counter(member for row in rows for member in row).items())]


def changed(before: list[Row], after: list[Row]) -> int:
    slots = zip(sum(before, ()), sum(after, ()), strict=True)
    return sum(old != new for old, new in slots)


def test_a_hole_goes_to_who_has_least() -> None:
    rows = [(0, 1), (1, 2), (HOLE, 0), (1, 2)]
    assert settle(rows, nodes_in("aaa"), [ONE] * 3)[2] == (2, 0)


def test_a_hole_goes_to_a_zone_without_a_copy() -> None:
    rows = [(0, HOLE), (1, 2), (2, 1), (1, 2)]
    assert settle(rows, nodes_in("aab"), [ONE] * 3)[0] == (0, 2)


def test_owners_keep_their_copies_numbers() -> None:
    before = [(0, 1, 2), (2, 0, 1), (1, HOLE, 2)]
    after = settle(before, nodes_in("aaa"), [ONE] * 3)
    assert after == [(0, 1, 2), (2, 0, 1), (1, 0, 2)]


def test_a_newcomer_is_not_first_in_all_it_gets() -> None:
    before = lay_out(nodes_in("aaaaa"), [ONE] * 5, 90, 3)
    after = settle(before, nodes_in("aaaaaa"), [ONE] * 6)
    got = [Counter(row[copy] for row in after)[5] for copy in range(3)]
    assert sum(got) == 45
    assert max(got) - min(got) <= 2


def test_what_no_single_move_can_balance_a_chain_does() -> None:
    """A node doubles its weight and should be in all partitions. Those that it is not in are owned
    by nodes that have no more than their share: those that have more must give to these first.
    """
    paths = nodes_in("aaaaa")
    before = lay_out(paths, [ONE] * 5, 64, 3)
    after = settle(before, paths, [ONE, ONE, 2 * ONE, ONE, ONE])
    assert all(2 in row for row in after)
    assert held(after) == [32, 32, 64, 32, 32]


def test_a_chain_is_used_where_giver_and_taker_share_all_partitions() -> None:
    """0 has one too many, 3 one too few, and 3 is wherever 0 is: 0 gives to 1 or 2, that to 3."""
    before = [(0, 3), (0, 3), (0, 3), (1, 2), (1, 2), (1, 2)]
    weights = [Fraction(2), Fraction(3), Fraction(3), Fraction(4)]
    after = settle(before, nodes_in("aaaa"), weights)
    assert held(after) == [2, 3, 3, 4]
    assert changed(before, after) == 2


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Path], list[Fraction]]:
    paths = nodes_in(draw(st.text("abcd", min_size=3, max_size=10)))
    weights = st.lists(st.sampled_from([1, 2, 3]), min_size=len(paths), max_size=len(paths))
    return paths, [Fraction(weight) for weight in draw(weights)]


@given(clusters(), st.integers(1, 40), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_what_is_balanced_stays(cluster: tuple[list[Path], list[Fraction]], q: int, n: int) -> None:
    rows = lay_out(*cluster, q, n)
    assert settle(rows, *cluster) == rows


@given(clusters(), st.lists(st.permutations(range(3)), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_settling_twice_is_settling_once(
    cluster: tuple[list[Path], list[Fraction]], rows: list[list[int]]
) -> None:
    once = settle([tuple(row) for row in rows], *cluster)
    assert settle(once, *cluster) == once
