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

`settle` is the other half: it fits a layout in use to other members, and moves little.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from math import floor

Path = tuple[str, str, int]  # zone, machine, node
Row = tuple[int, ...]  # the owners of one partition, first the one that mints
HOLE = -1  # stands in a row where a slot has no owner


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


def settle(rows: Sequence[Row], paths: Sequence[Path], weights: Sequence[Fraction]) -> list[Row]:
    """The layout with its holes filled and its excesses moved to whoever has too little.

    A slot with an owner moves only if that adds a zone or a machine to the partition, or takes
    from an owner above its share and gives to one below. Balanced stays as it is.
    """
    layout = _Layout(rows, paths, weights)
    for copy in range(len(rows[0])):
        layout.fill(copy)
    layout.spread()
    excess, at = layout.excess, layout.excess_at
    # First to those that lack a whole slot, of every copy alike while that goes: a newcomer
    # must not become the first owner of all it gets.
    for wanted in (
        lambda giver, taker, copy: excess[taker] <= -1 and at[copy][giver] > 0 > at[copy][taker],
        lambda giver, taker, copy: excess[taker] <= -1,
        lambda giver, taker, copy: excess[giver] >= 1,
    ):
        while layout.relieve(wanted):
            pass
    return [tuple(row) for row in layout.rows]


class _Layout:
    """Rows that change, and how far each member is above its share, in all and per copy."""

    def __init__(
        self, rows: Sequence[Row], paths: Sequence[Path], weights: Sequence[Fraction]
    ) -> None:
        self.rows = [list(row) for row in rows]
        self.copies = range(len(rows[0]))
        self.paths = paths
        due = shares(paths, weights, len(rows), len(self.copies))
        self.excess = [-share for share in due]
        self.excess_at = [[-share / len(self.copies) for share in due] for _ in self.copies]
        for row in rows:
            for copy, member in enumerate(row):
                self._count(member, copy, +1)

    def fill(self, copy: int) -> None:
        """Give the holes of one copy to members, equal rows to the same ones where possible."""
        holes: dict[Row, list[list[int]]] = {}
        for row in self.rows:
            if row[copy] == HOLE:
                holes.setdefault(tuple(row), []).append(row)
        arcs = [(len(same), self._least_crowded(row, copy)) for row, same in holes.items()]
        dealt = deal(arcs, [-excess for excess in self.excess])
        for same, takers in zip(holes.values(), dealt, strict=True):
            for taker, units in takers.items():
                for _ in range(units):
                    self._move(same.pop(), copy, taker)

    def spread(self) -> None:
        """Move copies to zones and machines that the partition is not in yet."""
        for row in self.rows:
            while True:
                crowds = [
                    (self._crowd(row, c, row[c]), self.excess[row[c]], c) for c in self.copies
                ]
                crowd, _, copy = max(crowds)
                free = self._least_crowded(row, copy)
                if crowd == 0 or not free or self._crowd(row, copy, free[0]) >= crowd:
                    break
                self._move(row, copy, min(free, key=lambda m: (self.excess[m], m)))

    def relieve(self, wanted: Callable[[int, int, int], bool]) -> bool:
        """Move what is wanted (giver, taker, copy) from above to below the share; any moved?"""
        moved = False
        for copy in self.copies:
            for row in self.rows:
                if self.excess[giver := row[copy]] > 0:
                    crowd = self._crowd(row, copy, giver)
                    for taker in self._takers(giver):
                        if taker not in row and wanted(giver, taker, copy):
                            if self._crowd(row, copy, taker) <= crowd:
                                self._move(row, copy, taker)
                                moved = True
                                break
        return moved

    def _takers(self, giver: int) -> list[int]:
        most = min(self.excess[giver] - 1, Fraction(0))
        able = [(lack, member) for member, lack in enumerate(self.excess) if lack < most]
        return [member for _, member in sorted(able)]

    def _move(self, row: list[int], copy: int, taker: int) -> None:
        self._count(row[copy], copy, -1)
        self._count(taker, copy, +1)
        row[copy] = taker

    def _count(self, member: int, copy: int, change: int) -> None:
        if member != HOLE:
            self.excess[member] += change
            self.excess_at[copy][member] += change

    def _least_crowded(self, row: Sequence[int], copy: int) -> Row:
        """Those without a copy of the partition that would add most to its spread."""
        free = [member for member in range(len(self.paths)) if member not in row]
        crowds = [self._crowd(row, copy, member) for member in free]
        return tuple(m for m, crowd in zip(free, crowds, strict=True) if crowd == min(crowds))

    def _crowd(self, row: Sequence[int], copy: int, member: int) -> int:
        """2 if another copy is on the member's machine, 1 if one is in its zone, else 0."""
        others = [self.paths[m] for c, m in enumerate(row) if c != copy and m != HOLE]
        zone, machine, _ = self.paths[member]
        if any(other[:2] == (zone, machine) for other in others):
            return 2
        return int(any(other[0] == zone for other in others))
