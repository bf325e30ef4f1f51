"""The simulator's checkers on what real clients were told and what real nodes hold in the end.

The simulator sees each mint; here it is worked out. An acknowledged put's dot is what its context
token covers beyond the context that it was given (rule 5: one, or two where a second owner was
asked because the first was late; two writes that were told the same dot are a breach). A put that
was not acknowledged is known by its unique value, wherever a state shows it. A version that nobody
ever saw is no mint then, and cannot be lost either: nobody was told of it.

`APPLY` are the checkers that can be told wrong this way. Not among them: `expired_hidden` and
`nothing_revived` (nothing expires or is reaped in a drill's time).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.context import CLOCK_AT
from dynamo_ray.core.mint import CONCURRENT
from dynamo_ray.core.version import Version
from dynamo_ray.sim import checkers
from dynamo_ray.sim.checkers import Truth, Verdict
from dynamo_ray.sim.history import OK, History, Minted, Write, decode

APPLY = (
    checkers.nothing_lost,
    checkers.nothing_invented,
    checkers.siblings_sound,
    checkers.contexts_sound,
    checkers.unique_dots,
    checkers.copies_equal,
    checkers.reads_see_writes,
    checkers.elements_kept,
    checkers.no_breach,
)


def judged(history: History) -> dict[str, Verdict]:
    """The verdicts by the checkers' names; what is missing in the history is worked out first."""
    work_out_mints(history)
    truth = Truth(history)
    return {one.__name__: Verdict(one.__name__, tuple(one(truth))) for one in APPLY}


def joined(histories: Sequence[History]) -> History:
    """The histories of several processes as one."""
    whole = History()
    for one in histories:
        whole.writes += one.writes
        whole.reads += one.reads
        whole.styles |= one.styles
    return whole


def work_out_mints(history: History) -> None:
    """Fill in `mints`, causes before effects: what a put replaced was seen before it was asked."""
    of_dot: dict[tuple[bytes, Dot], int] = {}
    for write in history.writes:
        for dot in _own_dots(history, write):
            first = of_dot.setdefault((write.key, dot), write.number)
            if first != write.number:
                text = f"writes {first} and {write.number} of {write.key!r} were both told {dot}"
                history.breach("dots", write.ended, text)
    of_value = {(write.key, write.value): write.number for write in history.writes}
    for key, version in _shown(history):
        number = of_value.get((key, version.payload))
        if number is not None:
            of_dot.setdefault((key, version.dot), number)
    writes = {write.number: write for write in history.writes}
    for (key, dot), number in sorted(of_dot.items(), key=lambda one: writes[one[1]].invoked):
        write = writes[number]
        context = write.context[CLOCK_AT:] if write.context else CONCURRENT
        node = dot.writer.hex()
        history.mints.append(Minted(dot, number, key, node, write.invoked, context, None, b""))


def _own_dots(history: History, write: Write) -> list[Dot]:
    """The dots in what an acknowledged write was told: one, or of each of two that minted it."""
    if write.outcome != OK or write.token is None:
        return []
    given = decode(write.context[CLOCK_AT:]).clock if write.context else Clock()
    own = list(_beyond(decode(write.token[CLOCK_AT:]).clock, given))
    if len({dot.writer for dot in own}) != len(own) or not 1 <= len(own) <= 2:
        text = f"write {write.number} was told {len(own)} dots beyond the context it gave"
        history.breach("contexts", write.ended, text)
    return own


def _beyond(clock: Clock, given: Clock) -> Iterator[Dot]:
    """The dots that `clock` covers and `given` does not."""
    for writer, counter in clock.vector.items():
        for one in range(given.vector.get(writer, 0) + 1, counter + 1):
            if not given.covers(Dot(writer, one)):
                yield Dot(writer, one)
    yield from (dot for dot in clock.beyond if not given.covers(dot))


def _shown(history: History) -> Iterable[tuple[bytes, Version]]:
    for read in history.reads:
        if read.state is not None:
            yield from ((read.key, version) for version in decode(read.state).versions)
    for key, copies in history.finals.items():
        for state in copies.values():
            yield from ((key, version) for version in decode(state).versions)
