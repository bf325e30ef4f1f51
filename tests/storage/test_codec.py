"""The one form of a batch: what Arrow itself gives, and nothing else is read."""

from __future__ import annotations

import struct
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.storage import codec
from dynamo_ray.storage.codec import (
    HEAD,
    MANY,
    SCHEMA,
    Columns,
    Record,
    columns_of,
    decode,
    decode_columns,
    encode,
    encode_columns,
    part_of,
)
from dynamo_ray.storage.errors import MalformedBatchError, RecordTooLargeError

RECORDS = st.lists(
    st.builds(
        Record,
        st.integers(0, 2**32 - 1),
        st.binary(max_size=20),
        st.none() | st.binary(max_size=40),
        st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(b"".join),
    ),
    min_size=1,
    max_size=2 * MANY,
)


def by_arrow(records: list[Record]) -> bytes:
    """The same batch as pyarrow writes it."""
    partitions, keys, states, hints = columns_of(records)
    columns = [
        pa.array(partitions, pa.uint32()),
        pa.array(keys, pa.binary()),
        pa.array(states, pa.binary()),
        pa.array([one or None for one in hints], pa.binary()),
    ]
    written: bytes = pa.RecordBatch.from_arrays(columns, schema=SCHEMA).serialize().to_pybytes()
    return written


def test_the_schema_is_what_the_documentation_says() -> None:
    assert [(f.name, str(f.type), f.nullable) for f in SCHEMA] == [
        ("partition", "uint32", False),
        ("key", "binary", False),
        ("state", "binary", True),
        ("hints", "binary", True),
    ]
    assert SCHEMA.metadata == {b"dynamo_ray.format": b"1"}


def test_a_batch_can_be_read_by_any_arrow_reader() -> None:
    records = [Record(7, b"key", b"state", b""), Record(9, b"gone", None, b"n" * 8)]
    batch = pa.ipc.read_record_batch(pa.py_buffer(encode(records)), SCHEMA)
    batch.validate(full=True)
    assert batch.to_pylist() == [
        {"partition": 7, "key": b"key", "state": b"state", "hints": None},
        {"partition": 9, "key": b"gone", "state": None, "hints": b"n" * 8},
    ]


@given(RECORDS)
def test_law_a_batch_is_byte_for_byte_what_arrow_gives(records: list[Record]) -> None:
    assert encode(records) == by_arrow(records)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=40), st.binary(max_size=80))
def test_law_a_single_record_is_what_arrow_gives(partition: int, key: bytes, state: bytes) -> None:
    arrow = by_arrow([Record(partition, key, state, b"")])
    assert encode_columns(Columns([partition], [key], [state], [b""])) == arrow
    assert encode_columns(Columns([partition], [key], [state], ())) == arrow


@given(RECORDS)
def test_law_no_hints_at_all_need_no_column(records: list[Record]) -> None:
    bare = [record._replace(hints=b"") for record in records]
    columns = columns_of(bare)._replace(hints=())
    assert encode_columns(columns) == by_arrow(bare)
    assert encode_columns(part_of(columns, 0, len(bare))) == by_arrow(bare)


@given(RECORDS)
def test_law_what_is_decoded_is_what_was_encoded(records: list[Record]) -> None:
    message = encode(records)
    assert decode(message) == records
    columns = decode_columns(message)
    assert encode_columns(columns) == message
    assert list(columns.keys) == [record.key for record in records]


@given(RECORDS)
def test_law_both_ways_to_lay_out_a_column_give_the_same(records: list[Record]) -> None:
    for values in columns_of(records)[1:3]:
        few, many = codec._lay_out_few(values), codec._lay_out_many(values)
        assert few is not None and many is not None
        assert list(map(bytes, few[1:])) == list(map(bytes, many[1:]))
        assert few.nulls == many.nulls


def test_an_empty_state_is_not_a_forgotten_key() -> None:
    for size in (1, MANY):
        records = [Record(0, b"", b"", b""), Record(0, b"", None, b"")] * size
        assert decode(encode(records)) == records


def test_a_part_of_columns_is_the_same_part_of_records() -> None:
    records = [Record(n, b"%d" % n, None, b"") for n in range(10)]
    assert part_of(columns_of(records), 3, 7) == columns_of(records[3:7])
    assert columns_of([]) == Columns((), (), (), ())


def test_a_column_over_what_arrow_can_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "COLUMN_BYTES_MAX", 1000)
    for size in (1, MANY):
        with pytest.raises(RecordTooLargeError, match="smaller"):
            encode([Record(0, b"k", b"x" * 1001, b"")] * size)


# ---- nothing from the disk is trusted


MESSAGE = encode(
    [Record(n, b"key %d" % n, b"state %d" % n if n % 3 else None, b"") for n in range(9)]
)


def test_no_prefix_and_no_longer_message_is_read() -> None:
    for size in range(len(MESSAGE)):
        with pytest.raises(MalformedBatchError):
            decode(MESSAGE[:size])
    with pytest.raises(MalformedBatchError):
        decode(MESSAGE + bytes(8))


def test_a_changed_head_is_never_read_and_a_changed_body_never_crashes() -> None:
    for at in range(len(MESSAGE)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(MESSAGE)
            changed[at] ^= mask
            try:
                decode(bytes(changed))
            except MalformedBatchError:
                continue
            assert at >= HEAD.size, f"byte {at} of the head may be anything"


@pytest.mark.parametrize("place", range(HEAD.size // 8))
@pytest.mark.parametrize("value", [-1, -(2**63), 2**31, 2**40, 2**62, 2**63 - 1])
def test_huge_and_negative_lengths_are_refused_before_anything_is_made(
    place: int, value: int
) -> None:
    forged = bytearray(MESSAGE)
    struct.pack_into("<q", forged, 8 * place, value)
    with pytest.raises(MalformedBatchError):
        decode(bytes(forged))


def test_offsets_that_lead_out_of_the_message_are_refused() -> None:
    message = encode([Record(0, b"key", b"state", b"")])
    ends = message.index(struct.pack("<2i", 0, 3))
    for start, end in ((0, 4), (0, -1), (-1, 3), (3, 0), (0, 2**31 - 1), (4, 4)):
        forged = bytearray(message)
        struct.pack_into("<2i", forged, ends, start, end)
        with pytest.raises(MalformedBatchError):
            decode(bytes(forged))


def test_offsets_that_go_back_and_batches_of_nothing_are_refused() -> None:
    for size in (2, MANY):
        message = encode([Record(0, b"abc", None, b"")] * size)
        ends = message.index(struct.pack("<3i", 0, 3, 6))
        forged = bytearray(message)
        struct.pack_into("<3i", forged, ends, 0, 6, 3)
        if size > 2:
            struct.pack_into("<i", forged, ends + 8, 3)
        else:
            struct.pack_into("<3i", forged, ends, 0, 7, 6)
        with pytest.raises(MalformedBatchError):
            decode(bytes(forged))
    nothing = codec._head(0, 0, 0, 0, 0, 0)
    with pytest.raises(MalformedBatchError):
        decode(nothing + bytes(struct.unpack_from("<q", nothing, 40)[0]))


def test_another_schema_a_compressed_batch_and_noise_are_refused() -> None:
    batch = pa.ipc.read_record_batch(pa.py_buffer(MESSAGE), SCHEMA)
    fewer = batch.select(["partition", "key", "state"]).serialize().to_pybytes()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    squeezed = pa.RecordBatch.from_arrays(
        [pa.array([0]), *[pa.array([bytes(100_000)])] * 3], names=SCHEMA.names
    )
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, squeezed.schema, options=options) as writer:
        writer.write_batch(squeezed)
    written = stream.getvalue().to_pybytes()
    chance = Random(7)
    noise = [chance.randbytes(chance.randrange(2000)) for _ in range(200)]
    for message in (fewer, written, written[-600:], b"", bytes(1000), *noise):
        with pytest.raises(MalformedBatchError):
            decode(message)
