"""Who gives which slot to whom when members come and go: a layout in use, fitted to others.

What a slot's move costs is a partition's bytes over the network, so few slots move. In this order:

    fill      slots whose owner is gone go to members that lack some
    spread    copies leave a zone or machine that has another copy, if there is one without
    relieve   members above their share give to members below, slot by slot
    shift     where that is stuck, along chains: one gives to a second, which gives to a third

Nobody's copy of a partition changes its number: who is first stays first. On indexes, as in
`core/claim.py`, which says what is due to each. It is work for a plan, not for a request: up to
some tenths of a second where nodes are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from dynamo_ray.core.claim import Path, Row, deal, shares

HOLE = -1  # stands in a row where a slot has no owner
Move = tuple[list[int], int, int]  # row, copy, taker


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
    while layout.shift():
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

    def shift(self) -> bool:
        """Move slots along one chain that leaves its two ends better balanced; was there one?"""
        held: list[list[tuple[list[int], int]]] = [[] for _ in self.paths]
        for row in self.rows:
            for copy, member in enumerate(row):
                held[member].append((row, copy))
        for start in sorted(range(len(held)), key=lambda m: (-self.excess[m], m)):
            chains = self._chains(start, held)
            end = min(chains, key=lambda m: (self.excess[m], m))
            most, least = self.excess[start], self.excess[end]
            if most > 0 > least and (most >= 1 or least <= -1) and most - least > 1:
                for row, copy, taker in chains[end]:
                    self._move(row, copy, taker)
                return True
        return False

    def _chains(
        self, start: int, held: Sequence[Sequence[tuple[list[int], int]]]
    ) -> dict[int, list[Move]]:
        """The members that chains lead to, and the shortest one to each."""
        chains: dict[int, list[Move]] = {start: []}
        queue = [start]
        for giver in queue:
            for row, copy in held[giver]:
                new = [m for m in range(len(held)) if m not in chains and m not in row]
                if new:
                    most = self._crowd(row, copy, giver)
                    for taker in new:
                        if self._crowd(row, copy, taker) <= most:
                            chains[taker] = [*chains[giver], (row, copy, taker)]
                            queue.append(taker)
        return chains

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
