"""The one merge: what two copies of a key know, together (Dynamo §4.4, syntactic reconciliation).

A version survives if both copies hold it, or if one holds it and the other's clock has not seen it.
At one dot a purged version absorbs the value it was made from (rule 13). Put ids, wall times and
local clocks play no part (rule 6).

Laws: merge is commutative, associative and idempotent on canonical bytes; the result's clock is the
join of both clocks; the fast path for simple states gives what the general path gives.
"""

from __future__ import annotations

from dynamo_ray.core.clock import Clock, Dot, join
from dynamo_ray.core.version import (
    COUNTER_AT,
    DOT_COUNTER_AT,
    PUT_ID_AT,
    SIMPLE_HEAD,
    WRITER_AT,
    State,
    Version,
    decode,
    dot_bytes,
    encode,
)


def merge(a: bytes, b: bytes) -> bytes:
    """The canonical bytes of what two copies of one key know together."""
    if a == b:
        return a
    if (
        a[:COUNTER_AT] == b[:COUNTER_AT]
        and a.startswith(SIMPLE_HEAD)
        and a[43:51] == a[55:63]
        and b[43:51] == b[55:63]
        and a[43:51] != b[43:51]
    ):
        # One writer, one version each: the later event has replaced the earlier one.
        return a if a[43:51] > b[43:51] else b
    return encode(merge_states(decode(a), decode(b)))


def merge_states(a: State, b: State) -> State:
    """What two decoded states know together."""
    left = {version.dot: version for version in a.versions}
    right = {version.dot: version for version in b.versions}
    both = [_absorb(left[dot], right[dot]) for dot in left.keys() & right.keys()]
    kept = both + _unseen(left, right, b.clock) + _unseen(right, left, a.clock)
    return State(join(a.clock, b.clock), tuple(sorted(kept)))


def _unseen(mine: dict[Dot, Version], theirs: dict[Dot, Version], seen: Clock) -> list[Version]:
    return [v for dot, v in mine.items() if dot not in theirs and not seen.covers(v.dot)]


def _absorb(a: Version, b: Version) -> Version:
    """One event in two copies: the purged one, or the greater bytes so that order never matters."""
    return max(a, b)


def replaced(old: bytes, new: bytes | None) -> list[tuple[bytes, bytes]]:
    """The (put id, dot as 38 bytes) of every version that `old` shows and `new` no longer does.

    `new` is a later state of the same key (a mint's result or a merge that had `old` as its input),
    or None for a key that is forgotten.
    """
    if new is None:
        return [(v.put_id, dot_bytes(v.dot)) for v in decode(old).versions]
    if old.startswith(SIMPLE_HEAD) and new.startswith(SIMPLE_HEAD):
        if old[WRITER_AT:43] == new[WRITER_AT:43] and old[55:63] == new[55:63]:
            return []
        dot = old[WRITER_AT:COUNTER_AT] + old[DOT_COUNTER_AT:63]
        return [(old[PUT_ID_AT : PUT_ID_AT + 16], dot)]
    kept = {version.dot for version in decode(new).versions}
    return [(v.put_id, dot_bytes(v.dot)) for v in decode(old).versions if v.dot not in kept]
