"""How what one member knows of the cluster comes to all: by rumour and by digest (Dynamo §4.8.1).

    something was learnt ─► News ─► a few drawn by chance: what is new to them they pass on
    once in a while, and where two disagree ─► Digests ─► Known ─► News

A view is cut into buckets, and a digest stands for all that is known in one. Who is shown another
member's digests answers with what it knows in the buckets that differ, and is told what it lacks of
them: so two that know the same exchange half a kilobyte, two that differ in one slot a few rows
more. Rumours are quick, digests are sure: nothing hangs on one message (DESIGN rule 11). Whom to
tell is drawn by the shell, for a machine draws no chance.

Laws: a view merged with what it lacks of another is what the two know together; digests of equal
views are equal, whatever the order in which they were learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import Any

from dynamo_ray.core.membership import Fact, View, merge_views
from dynamo_ray.core.values import value

BUCKETS = 64
WIDTH = 8
FAN_OUT = 4
"""To how many a member passes on what is new to it."""
_PARTS = tuple(part.name for part in fields(View))


@value
class News:
    """This became known; whoever hears it answers that it has."""

    view: View


@value
class Digests:
    """What I know, a digest for each bucket: what do you know in those where yours differs?"""

    digests: bytes


@value
class Known:
    """All that is known in these buckets, the numbers of which are given as bytes."""

    buckets: bytes
    view: View


def lacked(knows: View, other: View) -> View:
    """What `other` holds and `knows` does not: what the one would learn by the other's view."""
    if knows is other:
        return View()
    return View(*(_lacked(getattr(knows, part), getattr(other, part)) for part in _PARTS))


class Gossip:
    """The machine of one member that spreads what it knows."""

    def __init__(self, view: View) -> None:
        self._view = View()
        self._digests = [0] * BUCKETS
        self._news = View()
        self.on_view(view)
        self._news = View()  # what it begins with others know, or get to know by digest

    @property
    def digests(self) -> Digests:
        """What is to be shown to another member."""
        return Digests(b"".join(one.to_bytes(WIDTH, "big") for one in self._digests))

    def on_view(self, view: View) -> None:
        """This is known now, of which the first part was known before."""
        came, went = lacked(self._view, view), lacked(view, self._view)
        for bucket, digest in (*_rows(came), *_rows(went)):
            self._digests[bucket] ^= digest
        self._view = view
        self._news = merge_views(self._news, came)

    def take_news(self) -> News | None:
        """What became known since it was last asked for: to be told to `FAN_OUT` others."""
        news, self._news = self._news, View()
        return News(news) if news != View() else None

    def on_digests(self, shown: Digests) -> Known:
        """Another member shows its digests."""
        mine, theirs = self.digests.digests, shown.digests
        places = range(0, BUCKETS * WIDTH, WIDTH)
        differ = [at // WIDTH for at in places if mine[at : at + WIDTH] != theirs[at : at + WIDTH]]
        return Known(bytes(differ), self._within(differ))

    def on_known(self, known: Known) -> News | None:
        """Another member answered, and that is learnt by now: what it lacks of the same buckets."""
        lack = lacked(known.view, self._within(known.buckets))
        return News(lack) if lack != View() else None

    def _within(self, buckets: Iterable[int]) -> View:
        """What is known in these buckets."""
        wanted = frozenset(buckets)
        if not wanted:
            return View()
        parts: list[dict[Any, Any]] = []
        for name in _PARTS:
            of = getattr(self._view, name)
            parts.append({key: one for key, one in of.items() if _bucket(key) in wanted})
        return View(*parts)


def _lacked(knows: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    if knows is other:
        return {}
    return {key: one for key, one in other.items() if knows.get(key) != one}


def _rows(view: View) -> Iterator[tuple[int, int]]:
    """Of each thing that is known its bucket and its digest."""
    for name in _PARTS:
        for key, one in getattr(view, name).items():
            row = one.to_row() if isinstance(one, Fact) else one
            text = repr((name, key, row)).encode()
            yield _bucket(key), int.from_bytes(blake2b(text, digest_size=WIDTH).digest(), "big")


def _bucket(key: Any) -> int:
    """A slot and the wish for it share one, so that what belongs together is told together."""
    if isinstance(key, int):
        return key % BUCKETS
    return blake2b(repr(key).encode(), digest_size=1).digest()[0] % BUCKETS
