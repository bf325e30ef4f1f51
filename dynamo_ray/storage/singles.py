"""Reading a log of single puts the lean way: runs of frames that each hold one plain record.

Such a frame is whole by all its checksums, stands where it says, follows the one before it, and
holds one record of one partition, with a state and no hints. The run ends before the first frame
that is anything else, be it damaged, covered, closed or larger: that one is for the general way
(frames.py, codec.py), of which a law says that it would have given the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from dynamo_ray.storage.codec import one_in
from dynamo_ray.storage.errors import MalformedBatchError
from dynamo_ray.storage.frames import BATCH, FRAME, FRAME_BYTES, FRAME_MAGIC, HEAD, PLACE


def singles(
    content: bytes, at: int, seed: int, segment: int, position: int
) -> Iterator[tuple[int, bytes, bytes, int]]:
    """Partition, key, state and end of each such frame from `at` on, the first after `position`."""
    size, head, unpack = len(content), FRAME.size, HEAD.unpack_from
    while at + FRAME_BYTES + PLACE.size <= size:
        position += 1
        magic, kind, said, offset, stands, length, crc, count, place_crc, head_crc = unpack(
            content, at
        )
        if (magic, kind, said, offset) != (FRAME_MAGIC, BATCH, segment, at):
            return
        start = at + FRAME_BYTES + PLACE.size
        end = start + length
        if stands != position or count != 1 or end > size:
            return
        payload = content[start:end]
        if (
            crc32(content[at : at + head], seed) != head_crc
            or crc32(content[start - PLACE.size : start], seed) != place_crc
            or crc32(payload, seed) != crc
        ):
            return
        try:
            one = one_in(payload)
        except MalformedBatchError:
            return
        if one is None:
            return
        yield (*one, end)
        at = end
