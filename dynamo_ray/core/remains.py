"""What may be let go of one day: a key of which nothing lives, a clock's writers without a version.

A delete and an expired value leave a version behind, and every incarnation of a node that wrote a
key leaves an entry in its clock. Both must stay for as long as an older copy could come back from
anywhere (DESIGN rules 12 and 14); who may know that is the business of core/reap.py. Here is only
what a state says: since when it is dead, of which writers it shows nothing any more, and what it
is without them.

Laws: a state without some writers covers what it covered of all others, and holds the same
versions.
"""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_ray.core.clock import WRITER_BYTES, clock
from dynamo_ray.core.version import (
    EXPIRY_AT,
    KIND_AT,
    NEVER,
    SIMPLE_HEAD,
    WALL_AT,
    Kind,
    State,
    Version,
    decode,
    encode,
)

_VALUE = bytes((Kind.VALUE,))


def is_alive(state: bytes) -> bool:
    """True if one look tells that nothing can be let go of: one writer, one value without expiry.

    Nearly every state is like that, and a sweep looks at all of them.
    """
    return (
        state[KIND_AT:WALL_AT] == _VALUE
        and state[EXPIRY_AT : EXPIRY_AT + 8] == NEVER
        and state.startswith(SIMPLE_HEAD)
    )


def last_change_ms(state: State) -> int:
    """The wall time of the newest version, by its minter's clock."""
    return max((version.wall_ms for version in state.versions), default=0)


def dead_since_ms(state: State) -> int:
    """The wall time from which on no version shows a value; 0 while one may be shown for ever."""
    ends = [_end_ms(version) for version in state.versions]
    return max(ends) if ends and all(ends) else 0


def may_leave(state: State, limit_ms: int) -> bool:
    """True if nothing of it has lived, or none of it has changed, since `limit_ms`.

    Then it may leave as a whole, or its idle writers may.
    """
    if since_ms := dead_since_ms(state):
        return since_ms <= limit_ms
    return bool(idle_writers(state)) and last_change_ms(state) <= limit_ms


def idle_writers(state: State) -> tuple[bytes, ...]:
    """The clock's writers that have no version here: what they wrote was replaced."""
    used = {version.dot.writer for version in state.versions}
    known = {*state.clock.vector, *(dot.writer for dot in state.clock.beyond)}
    return tuple(sorted(known - used))


def without_writers(state: bytes, writers: Iterable[bytes]) -> bytes:
    """The state with these writers' entries gone from its clock; those of a version stay."""
    held = decode(state)
    gone = set(writers) - {version.dot.writer for version in held.versions}
    vector = {writer: n for writer, n in held.clock.vector.items() if writer not in gone}
    beyond = [dot for dot in held.clock.beyond if dot.writer not in gone]
    return encode(State(clock(vector, beyond), held.versions))


def writers_in(column: bytes) -> list[bytes]:
    """The writer ids that a message names, concatenated."""
    return [column[i : i + WRITER_BYTES] for i in range(0, len(column), WRITER_BYTES)]


def _end_ms(version: Version) -> int:
    return version.wall_ms if version.kind == Kind.TOMBSTONE else version.expiry_ms
