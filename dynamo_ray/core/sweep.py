"""Reading a whole partition from all its nodes: pages merged by key, never more than a page each.

    stand-ins ──page──┐ first
    owners    ──page──┴─ then ─► Rows, up to where every page reaches ─► the next window ─► Swept
                      └─ refused: other owners ─► Learn ─► this window again, under today's ring

Owners hold a partition's keys, and stand-ins keep some for them. A stand-in forgets a key once the
owner holds it, so a window is read from the stand-ins before it is read from the owners: a key that
goes home meanwhile is met at one of them. What was read of a stand-in may wait for later windows;
what was read of an owner may not.

A node that gives the partition away forgets it once the receiver is its owner, and holds all of it
until then (rule 17). So owners are asked under the epoch of whom this machine takes for the owners,
and who knows others refuses: what was read of an owner, an owner gave. Then the window begins again
with the nodes of today; what was read before it stays. An owner that is behind is waited for
(core/following.py), and after that it counts as missing.

Promise: `Rows` hold every write that was acknowledged before the sweep began by more nodes than are
`missing` at its end (a stand-in and the owner that it stands in for count as one; so do two nodes
that had a slot one after the other). Each state is a merge of what nodes held; there is no snapshot
across keys.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from dynamo_ray.core.following import Following
from dynamo_ray.core.merge import merge
from dynamo_ray.core.values import value


@value
class Page:
    """A node's keys after the key that was asked for, sorted, with their states.

    `last`: the node holds nothing after them. `complete`: it can prove that it still has all that
    it acknowledged of the partition (rule 9).
    """

    keys: Sequence[bytes]
    states: Sequence[bytes]
    last: bool
    complete: bool = True


@value
class Parted:
    """Instead of a page: the node knows other owners of the partition than it was asked under."""


@value
class Ask:
    """Effect: ask a node for its next page after a key; an owner under an epoch (rule 16)."""

    node: bytes
    after: bytes
    epoch: bytes | None = None


@value
class Learn:
    """Effect: after so long learn what these nodes know of the ring, then say `on_ring`."""

    nodes: Sequence[bytes]
    after_s: float


@value
class Rows:
    """Effect: keys of the partition, sorted, each once, with the merge of what nodes hold."""

    keys: Sequence[bytes]
    states: Sequence[bytes]


@value
class Swept:
    """Effect: that was all. `missing` nodes did not answer, or could not prove to be complete."""

    missing: frozenset[bytes]


Effect = Ask | Learn | Rows | Swept


class Sweep:
    """The machine of one partition. All that it asks at once is answered at once: `on_pages`.

    `epoch` is that of the owners.
    """

    def __init__(
        self, stand_ins: Sequence[bytes], owners: Sequence[bytes], epoch: bytes = b""
    ) -> None:
        self._following = Following()
        self._after = b""
        self._missing: set[bytes] = set()
        self._place(stand_ins, owners, epoch)

    def start(self) -> list[Effect]:
        """Begin a window: ask the stand-ins of whom nothing is left over."""
        self._at_owners = False
        return self._ask(self._stand_ins) or self._ask_owners()

    def on_pages(self, pages: Mapping[bytes, Page | Parted | None]) -> list[Effect]:
        """The answers to all that was asked; None of a node that gives none."""
        parted = [node for node, page in pages.items() if isinstance(page, Parted)]
        for node, page in pages.items():
            if page is None:
                self._silent.add(node)
            elif isinstance(page, Page):
                self._pages[node] = page
                if not page.complete:
                    self._unsure.add(node)
        if parted:
            pause_s = self._following.pause_s(self._epoch)
            if pause_s is not None:
                return [Learn(parted, pause_s)]
            self._silent.update(parted)
        return self._end_window() if self._at_owners else self._ask_owners()

    def on_ring(
        self, stand_ins: Sequence[bytes], owners: Sequence[bytes], epoch: bytes
    ) -> list[Effect]:
        """What is known after a Learn: the window again, or the same question if it is the same."""
        if (list(stand_ins), list(owners)) == (self._stand_ins, self._owners):
            return self._ask_owners() if self._at_owners else self.start()
        self._place(stand_ins, owners, epoch)
        return self.start()

    def _place(self, stand_ins: Sequence[bytes], owners: Sequence[bytes], epoch: bytes) -> None:
        """These are the nodes from this window on; nothing that it was given so far counts."""
        self._stand_ins, self._owners, self._epoch = list(stand_ins), list(owners), epoch
        self._at_owners = False
        self._pages: dict[bytes, Page] = {}
        self._silent: set[bytes] = set()
        self._unsure: set[bytes] = set()

    def _ask(self, nodes: Sequence[bytes], epoch: bytes | None = None) -> list[Effect]:
        asked = [node for node in nodes if node not in self._pages and node not in self._silent]
        return [Ask(node, self._after, epoch) for node in asked]

    def _ask_owners(self) -> list[Effect]:
        self._at_owners = True
        return self._ask(self._owners, self._epoch) or self._end_window()

    def _end_window(self) -> list[Effect]:
        """Merge up to where every page reaches, and begin the next window there."""
        self._missing |= self._silent | self._unsure
        end = min((page.keys[-1] for page in self._pages.values() if not page.last), default=None)
        rows = merged(self._pages.values(), end)
        effects: list[Effect] = [rows] if rows.keys else []
        if end is None:
            return [*effects, Swept(frozenset(self._missing))]
        self._after = end
        left = {n: rest_of(self._pages[n], end) for n in self._stand_ins if n in self._pages}
        self._pages = {node: page for node, page in left.items() if page.keys or page.last}
        return effects + self.start()


def merged(pages: Iterable[Page], end: bytes | None) -> Rows:
    """What the pages hold together up to the key `end` (None: all of it)."""
    held: dict[bytes, bytes] = {}
    for page in pages:
        count = len(page.keys) if end is None else bisect_right(page.keys, end)
        for key, state in islice(zip(page.keys, page.states, strict=True), count):
            other = held.setdefault(key, state)
            if other != state:
                held[key] = merge(other, state)
    keys = sorted(held)
    return Rows(keys, [held[key] for key in keys])


def rest_of(page: Page, end: bytes) -> Page:
    """What a page holds behind the key `end`."""
    count = bisect_right(page.keys, end)
    return Page(page.keys[count:], page.states[count:], page.last, page.complete)
