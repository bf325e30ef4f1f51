"""Reading a whole partition from all its nodes: pages merged by key, never more than a page each.

    stand-ins ──page──┐ first
    owners    ──page──┴─ then ─► Rows, up to where every page reaches ─► the next window ─► Swept

Owners hold a partition's keys, and stand-ins keep some for them. A stand-in forgets a key once the
owner holds it, so a window is read from the stand-ins before it is read from the owners: a key that
goes home meanwhile is met at one of them. What was read of a stand-in may wait for later windows;
what was read of an owner may not.

Promise: `Rows` hold every write that was acknowledged before the sweep began by more nodes than are
`missing` at its end (a stand-in and the owner that it stands in for count as one). Each state is a
merge of what nodes held; there is no snapshot across keys.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

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
class Ask:
    """Effect: ask a node for its next page after a key."""

    node: bytes
    after: bytes


@value
class Rows:
    """Effect: keys of the partition, sorted, each once, with the merge of what nodes hold."""

    keys: Sequence[bytes]
    states: Sequence[bytes]


@value
class Swept:
    """Effect: that was all. `missing` nodes did not answer, or could not prove to be complete."""

    missing: frozenset[bytes]


Effect = Ask | Rows | Swept


class Sweep:
    """The machine of one partition. All that it asks at once is answered at once: `on_pages`."""

    def __init__(self, stand_ins: Sequence[bytes], owners: Sequence[bytes]) -> None:
        self._stand_ins = list(stand_ins)
        self._owners = list(owners)
        self._after = b""
        self._at_owners = False
        self._pages: dict[bytes, Page] = {}
        self._missing: set[bytes] = set()
        self._silent: set[bytes] = set()

    def start(self) -> list[Effect]:
        """Begin a window: ask the stand-ins of whom nothing is left over."""
        self._at_owners = False
        return self._ask(self._stand_ins) or self._ask_owners()

    def on_pages(self, pages: Mapping[bytes, Page | None]) -> list[Effect]:
        """The answers to all that was asked; None of a node that gives none."""
        for node, page in pages.items():
            if page is None:
                self._silent.add(node)
            else:
                self._pages[node] = page
            if page is None or not page.complete:
                self._missing.add(node)
        return self._end_window() if self._at_owners else self._ask_owners()

    def _ask(self, nodes: Sequence[bytes]) -> list[Effect]:
        asked = [node for node in nodes if node not in self._pages and node not in self._silent]
        return [Ask(node, self._after) for node in asked]

    def _ask_owners(self) -> list[Effect]:
        self._at_owners = True
        return self._ask(self._owners) or self._end_window()

    def _end_window(self) -> list[Effect]:
        """Merge up to where every page reaches, and begin the next window there."""
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
