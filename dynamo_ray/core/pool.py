"""The coordinator pool: who belongs to it, who has left it, and whom a client asks first (§6.4).

A pool of N is named c1 to cN, so that a command repeated, or given twice at once, means the same.
A coordinator leaves with a *last word*: its fact once more, later and without a host. Like any fact
it is merged by maximum, spread by gossip and kept on disk (DESIGN rule 15), so nobody goes on
looking for who has left, and a view that has not heard of it yet does not bring it back. A
coordinator contradicts the last word of an earlier run of its name, so the later run counts
whatever the clocks of two machines show; one that hears its own, said for it because it did not
answer, obeys.

    c3 starts ─ fact(host) ─► serves ─ last word ─► left ─ starts again: a later fact ─► serves
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from dynamo_ray.core.membership import Fact, View
from dynamo_ray.core.values import value

MOST = 64
NOWHERE = ""
LEAVING = "leaving"
TIME_BYTES, CHANCE_BYTES = 6, 8


class PoolError(ValueError):
    """A pool cannot be as large as that."""


@value
class Scaling:
    """What makes a pool as large as it should be: whom to start, and whom to end."""

    wanted: tuple[str, ...]
    starts: tuple[str, ...]
    ends: tuple[str, ...]


def pool_of(count: int) -> tuple[str, ...]:
    """The names of a pool of so many. Raises PoolError."""
    if type(count) is not int or not 1 <= count <= MOST:
        raise PoolError(
            f"a cluster has 1 to {MOST} coordinators, not {count}: clients outside Ray and the"
            " command line need one, also where others coordinate for themselves"
        )
    return tuple(f"c{i + 1}" for i in range(count))


def scaling(count: int, present: Mapping[str, str]) -> Scaling:
    """From those that Ray has, each with its state, to a pool of `count`. Raises PoolError.

    One that is leaving (a command that was broken off) is ended, and started anew if it is wanted.
    """
    wanted = pool_of(count)
    staying = {name for name, state in present.items() if name in wanted and state != LEAVING}
    starts = tuple(name for name in wanted if name not in staying)
    return Scaling(wanted, starts, tuple(sorted(present.keys() - staying, key=_by_number)))


def _by_number(name: str) -> tuple[int, str]:
    return len(name), name


def last_word(fact: Fact, wall_ms: int) -> Fact:
    """That the coordinator has left: later than its fact, earlier than one of a run begun after."""
    incarnation = _later(fact.incarnation, wall_ms, bytes(CHANCE_BYTES))
    return replace(fact, incarnation=incarnation, host=NOWHERE)


def last_word_on(name: str, view: View) -> Fact | None:
    """The last word of the coordinator of that name, if it has left."""
    return next((fact for fact in view.coordinators() if fact.name == name and _left(fact)), None)


def contradiction(fact: Fact, word: Fact, wall_ms: int, chance: bytes) -> Fact:
    """A coordinator's fact, said again later than the last word of an earlier run of its name."""
    return replace(fact, incarnation=_later(word.incarnation, wall_ms, chance))


def last_words(view: View, staying: Collection[str], wall_ms: int) -> View:
    """The view in which all coordinators but those staying have left."""
    going = (fact for fact in serving(view) if fact.name not in staying)
    return view.with_facts([last_word(fact, wall_ms) for fact in going])


def serving(view: View) -> list[Fact]:
    """The coordinators that have not left, in the order of their names."""
    return [fact for fact in view.coordinators() if not _left(fact)]


def asking_order(outstanding: Sequence[int], turn: int) -> list[int]:
    """In which order to ask coordinators: first the one of two with less outstanding.

    `outstanding` is the work that each has from us. `turn` rises by one with each request: then all
    pairs come up equally often, and who has nothing outstanding takes turns. Two are compared and
    not all, as clients that all saw the same one idle would all go there.
    """
    count = len(outstanding)
    if count < 2:
        return list(range(count))
    one = turn % count
    other = (one + 1 + turn // count % (count - 1)) % count
    if outstanding[other] < outstanding[one]:
        one, other = other, one
    turned: Iterable[int] = (i % count for i in range(turn, turn + count)) if count > 2 else ()
    return [one, other, *(i for i in turned if i not in (one, other))]


def _left(fact: Fact) -> bool:
    return fact.host == NOWHERE


def _later(incarnation: bytes, wall_ms: int, chance: bytes) -> bytes:
    """By the clock, and later than `incarnation` whatever the clock shows."""
    known_ms = int.from_bytes(incarnation[:TIME_BYTES], "big")
    fresh = wall_ms.to_bytes(TIME_BYTES, "big") + chance
    return fresh if fresh > incarnation else (known_ms + 1).to_bytes(TIME_BYTES, "big") + chance
