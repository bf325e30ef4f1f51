"""Who gets which slot: the arithmetic behind the ring, on indexes and plain numbers only.

`lay_out` is systematic sampling. The members stand on a circle of N * Q cells, zone by zone and
machine by machine, each as wide as its share; partition u is owned by the holders of the cells
u, u + Q, u + 2Q, …

    cells       0 ──────────────── Q ──────────────── 2Q ──────────────── 3Q = 0
    members     [  a1  ][  a2  ][a3 ][ b1  ][  b2  ][ b3 ][  c1  ][  c2  ][ c3 ]
    partition       u                  u                   u                 → a1, b1, c1

All that is wanted follows from the widths. Whoever is at most Q wide (every member, and every zone
where there are enough) is hit at most once, so copies are on distinct nodes and zones. Whoever is
at least Q wide is hit at least once, so no zone is left out where there are few. Every member gets
its share, rounded. And owners change only at a member's border, so there are few routes.

Used for a new cluster only; `core/settle.py` fits a layout in use to other members.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from math import floor

Path = tuple[str, str, int]  # zone, machine, node
Row = tuple[int, ...]  # the owners of one partition, first the one that mints


def shares(paths: Sequence[Path], weights: Sequence[Fraction], q: int, n: int) -> list[Fraction]:
    """How many slots are due to each member: by its weight, as far as distinctness allows.

    `paths` are sorted. A group (zone, machine, node) wants at most one copy of each partition.
    Where that leaves copies over, groups take as many as they have machines, then nodes.
    """
    found = [Fraction(0)] * len(paths)

    def fill(members: list[int], total: Fraction, level: int) -> None:
        if level == len(paths[0]):
            found[members[0]] = total
            return
        groups = [list(group) for _, group in groupby(members, lambda m: paths[m][level])]
        lows, highs = [0] * len(groups), [0] * len(groups)
        for depth in range(level + 1, len(paths[0]) + 1):
            lows, highs = highs, [q * len({paths[m][:depth] for m in group}) for group in groups]
            if sum(highs) >= total:
                break
        heavy = [sum((weights[m] for m in group), Fraction(0)) for group in groups]
        for group, part in zip(groups, _levelled(total, heavy, lows, highs), strict=True):
            fill(group, part, level + 1)

    fill(list(range(len(paths))), Fraction(n * q), 0)
    return found


def _levelled(
    total: Fraction, weights: list[Fraction], lows: list[int], highs: list[int]
) -> list[Fraction]:
    """Parts in proportion to the weights, each within its bounds, that sum to the total."""

    def parts(rate: Fraction) -> list[Fraction]:
        bounded = zip(weights, lows, highs, strict=True)
        return [min(max(rate * w, Fraction(low)), Fraction(high)) for w, low, high in bounded]

    rates = sorted({b / w for bs in (lows, highs) for b, w in zip(bs, weights, strict=True)})
    at = bisect_left(rates, total, key=lambda rate: sum(parts(rate), Fraction(0)))
    above = sum(parts(rates[at]), Fraction(0))
    if above == total:
        return parts(rates[at])
    # Between two neighbouring rates no part meets a bound, so the sum is a straight line.
    slope = (above - sum(parts(rates[at - 1]), Fraction(0))) / (rates[at] - rates[at - 1])
    return parts(rates[at] - (above - total) / slope)


def lay_out(paths: Sequence[Path], weights: Sequence[Fraction], q: int, n: int) -> list[Row]:
    """The owners of each partition, from nothing. `paths` are sorted; see the picture above.

    The owners follow each other as on the circle, from the one that mints. A partition can have
    any of its owners first: `deal` chooses so that everybody mints according to its weight.
    """
    arcs = list(_arcs(shares(paths, weights, q, n), q, n))
    due = [weight * q / sum(weights) for weight in weights]
    blocks = []
    for arc, ((_, row), lengths) in enumerate(zip(arcs, deal(arcs, due), strict=True)):
        for first, length in lengths.items():
            at = row.index(first)
            blocks.append((first, arc, row[at:] + row[:at], length))
    return [row for _, _, row, length in sorted(blocks) for _ in range(length)]


def _arcs(widths: list[Fraction], q: int, n: int) -> Iterator[tuple[int, Row]]:
    """Stretches of partitions that have the same owners: (length, owners in the circle's order)."""
    ends, end = [], Fraction(0)
    for width in widths:
        end += width
        ends.append(floor(end))
    for start, stop in pairwise(sorted({end % q for end in ends} | {0, q})):
        cells = (start + copy * q for copy in range(n))
        yield stop - start, tuple(bisect_left(ends, cell + 1) for cell in cells)


def deal(arcs: Sequence[tuple[int, Row]], due: Sequence[Fraction]) -> list[dict[int, int]]:
    """Deal the units of each arc to its candidates, so that each comes near to what is due to it.

    Units go along chains (a member gives up a unit of an arc to another of its candidates, that one
    of another arc, …) while a chain leads to an excess that is smaller by more than 1. Then nobody
    is off by 1 or more, if what is due can be dealt at all. For suppose a member has 1 too many:
    whoever a chain from it leads to has at least what is due, and none of their units can go to
    anybody else, so in any other deal too they would have more than is due to them together.
    """
    dealt: list[dict[int, int]] = []
    excess = [-share for share in due]
    for units, candidates in arcs:
        taker = min(candidates, key=lambda member: (excess[member], member))
        dealt.append({taker: units})
        excess[taker] += units
    while chain := _chain(arcs, dealt, excess):
        start, end = chain[0][0], chain[-1][2]
        half = max(1, floor((excess[start] - excess[end]) / 2))
        units = min(half, *(dealt[arc][giver] for giver, arc, _ in chain))
        for giver, arc, taker in chain:
            dealt[arc][giver] -= units
            dealt[arc][taker] = dealt[arc].get(taker, 0) + units
        excess[start] -= units
        excess[end] += units
    return [{member: units for member, units in each.items() if units} for each in dealt]


def _chain(
    arcs: Sequence[tuple[int, Row]], dealt: list[dict[int, int]], excess: list[Fraction]
) -> list[tuple[int, int, int]]:
    """Steps (giver, arc, taker) to a member with an excess smaller by more than 1; [] if none."""
    least = min(excess)
    for start in sorted(range(len(excess)), key=lambda member: (-excess[member], member)):
        if excess[start] - least <= 1:
            break
        steps: dict[int, tuple[int, int, int]] = {}
        queue = [start]
        for giver in queue:
            for arc, (_, candidates) in enumerate(arcs):
                if dealt[arc].get(giver):
                    new = [m for m in candidates if m != start and m not in steps]
                    steps.update((taker, (giver, arc, taker)) for taker in new)
                    queue += new
        end = min(queue, key=lambda member: (excess[member], member))
        if excess[start] - excess[end] > 1:
            chain = [steps[end]]
            while chain[0][0] != start:
                chain.insert(0, steps[chain[0][0]])
            return chain
    return []
