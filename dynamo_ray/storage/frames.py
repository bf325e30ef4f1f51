"""The bytes of a log segment: its header, its frames, and what is left of them after damage.

    segment  magic 8 · u16 format · u16 length of the cluster id · node id 8 · cluster id (32 bytes,
             zero-filled) · u64 number · u64 position of its first frame · u32 crc
    frame    magic 4 · u16 kind · u64 segment · u64 offset · u64 position · u32 payload bytes
             · u32 payload crc · u32 how many partitions · u32 crc of their list
             · u32 crc of all this · the list of partitions (u32 each) · the payload

All numbers are big-endian. Positions count the frames of a node since its beginning, by one. The
head has a checksum of its own, so that a damaged payload still says which partitions it held; and
it says where it belongs, so that a frame that was written, copied or left at another place is not
taken for one. Every crc starts from the cluster's and the node's id: no frame of another log fits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32

LOG_FORMAT = 1
SEGMENT_MAGIC = b"DYNRLOG\n"
SEGMENT = struct.Struct(">8sHH8s32sQQ")
SEGMENT_BYTES = SEGMENT.size + 4

FRAME_MAGIC = b"\xd7DR\x1e"
FRAME = struct.Struct(">4sHQQQIIII")
FRAME_BYTES = FRAME.size + 4
HEAD = struct.Struct(FRAME.format + "I")
CRC = PLACE = struct.Struct(">I")

BATCH, CLOSED = 0, 1
KINDS = (BATCH, CLOSED)


class Owner(NamedTuple):
    """Whose log it is. `seed` starts every checksum."""

    cluster_id: bytes
    node_id: bytes

    @property
    def seed(self) -> int:
        return crc32(self.cluster_id + b"/" + self.node_id)


class Frame(NamedTuple):
    """A frame whose head can be read. `payload` None: damaged; its partitions are then all we know.

    `partitions` None: their list is damaged too.
    """

    start: int
    end: int
    kind: int
    position: int
    partitions: tuple[int, ...] | None
    payload: bytes | None


class Gap(NamedTuple):
    """Bytes that are no frame. `is_cut` says that they look like the beginning of a frame that
    ends with the file, which is what the death of a process in the middle of a write leaves."""

    start: int
    end: int
    is_cut: bool


def segment_header(owner: Owner, number: int, first: int) -> bytes:
    """The first bytes of a segment."""
    cluster, node = owner
    body = SEGMENT.pack(SEGMENT_MAGIC, LOG_FORMAT, len(cluster), node, cluster, number, first)
    return body + CRC.pack(crc32(body))


def first_position(header: bytes, owner: Owner, number: int) -> int | None:
    """The position of the segment's first frame; None if the header is damaged or not its own."""
    fields = _whole_header(header)
    if fields is None:
        return None
    _, log_format, length, node, cluster, said, first = fields
    is_ours = (log_format, cluster[:length], node, said) == (LOG_FORMAT, *owner, number)
    return int(first) if is_ours else None


def newer_format(header: bytes) -> int:
    """The format of a whole header that this version cannot read, or 0."""
    fields = _whole_header(header)
    return int(fields[1]) if fields is not None and fields[1] > LOG_FORMAT else 0


def _whole_header(header: bytes) -> tuple[Any, ...] | None:
    body, crc = header[: SEGMENT.size], header[SEGMENT.size : SEGMENT_BYTES]
    if len(crc) < CRC.size or not body.startswith(SEGMENT_MAGIC) or CRC.pack(crc32(body)) != crc:
        return None
    return SEGMENT.unpack(body)


def frame(
    seed: int,
    segment: int,
    offset: int,
    position: int,
    partitions: Sequence[int],
    payload: bytes,
    kind: int = BATCH,
) -> bytes:
    """The bytes of one frame that will stand at `offset` of the segment."""
    few = len(partitions) == 1
    places = PLACE.pack(*partitions) if few else struct.pack(f">{len(partitions)}I", *partitions)
    head = FRAME.pack(
        FRAME_MAGIC,
        kind,
        segment,
        offset,
        position,
        len(payload),
        crc32(payload, seed),
        len(partitions),
        crc32(places, seed),
    )
    return b"".join((head, CRC.pack(crc32(head, seed)), places, payload))


def scan(content: bytes, seed: int, segment: int, at: int = SEGMENT_BYTES) -> Iterator[Frame | Gap]:
    """All frames of a segment in their order, and every gap between, before and after them.

    `at`: where a frame of it ends, to go on from there.
    """
    at = min(at, len(content))
    while at < len(content):
        found = _frame_at(content, at, seed, segment)
        if found is None:
            gap = _gap_at(content, at, seed, segment)
            yield gap
            at = gap.end
        else:
            yield found
            at = found.end


def _frame_at(content: bytes, at: int, seed: int, segment: int) -> Frame | None:
    """The frame at this very place, or None: no head, or the file ends before the frame does."""
    head = _head_at(content, at, seed, segment)
    if head is None:
        return None
    kind, position, size, payload_crc, count, places_crc = head
    start = at + FRAME_BYTES + 4 * count
    end = start + size
    if end > len(content):
        return None
    places = content[at + FRAME_BYTES : start]
    partitions: tuple[int, ...] | None = None
    if crc32(places, seed) == places_crc:
        few = count == 1
        partitions = PLACE.unpack(places) if few else struct.unpack(f">{count}I", places)
    payload = content[start:end]
    is_whole = crc32(payload, seed) == payload_crc
    return Frame(at, end, kind, position, partitions, payload if is_whole else None)


def _head_at(
    content: bytes, at: int, seed: int, segment: int
) -> tuple[int, int, int, int, int, int] | None:
    if at + FRAME_BYTES > len(content):
        return None
    magic, kind, said, offset, position, size, payload_crc, count, places_crc, crc = (
        HEAD.unpack_from(content, at)
    )
    if magic != FRAME_MAGIC or crc != crc32(content[at : at + FRAME.size], seed):
        return None
    if said != segment or offset != at or kind not in KINDS:
        return None
    return kind, position, size, payload_crc, count, places_crc


def _gap_at(content: bytes, at: int, seed: int, segment: int) -> Gap:
    """The bytes up to the next frame that stands where it says, or to the end."""
    following = content.find(FRAME_MAGIC, at + 1)
    while following >= 0:
        if _frame_at(content, following, seed, segment) is not None:
            return Gap(at, following, False)
        following = content.find(FRAME_MAGIC, following + 1)
    return Gap(at, len(content), _is_cut(content, at, seed, segment))


def _is_cut(content: bytes, at: int, seed: int, segment: int) -> bool:
    if len(content) - at < FRAME_BYTES:
        return content[at : at + 4] == FRAME_MAGIC[: len(content) - at]
    return _head_at(content, at, seed, segment) is not None
