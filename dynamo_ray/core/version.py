"""A key's state: its clock and the versions that are siblings now, with one canonical byte form.

The canonical bytes are what is kept in memory, written to the log, sent between nodes and compared:
two states are equal exactly if their bytes are equal (DESIGN rule 6). All numbers are big-endian.

    head      u8 form = 1 · u32 writers · u32 dots beyond · u32 versions
    writers   writer id (30 bytes) · u64 counter of the vector (0: only dots beyond)   sorted
    beyond    u32 writer's index · u64 counter                                         sorted
    versions  u32 writer's index · u64 counter · u8 kind · u64 wall ms · u64 expiry ms (0: never)
              · put id (16 bytes) · u32 length · payload                       sorted by their dot

A clock by itself (a context) is the same form with no versions. Nearly every state is *simple*: one
writer, one version, and that version is the writer's last event. `is_simple` tells it by two
comparisons, and the fast paths of merge and mint cut such states at the fixed offsets below.

Source: Dynamo §4.4; the layout is our own.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from dynamo_ray.core.clock import EMPTY, Clock, Dot
from dynamo_ray.core.clock import clock as compact
from dynamo_ray.core.values import value

FORM = 1
HEAD = struct.Struct(">BIII")
WRITER = struct.Struct(">30sQ")
BEYOND = struct.Struct(">IQ")
VERSION = struct.Struct(">IQBQQ16sI")

# Of a simple state (any state is long enough): head and writer, counter, its dot's counter, put id.
SIMPLE = struct.Struct(">43sQ4xQ17x16s")

# Of a state with one writer and one version: counter, index, its dot's counter, kind, length.
CANONICAL = struct.Struct(">QIQB32xI")

SIMPLE_HEAD = HEAD.pack(FORM, 1, 0, 1)
CLOCK_HEAD = HEAD.pack(FORM, 1, 0, 0)
EMPTY_CLOCK = HEAD.pack(FORM, 0, 0, 0)
WRITER_AT, COUNTER_AT, INDEX_AT, DOT_COUNTER_AT = 13, 43, 51, 55
KIND_AT, WALL_AT, EXPIRY_AT, PUT_ID_AT, LENGTH_AT, PAYLOAD_AT = 63, 64, 72, 80, 96, 100
NEVER = bytes(8)
HASH_BYTES = 16
HASH_LENGTH = HASH_BYTES.to_bytes(4, "big")


class Kind(IntEnum):
    """What a version's payload is: the value, nothing (a delete), or an expired value's hash."""

    VALUE = 0
    TOMBSTONE = 1
    PURGED = 2


PURGED_KIND = bytes((Kind.PURGED,))

# How long the payload of a kind is; None: any length.
PAYLOADS: dict[int, int | None] = {Kind.VALUE: None, Kind.TOMBSTONE: 0, Kind.PURGED: HASH_BYTES}


class Version(NamedTuple):
    """One sibling. `payload` is the value's bytes, b"", or the expired value's hash, by `kind`.

    `wall_ms` is the minter's wall time and serves resolvers and people only. `expiry_ms` is an
    absolute wall time set by the minter, 0 for never. `put_id` identifies the operation (rule 7).
    """

    dot: Dot
    kind: int
    wall_ms: int
    expiry_ms: int
    put_id: bytes
    payload: bytes


@value
class State:
    """A key's clock and its siblings, sorted by dot; the clock covers every sibling's dot."""

    clock: Clock = EMPTY
    versions: tuple[Version, ...] = ()


class MalformedStateError(ValueError):
    """Bytes that are not the canonical form of any state."""


def is_simple(state: bytes) -> bool:
    """True if the canonical bytes hold one writer and one version, that writer's last event."""
    return state.startswith(SIMPLE_HEAD) and state[43:51] == state[55:63]


def encode(state: State) -> bytes:
    """The canonical bytes of a state."""
    vector, beyond = state.clock.vector, sorted(state.clock.beyond)
    writers = sorted({*vector, *(dot.writer for dot in beyond)})
    index = {writer: i for i, writer in enumerate(writers)}
    parts = [HEAD.pack(FORM, len(writers), len(beyond), len(state.versions))]
    parts += [WRITER.pack(writer, vector.get(writer, 0)) for writer in writers]
    parts += [BEYOND.pack(index[dot.writer], dot.counter) for dot in beyond]
    for dot, kind, wall_ms, expiry_ms, put_id, payload in state.versions:
        parts.append(
            VERSION.pack(
                index[dot.writer], dot.counter, kind, wall_ms, expiry_ms, put_id, len(payload)
            )
        )
        parts.append(payload)
    return b"".join(parts)


def encode_clock(clock: Clock) -> bytes:
    """The canonical bytes of a clock by itself."""
    return encode(State(clock))


def decode(data: bytes) -> State:
    """The state that canonical bytes stand for; raises MalformedStateError for nonsense."""
    try:
        return _decode(data)
    except (struct.error, IndexError) as error:
        raise MalformedStateError(f"a state of {len(data)} bytes is cut short") from error


def decode_strict(data: bytes) -> State:
    """As `decode`, and refuses every byte string that `encode` would not have written."""
    state = decode(data)
    is_compact = compact(state.clock.vector, state.clock.beyond) == state.clock
    if not is_compact or not all(map(_fits, state.versions)) or encode(state) != data:
        raise MalformedStateError(f"a state of {len(data)} bytes is not in canonical form")
    return state


def is_canonical(state: bytes) -> bool:
    """True if `decode_strict` takes it; one look tells that of a simple state."""
    if state.startswith(SIMPLE_HEAD) and len(state) >= PAYLOAD_AT:
        counter, index, dot_counter, kind, length = CANONICAL.unpack_from(state, COUNTER_AT)
        is_whole = length == len(state) - PAYLOAD_AT and kind in PAYLOADS
        fits = is_whole and PAYLOADS[kind] in (None, length)
        return fits and index == 0 and 0 < dot_counter <= counter
    try:
        decode_strict(state)
    except MalformedStateError:
        return False
    return True


def decode_clock(data: bytes) -> Clock:
    """The clock that canonical bytes without versions stand for; raises MalformedStateError."""
    state = decode_strict(data)
    if state.versions:
        raise MalformedStateError("a clock was expected, and a state with versions was found")
    return state.clock


def _fits(version: Version) -> bool:
    """True if the payload is one that the kind allows, and the dot one that can be minted."""
    fits = PAYLOADS[version.kind] in (None, len(version.payload))
    return version.dot.counter > 0 and fits


def _decode(data: bytes) -> State:
    form, n_writers, n_beyond, n_versions = HEAD.unpack_from(data)
    if form != FORM:
        raise MalformedStateError(f"form {form} of a state is not known; this code reads {FORM}")
    end_of_clock = HEAD.size + n_writers * WRITER.size + n_beyond * BEYOND.size
    if end_of_clock + n_versions * VERSION.size > len(data):
        raise MalformedStateError(f"a state declares more than its {len(data)} bytes")
    at = HEAD.size + n_writers * WRITER.size
    table = list(WRITER.iter_unpack(data[HEAD.size : at]))
    beyond = [Dot(table[i][0], n) for i, n in BEYOND.iter_unpack(data[at:end_of_clock])]
    clock = Clock({writer: n for writer, n in table if n}, frozenset(beyond))
    return State(clock, tuple(_versions(data, end_of_clock, n_versions, table, clock)))


def _versions(
    data: bytes, at: int, count: int, table: list[tuple[bytes, int]], clock: Clock
) -> list[Version]:
    versions: list[Version] = []
    for _ in range(count):
        i, counter, kind, wall_ms, expiry_ms, put_id, length = VERSION.unpack_from(data, at)
        at += VERSION.size + length
        payload = data[at - length : at]
        dot = Dot(table[i][0], counter)
        in_order = not versions or versions[-1].dot < dot
        if len(payload) != length or kind > Kind.PURGED or not clock.covers(dot) or not in_order:
            raise MalformedStateError(f"version {dot} of a state cannot be")
        versions.append(Version(dot, kind, wall_ms, expiry_ms, put_id, payload))
    return versions


def clock_of(state: bytes) -> bytes:
    """The canonical bytes of the clock alone, cut out without decoding."""
    if state.startswith(SIMPLE_HEAD):
        return CLOCK_HEAD + state[13:51]
    form, n_writers, n_beyond, _ = HEAD.unpack_from(state)
    end = HEAD.size + n_writers * WRITER.size + n_beyond * BEYOND.size
    return HEAD.pack(form, n_writers, n_beyond, 0) + state[HEAD.size : end]


@lru_cache(maxsize=8)
def _purged(version: Version) -> Version:
    hashed = blake2b(version.payload, digest_size=HASH_BYTES).digest()
    return version._replace(kind=int(Kind.PURGED), payload=hashed)


def purged(version: Version) -> Version:
    """The version with its value replaced by the value's hash (rule 13); others as they are."""
    return _purged(version) if version.kind == Kind.VALUE else version


def is_expired(version: Version, now_ms: int) -> bool:
    """True if the version has an expiry and the wall clock `now_ms` has reached it."""
    return 0 < version.expiry_ms <= now_ms


def never_expires(state: bytes) -> bool:
    """True if one look tells that nothing in the state has an expiry (a fast path)."""
    return state.startswith(SIMPLE_HEAD) and state[72:80] == NEVER


def hide_expired(state: bytes, now_ms: int) -> bytes:
    """The state with every expired value purged: what a reader may see at `now_ms` (rule 13)."""
    if never_expires(state):
        return state
    decoded = decode(state)
    shown = tuple(purged(v) if is_expired(v, now_ms) else v for v in decoded.versions)
    return state if shown == decoded.versions else encode(State(decoded.clock, shown))


def digest(state: bytes) -> bytes:
    """16 bytes that are equal exactly for states that hold the same, purged or not (rule 13)."""
    if is_simple(state):
        return blake2b(_purged_simple(state), digest_size=HASH_BYTES).digest()
    decoded = decode(state)
    body = State(decoded.clock, tuple(purged(version) for version in decoded.versions))
    return blake2b(encode(body), digest_size=HASH_BYTES).digest()


def _purged_simple(state: bytes) -> bytes:
    """A simple state with its value purged, by its fixed offsets: trees hash every state so."""
    if state[KIND_AT] != Kind.VALUE:
        return state
    hashed = blake2b(memoryview(state)[PAYLOAD_AT:], digest_size=HASH_BYTES).digest()
    head = state[:KIND_AT] + PURGED_KIND + state[WALL_AT:LENGTH_AT]
    return head + HASH_LENGTH + hashed


def values(state: State) -> tuple[bytes, ...]:
    """The distinct values of a state in canonical order: equal bytes are shown once (rule 7)."""
    return tuple(dict.fromkeys(v.payload for v in state.versions if v.kind == Kind.VALUE))


def siblings(state: bytes) -> int:
    """How many versions a state has, without decoding it."""
    return int(HEAD.unpack_from(state)[3])


def dot_of(state: bytes, put_id: bytes) -> Dot | None:
    """The dot of the version that carries a stored put id, if one does."""
    return next((v.dot for v in decode(state).versions if v.put_id == put_id), None)


def dot_bytes(dot: Dot) -> bytes:
    """A dot as 38 bytes: the writer id, the counter."""
    return dot.writer + dot.counter.to_bytes(8, "big")
