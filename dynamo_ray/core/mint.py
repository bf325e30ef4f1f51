"""A put or a delete at the node that mints it: one new dot, and what it replaces (Dynamo §4.5).

Three manners (DESIGN rule 4). With a context, a put replaces exactly what its reader saw. Without
one it replaces what the minting node holds, like any key-value store. With the empty context
(`CONCURRENT`) it replaces nothing and adds a version beside all others.

The answer's context is the context used plus the new dot, never dots of versions that were neither
read nor replaced (rule 5): the next put with it can delete nothing unseen.

Laws: the new clock covers the old one, the context and the new dot; every other version that is
left was not covered by the context; the fast path gives what the general path gives.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from dynamo_ray.core.clock import EMPTY, Dot, join
from dynamo_ray.core.version import (
    CLOCK_HEAD,
    EMPTY_CLOCK,
    SIMPLE_HEAD,
    VERSION,
    State,
    Version,
    clock_of,
    decode,
    decode_clock,
    encode,
    encode_clock,
    is_simple,
)

PUT_ID_BYTES = 16
CONCURRENT = EMPTY_CLOCK


class Body(NamedTuple):
    """What a version will hold beside its dot; the fields are those of `Version`."""

    kind: int
    wall_ms: int
    expiry_ms: int
    put_id: bytes
    payload: bytes


class Minted(NamedTuple):
    """The key's whole state after the mint, and the clock that the writer may use next."""

    state: bytes
    context: bytes


def operation_id(
    put_id: bytes, kind: int, payload: bytes, context: bytes | None, ttl_ms: int
) -> bytes:
    """The put id as it is stored: the client's id bound to the kind, value, context and lifetime.

    So a node honours an id only for the same operation (rule 7): the same id with another value is
    another operation.
    """
    bound = b"%b%d.%d.%d." % (put_id, kind, ttl_ms, -1 if context is None else len(context))
    return blake2b(bound + (context or b"") + payload, digest_size=PUT_ID_BYTES).digest()


def mint(state: bytes | None, dot: Dot, context: bytes | None, body: Body) -> Minted:
    """The key's state after the event `dot` with `body`; `state` is what the node holds (or None).

    `context` is a clock's canonical bytes, or None to replace what the node holds. Raises
    MalformedStateError if the bytes are no state or no clock.
    """
    if state is None and context is None:
        return _next(dot, body)
    if (
        state is not None
        and is_simple(state)
        and state[13:43] == dot.writer
        and (context is None or context[13:] == state[13:51])
    ):
        return _next(dot, body)
    return _general(state, dot, context, body)


def _next(dot: Dot, body: Body) -> Minted:
    """The event replaces all there is, and all there is has the same writer: a simple state."""
    counter = dot.counter.to_bytes(8, "big")
    seen = dot.writer + counter
    kind, wall_ms, expiry_ms, put_id, payload = body
    version = VERSION.pack(0, dot.counter, kind, wall_ms, expiry_ms, put_id, len(payload))
    return Minted(SIMPLE_HEAD + seen + version + payload, CLOCK_HEAD + seen)


def _general(state: bytes | None, dot: Dot, context: bytes | None, body: Body) -> Minted:
    held = decode(state) if state is not None else State()
    used = held.clock if context is None else decode_clock(context)
    kept = [version for version in held.versions if not used.covers(version.dot)]
    versions = tuple(sorted([*kept, Version(dot, *body)]))
    after = State(join(held.clock, used).with_dot(dot), versions)
    return Minted(encode(after), encode_clock(used.with_dot(dot)))


def again(state: bytes | None, dot: Dot, context: bytes | None) -> bytes:
    """The answer's context for a retry whose first copy was minted as `dot` (rule 7).

    Without a context the first copy replaced what its node held, which is not known any more; the
    dot alone is always sound, because a writer can only replace less with it.
    """
    used = EMPTY if context is None else decode_clock(context)
    if state is not None and context is None:
        held = decode(state)
        if [version.dot for version in held.versions] == [dot]:
            return clock_of(state)
    return encode_clock(used.with_dot(dot))


def own_dot(state: bytes | None, node_and_incarnation: bytes) -> Dot | None:
    """The last dot that this incarnation of the node minted in `state`, in its newest life."""
    if state is None or node_and_incarnation not in state:
        return None
    if is_simple(state):
        writer = state[13:43]
        is_own = writer.startswith(node_and_incarnation)
        return Dot(writer, int.from_bytes(state[43:51], "big")) if is_own else None
    vector = decode(state).clock.vector
    own = [writer for writer in vector if writer.startswith(node_and_incarnation)]
    return Dot(max(own), vector[max(own)]) if own else None
