"""Frames: the same messages however the bytes arrive, and a refusal for the bytes of others."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
import zlib
from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.wire import frames
from dynamo_ray.wire.errors import FrameError, FrameFault
from dynamo_ray.wire.frames import (
    HEADER_BYTES,
    STRANGER_FRAME_BYTES,
    STRANGER_LIST_ITEMS,
    FrameReader,
    pack,
)

scalars = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=20),
    st.integers(-(2**63), 2**64 - 1),
    st.none(),
    st.booleans(),
)
fields = st.lists(st.one_of(scalars, st.lists(scalars, max_size=5)), max_size=6)
messages = st.builds(
    lambda call, kind, rest: [call, kind, *rest], st.integers(0, 2**63), st.integers(0, 255), fields
)


def framed(payload: bytes, magic: bytes = b"DR", version: int = 1, flags: int = 0) -> bytes:
    """A frame by the book, written independently of the code."""
    return (
        struct.pack(">2sBBII", magic, version, flags, len(payload), zlib.crc32(payload)) + payload
    )


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


def test_a_frame_is_what_the_book_says() -> None:
    assert pack([1, 7, b"v", "t", None, True, [2]]) == framed(
        b"\x97\x01\x07\xc4\x01v\xa1t\xc0\xc3\x91\x02"
    )


def test_bytes_stay_bytes_and_text_stays_text() -> None:
    assert FrameReader().feed(pack((3, 1, b"\xff\x00", "é", (b"a", 2)))) == [
        [3, 1, b"\xff\x00", "é", [b"a", 2]]
    ]


@given(st.lists(messages, max_size=6), st.lists(st.integers(0, 10**6), max_size=12))
def test_any_split_of_the_stream_gives_the_same_messages(
    said: list[list[object]], cuts: list[int]
) -> None:
    reader = FrameReader()
    heard = [
        message
        for piece in pieces(b"".join(map(pack, said)), cuts)
        for message in reader.feed(piece)
    ]
    assert heard == said
    assert reader.rest() == b""


def test_byte_by_byte() -> None:
    said = [[n, 1, b"x" * n] for n in range(40)]
    reader = FrameReader()
    assert [m for byte in b"".join(map(pack, said)) for m in reader.feed(bytes([byte]))] == said


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_garbage_is_refused_and_never_crashes(garbage: bytes, cuts: list[int]) -> None:
    reader = FrameReader(4096)
    try:
        heard = [m for piece in pieces(garbage, cuts) for m in reader.feed(piece)]
    except FrameError:
        with pytest.raises(FrameError):
            reader.feed(b"")
    else:
        assert heard == []


@given(st.binary(max_size=200))
def test_a_payload_of_garbage_under_a_good_header(payload: bytes) -> None:
    heard: list[list[object]] = []
    with contextlib.suppress(FrameError):
        heard = FrameReader(4096, 16).feed(framed(payload))
    assert all(isinstance(m, list) and m[0] >= 0 and m[1] >= 0 for m in heard)


def test_every_flipped_bit_is_refused() -> None:
    """Of a frame in the middle; what follows is long enough for any length that a flip claims."""
    before, middle, after = (
        pack([1, 2, b"before"]),
        pack([2, 3, b"0123456789"]),
        pack([3, 4, b"x" * 90]),
    )
    for bit in range(8 * len(middle)):
        flipped = bytearray(middle)
        flipped[bit // 8] ^= 1 << bit % 8
        reader = FrameReader(4096)
        assert reader.feed(before) == [[1, 2, b"before"]]
        with pytest.raises(FrameError):
            for piece in (bytes(flipped), *[after] * 80):
                assert reader.feed(piece) == []


@pytest.mark.parametrize(
    "stream, fault",
    [
        (framed(b"\x92\x01\x02", magic=b"GE"), FrameFault.BAD_MAGIC),
        (b"GET / HTTP/1.1\r\n\r\n", FrameFault.BAD_MAGIC),
        (framed(b"\x92\x01\x02", version=2), FrameFault.BAD_VERSION),
        (framed(b"\x92\x01\x02", flags=1), FrameFault.BAD_FLAGS),
        (framed(b"\x92\x01\x02")[:-1] + b"\x03", FrameFault.BAD_CHECKSUM),
        (framed(msgpack.packb(b"x" * 101)), FrameFault.TOO_LONG),
    ],
)
def test_each_fault_has_its_name(stream: bytes, fault: FrameFault) -> None:
    with pytest.raises(FrameError) as caught:
        FrameReader(100).feed(stream)
    assert caught.value.fault is fault


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",  # no array
        b"\x90",
        b"\x91\x01",  # no kind
        b"\x92\xff\x01",  # a negative call
        b"\x92\xc3\x01",  # True is no call
        b"\x92\x01\xa1k",  # text is no kind
        b"\x92\x01\x02\x03",  # something behind the array
        b"\x93\x01\x02\x80",  # an empty map
        b"\x93\x01\x02\x81\x01\x01",  # a map
        b"\x93\x01\x02\x91\x80",  # a map in a list
        b"\x93\x01\x02\xd4\x05\x00",  # an extension
        b"\x93\x01\x02\xc7\x00\x05",  # an empty extension
        b"\x93\x01\x02\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x93\x01\x02\xa2\xff\xff",  # text that is no UTF-8
        b"\x93\x01\x02\xc1",  # a byte that msgpack never uses
        b"\x93\x01\x02\xdd\xff\xff\xff\xff",  # a list of four billion
        b"\x93\x01\x02\xc6\xff\xff\xff\xff",  # four gigabytes of bytes
        b"\x91" * 1500 + b"\x01",  # too deep
    ],
)
def test_what_is_not_a_message_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        FrameReader().feed(framed(payload))
    assert caught.value.fault is FrameFault.NOT_A_MESSAGE


def test_a_pickle_is_bytes_like_any_other() -> None:
    bomb = b"cos\nsystem\n(S'touch /nonexistent/canary'\ntR."
    assert FrameReader().feed(pack([1, 1, bomb])) == [[1, 1, bomb]]


def test_too_long_is_said_before_the_payload_comes() -> None:
    header = struct.pack(">2sBBII", b"DR", 1, 0, 101, 0)
    reader = FrameReader(100)
    assert reader.feed(header[:11]) == []
    with pytest.raises(FrameError) as caught:
        reader.feed(header[11:])
    assert caught.value.fault is FrameFault.TOO_LONG


def test_a_reader_that_refused_refuses_for_ever() -> None:
    reader = FrameReader()
    with pytest.raises(FrameError):
        reader.feed(b"x" * 12)
    with pytest.raises(FrameError):
        reader.feed(pack([1, 1]))


def nested(levels: int, claim: int, size: int) -> bytes:
    bomb = (b"\xdc" + struct.pack(">H", claim)) * levels
    return framed(bomb + b"\xc0" * (size - len(bomb)))


@pytest.mark.parametrize(
    "stream",
    [
        nested(1000, 4000, STRANGER_FRAME_BYTES),
        nested(1000, 16, STRANGER_FRAME_BYTES),
        b"".join(pack([n, 1, b"x" * 4000]) for n in range(3)),
        struct.pack(">2sBBII", b"DR", 1, 0, 4096, 0) + b"x" * 4095,
        struct.pack(">2sBBII", b"DR", 1, 0, 2**32 - 1, 0) + b"x" * 100_000,
    ],
    ids=[
        "nested lists",
        "nested lists within the bound",
        "frames",
        "unfinished frame",
        "a lying length",
    ],
)
def test_a_stranger_cannot_make_us_hold_much(stream: bytes) -> None:
    """Whole and in pieces. Three frames of 4 KiB may be decoded at once if one chunk has them."""
    for step in (len(stream), 100):
        tracemalloc.start()
        try:
            reader = FrameReader(STRANGER_FRAME_BYTES, STRANGER_LIST_ITEMS)
            for start in range(0, len(stream), step):
                reader.feed(stream[start : start + step])
        except FrameError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 64 * STRANGER_FRAME_BYTES + len(stream)


def test_a_huge_frame_in_small_chunks_costs_its_length_once() -> None:
    """16 MiB in chunks of 1 KiB: copying all at each would move 128 GiB."""
    frame = pack([1, 1, b"x" * (16 << 20)])
    reader, heard = FrameReader(), []
    began = time.perf_counter()
    for start in range(0, len(frame), 1024):
        heard += reader.feed(frame[start : start + 1024])
    assert time.perf_counter() - began < 2
    assert len(heard) == 1 and len(heard[0][2]) == 16 << 20


def test_many_small_frames_in_one_chunk_cost_their_length_once() -> None:
    """100,000 frames, 1.7 MB: cutting each off the front would move 85 GB."""
    stream = pack([1, 1, 1]) * 100_000
    reader = FrameReader()
    reader.feed(stream[:5])
    began = time.perf_counter()
    assert len(reader.feed(stream[5:])) == 100_000
    assert time.perf_counter() - began < 2


def test_one_at_a_time_leaves_the_rest_unread() -> None:
    """What follows may be longer than this reader allows: it is for the next one."""
    long = pack([2, 2, b"x" * 5000])
    reader = FrameReader(100)
    assert reader.feed(pack([1, 1]) + long, most=1) == [[1, 1]]
    assert reader.rest() == long
    assert reader.feed(b"") == []


def test_a_packer_that_packed_much_is_let_go() -> None:
    before = frames._packer
    pack([1, 1, b"x" * 100])
    assert frames._packer is before
    pack([1, 1, b"x" * (2 << 20)])
    assert frames._packer is not before


def test_what_cannot_be_packed_leaves_no_trace() -> None:
    with pytest.raises(TypeError):
        pack([1, 1, b"x" * 50, object()])
    assert FrameReader().feed(pack([1, 1])) == [[1, 1]]


def test_the_longest_frame_passes_and_one_byte_more_does_not() -> None:
    frame = pack([1, 1, b"x" * 1000])
    assert len(FrameReader(len(frame) - HEADER_BYTES).feed(frame)) == 1
    with pytest.raises(FrameError):
        FrameReader(len(frame) - HEADER_BYTES - 1).feed(frame)
