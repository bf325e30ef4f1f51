"""Records as Arrow: the schema, and one record batch message per log frame.

    partition  uint32            where the key lies on the ring
    key        binary
    state      binary, nullable  the key's canonical state; null: the node forgot the key
    hints      binary, nullable  the 8-byte ids of the nodes that the copy is kept for; null: none

A message has exactly one form: the bytes that Arrow itself gives for such a batch, uncompressed.
They are packed here rather than by pyarrow, and compared when they are read: so what is on disk
does not hang on a library's version, and no length from the disk ever reaches a parser. A message
is a head of 336 bytes that follows from six numbers, then the columns' buffers, each padded to 8.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from dynamo_ray.core.ring import NODE_ID_BYTES
from dynamo_ray.storage.errors import MalformedBatchError, RecordTooLargeError

FORMAT = 1
BINARY = pa.binary()
SCHEMA = pa.schema(
    [
        pa.field("partition", pa.uint32(), nullable=False),
        pa.field("key", BINARY, nullable=False),
        pa.field("state", BINARY),
        pa.field("hints", BINARY),
    ],
    metadata={"dynamo_ray.format": str(FORMAT)},
)
# Arrow's binary columns have 32-bit offsets; half of what they reach leaves room for the rest.
COLUMN_BYTES_MAX = 1 << 30
# From so many rows on pyarrow lays a column out, or reads it, faster than we do; below, its fixed
# cost of some microseconds loses.
MANY = 48
MANY_TO_READ = 8
PADDING = [bytes(-n % 8) for n in range(8)]

HEAD = struct.Struct("<40sq24sq8s22q8s8q")
END = struct.Struct("<i")
PLACE = struct.Struct("<I")
ENDS_OF_ONE = struct.Struct("<2i")
NO_HINTS = (b"",)
TOO_LARGE = "a batch of records is over 1 GiB; store smaller values"
# The flatbuffer tables of a RecordBatch message with 4 columns and 11 buffers, between its numbers.
MESSAGE = bytes.fromhex(
    "ffffffff4801000014000000000000000c0016000600050008000c000c0000000003040018000000"
)
BATCH = bytes.fromhex("00000a0018000c00040008000a000000cc00000010000000")
BUFFERS = bytes.fromhex("000000000b000000")
COLUMNS = bytes.fromhex("0000000004000000")


class Record(NamedTuple):
    """One log entry. `state` None: the node forgot the key. `hints`: node ids, or b""."""

    partition: int
    key: bytes
    state: bytes | None
    hints: bytes


class Columns(NamedTuple):
    """Records, column by column, all of one length; no hints at all may be given as ()."""

    partitions: Sequence[int]
    keys: Sequence[bytes]
    states: Sequence[bytes | None]
    hints: Sequence[bytes]


class Laid(NamedTuple):
    """A binary column as Arrow lays it out. No bits if nothing in it is null."""

    nulls: int
    bits: bytes | memoryview
    ends: bytes | memoryview
    content: bytes | memoryview


def columns_of(records: Sequence[Record]) -> Columns:
    """The same records, column by column."""
    return Columns(*zip(*records, strict=True)) if records else Columns((), (), (), ())


def part_of(columns: Columns, start: int, stop: int) -> Columns:
    """Some of the records, as a slice takes them."""
    partitions, keys, states, hints = columns
    return Columns(partitions[start:stop], keys[start:stop], states[start:stop], hints[start:stop])


def without(columns: Columns, rows: set[int]) -> Columns:
    """The columns without these rows."""
    partitions, keys, states, hints = columns
    kept = [at for at in range(len(keys)) if at not in rows]
    return Columns(
        [partitions[at] for at in kept],
        [keys[at] for at in kept],
        [states[at] for at in kept],
        [hints[at] for at in kept],
    )


def encode(records: Sequence[Record]) -> bytes:
    """The message of at least one record. Raises RecordTooLargeError."""
    return encode_columns(columns_of(records))


def encode_columns(columns: Columns) -> bytes:
    """The message of at least one record. Raises RecordTooLargeError."""
    partitions, keys, states, hints = columns
    rows = len(partitions)
    assert rows and rows == len(keys) == len(states) and len(hints) in (0, rows)
    if rows == 1 and states[0] is not None and not any(hints):
        return _encode_one(partitions[0], keys[0], states[0])
    places = struct.pack(f"<{rows}I", *partitions)
    key = _lay_out(keys)
    state = _lay_out(states)
    hint = _lay_out([one or None for one in hints]) if any(hints) else _nothing(rows)
    sizes = len(key.content), len(state.content), len(hint.content)
    head = _head(rows, *sizes, state.nulls, hint.nulls)
    parts: list[bytes | memoryview] = [head, places, PADDING[len(places) & 7]]
    for _, bits, ends, content in (key, state, hint):
        parts += bits, PADDING[len(bits) & 7], ends, PADDING[len(ends) & 7]
        parts += content, PADDING[len(content) & 7]
    return b"".join(parts)


def _encode_one(partition: int, key: bytes, state: bytes) -> bytes:
    """The message of one record without hints, which is what a single put appends."""
    if len(key) > COLUMN_BYTES_MAX or len(state) > COLUMN_BYTES_MAX:
        raise RecordTooLargeError(TOO_LARGE)
    head, to_key, to_state, rest = _around_one(len(key), len(state))
    return b"".join((head, PLACE.pack(partition), to_key, key, to_state, state, rest))


@lru_cache(maxsize=1024)
def _around_one(key: int, state: int) -> tuple[bytes, bytes, bytes, bytes]:
    """What stands before, between and after the partition, key and state of such a message."""
    hint = _nothing(1)
    return (
        _head(1, key, state, 0, 0, hint.nulls),
        PADDING[PLACE.size] + ENDS_OF_ONE.pack(0, key),
        PADDING[key & 7] + ENDS_OF_ONE.pack(0, state),
        PADDING[state & 7] + bytes(hint.bits) + PADDING[len(hint.bits) & 7] + bytes(hint.ends),
    )


def decode(message: bytes) -> list[Record]:
    """The records of a message. Raises MalformedBatchError for what `encode` cannot have given."""
    return list(map(Record, *decode_columns(message)))


def decode_columns(message: bytes) -> Columns:
    """The columns of a message. Raises MalformedBatchError for what `encode` cannot have given."""
    one = one_in(message)
    if one is not None:
        partition, key, state = one
        return Columns((partition,), (key,), (state,), NO_HINTS)
    fields = _fields(message[: HEAD.size])
    size, rows, state_nulls, hint_nulls = fields[1], fields[3], fields[33], fields[35]
    if len(message) != HEAD.size + size:
        raise MalformedBatchError("longer or shorter than its head says")
    partitions = struct.unpack_from(f"<{rows}I", message, HEAD.size)
    keys = _values(rows, 0, message, fields[9:15])
    states = _values(rows, state_nulls, message, fields[15:21])
    if hint_nulls == rows:
        return Columns(partitions, keys, states, [b""] * rows)
    hints = node_lists(_values(rows, hint_nulls, message, fields[21:27]))
    return Columns(partitions, keys, states, hints)


def warm_up() -> None:
    """Let Arrow load what it loads at its first array: pandas, where that is installed.

    It takes a second or more, which a node that serves already must not be held for.
    """
    pa.array([b""], BINARY)


def node_lists(hints: Sequence[bytes | None]) -> list[bytes]:
    """A column of hints, b"" for null. MalformedBatchError unless each is a list of node ids."""
    lists = [one or b"" for one in hints]
    if any(len(one) % NODE_ID_BYTES for one in lists):
        raise MalformedBatchError("hints that are no list of node ids")
    return lists


def one_in(message: bytes) -> tuple[int, bytes, bytes] | None:
    """Partition, key and state of the message of one record without hints; None if it is another.

    That is what a log of single puts consists of. Raises MalformedBatchError.
    """
    places = _places_of_one(message[: HEAD.size])
    if places is None:
        return None
    size, key_at, key_end, state_at, state_end, key_ends, state_ends = places
    if len(message) != size:
        raise MalformedBatchError("longer or shorter than its head says")
    if message[key_at - 8 : key_at] != key_ends or message[state_at - 8 : state_at] != state_ends:
        raise MalformedBatchError("a column that does not fill its content")
    (partition,) = PLACE.unpack_from(message, HEAD.size)
    return partition, message[key_at:key_end], message[state_at:state_end]


@lru_cache(maxsize=1024)
def _places_of_one(head: bytes) -> tuple[int, int, int, int, int, bytes, bytes] | None:
    """Where things stand in the message of one record without hints; None if it is another one.

    The message's length, where key and state begin and end, and the offsets before each of them.
    """
    fields = _fields(head)
    if fields[3] != 1 or fields[33] or fields[35] != 1:
        return None
    size, (key, key_size), (state, state_size) = fields[1], fields[13:15], fields[19:21]
    key, state = HEAD.size + key, HEAD.size + state
    ends = ENDS_OF_ONE.pack(0, key_size), ENDS_OF_ONE.pack(0, state_size)
    return HEAD.size + size, key, key + key_size, state, state + state_size, *ends


@lru_cache(maxsize=1024)
def _fields(head: bytes) -> tuple[Any, ...]:
    """What a head says, once all of it follows from its six numbers. MalformedBatchError."""
    if len(head) < HEAD.size:
        raise MalformedBatchError("shorter than a message's head")
    fields = HEAD.unpack(head)
    six = [fields[at] for at in (3, 14, 20, 26, 33, 35)]
    if six[0] < 1 or min(six) < 0 or max(six) > COLUMN_BYTES_MAX or head != _head(*six):
        raise MalformedBatchError("not the head of a batch of our schema")
    return fields


@lru_cache(maxsize=1024)
def _head(
    rows: int, keys: int, states: int, hints: int, state_nulls: int, hint_nulls: int
) -> bytes:
    """The head that follows from a batch's six numbers: each buffer begins where the last ended."""
    places, ends, bits = 4 * rows, 4 * rows + 4, (rows + 7) // 8
    state_bits, hint_bits = bits if state_nulls else 0, bits if hint_nulls else 0
    a = places + 7 & -8
    b = a + (ends + 7 & -8)
    c = b + (keys + 7 & -8)
    d = c + (state_bits + 7 & -8)
    e = d + (ends + 7 & -8)
    f = e + (states + 7 & -8)
    g = f + (hint_bits + 7 & -8)
    h = g + (ends + 7 & -8)
    body = h + (hints + 7 & -8)
    # fmt: off
    return HEAD.pack(
        MESSAGE, body, BATCH, rows, BUFFERS,
        0, 0, 0, places,
        a, 0, a, ends, b, keys,
        c, state_bits, d, ends, e, states,
        f, hint_bits, g, ends, h, hints,
        COLUMNS, rows, 0, rows, 0, rows, state_nulls, rows, hint_nulls,
    )
    # fmt: on


def _lay_out(values: Sequence[bytes | None]) -> Laid:
    """A column's buffers; both ways give the same bytes."""
    laid = _lay_out_few(values) if len(values) < MANY else _lay_out_many(values)
    if laid is None or len(laid.content) > COLUMN_BYTES_MAX:
        raise RecordTooLargeError(TOO_LARGE)
    return laid


def _lay_out_few(values: Sequence[bytes | None]) -> Laid | None:
    nulls, bits = values.count(None), b""
    if nulls:
        held = sum(1 << i for i, value in enumerate(values) if value is not None)
        bits = held.to_bytes(-(-len(values) // 8), "little")
    content = b"".join([value or b"" for value in values])
    if len(content) > COLUMN_BYTES_MAX:
        return None
    sizes = [len(value) if value is not None else 0 for value in values]
    ends = struct.pack(f"<{len(values) + 1}i", *accumulate(sizes, initial=0))
    return Laid(nulls, bits, ends, content)


def _lay_out_many(values: Sequence[bytes | None]) -> Laid | None:
    array = pa.array(values, BINARY)
    if isinstance(array, pa.ChunkedArray):
        return None
    bits, ends, content = array.buffers()
    nulls = array.null_count
    return Laid(
        nulls,
        memoryview(bits)[: -(-len(values) // 8)] if nulls else b"",
        memoryview(ends)[: 4 * len(values) + 4],
        memoryview(content) if content is not None else b"",
    )


def _nothing(rows: int) -> Laid:
    return Laid(rows, bytes(-(-rows // 8)), bytes(4 * rows + 4), b"")


def _values(rows: int, nulls: int, message: bytes, places: Sequence[int]) -> list[Any]:
    """A column's values, once its offsets lead from the first to the last byte of its content."""
    bits, ends_at, content = places[1], HEAD.size + places[2], places[5]
    reach = END.unpack_from(message, ends_at) + END.unpack_from(message, ends_at + 4 * rows)
    if reach != (0, content):
        raise MalformedBatchError("a column that does not fill its content")
    if rows < MANY_TO_READ and not bits:
        ends = struct.unpack_from(f"<{rows + 1}i", message, ends_at)
        if list(ends) != sorted(ends):
            raise MalformedBatchError("a column whose offsets go back")
        at = HEAD.size + places[4]
        return [message[at + start : at + end] for start, end in pairwise(ends)]
    return _values_by_arrow(rows, nulls, message, places)


def _values_by_arrow(rows: int, nulls: int, message: bytes, places: Sequence[int]) -> list[Any]:
    bits_at, bits, ends_at, ends, content_at, content = places
    body = pa.py_buffer(message).slice(HEAD.size)
    try:
        buffers = [
            body.slice(bits_at, bits) if bits else None,
            body.slice(ends_at, ends),
            body.slice(content_at, content),
        ]
        array = pa.Array.from_buffers(BINARY, rows, buffers)
        array.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise MalformedBatchError(f"not a column of bytes: {error}") from error
    if array.null_count != nulls:
        raise MalformedBatchError("another number of nulls than the head says")
    values: list[bytes | None] = array.to_pylist()
    return values
