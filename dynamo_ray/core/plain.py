"""Plain puts and merges, lean: no context, no lifetime, and what is held is one's own or nothing.

Nearly every put of a large batch is plain. Its result is a simple state whose bytes can be written
down at once: nothing is decoded, no dot and no version is made as an object. Whatever is not plain
goes the general way (core/mint.py).

Law: where `mint` gives a state, it is byte for byte what the general way gives.
"""

from __future__ import annotations

from hashlib import blake2b

from dynamo_ray.core.lives import Lives
from dynamo_ray.core.merge import replaces
from dynamo_ray.core.messages import Merge
from dynamo_ray.core.mint import PUT_ID_BYTES, operation_id
from dynamo_ray.core.remembered import RememberedPuts
from dynamo_ray.core.unpersisted import Change
from dynamo_ray.core.version import SIMPLE_HEAD, Kind

_BOUND = b"%d.%d.%d." % (Kind.VALUE, 0, -1)  # what operation_id puts between put id and value
_FIRST = (1).to_bytes(8, "big")
_INDEX = bytes(4)


class PlainPuts:
    """The plain puts of one message, all stamped with the wall time `now_ms`."""

    __slots__ = ("_ended", "_lives", "_own", "_prefix", "_puts", "_stamp")

    def __init__(self, lives: Lives, puts: RememberedPuts, now_ms: int) -> None:
        self._lives = lives
        self._puts = puts
        self._prefix = lives.prefix
        self._ended = lives.ended
        self._own = SIMPLE_HEAD + lives.prefix
        self._stamp = bytes((Kind.VALUE,)) + now_ms.to_bytes(8, "big") + bytes(8)

    def mint(self, key: bytes, held: bytes | None, value: bytes, put_id: bytes) -> bytes | None:
        """The state after the put, or None if it must go the general way."""
        operation = blake2b(put_id + _BOUND + value, digest_size=PUT_ID_BYTES).digest()
        if operation in self._puts:
            return None
        if held is None:
            seen = self._prefix + self._lives.next_life() + _FIRST
            self._ended.discard(key)
        elif (
            held.startswith(self._own)
            and held[43:51] == held[55:63]
            and held[80:96] != operation
            and key not in self._ended
        ):
            counter = int.from_bytes(held[43:51], "big") + 1
            seen = held[13:43] + counter.to_bytes(8, "big")
        else:
            return None
        size = len(value).to_bytes(4, "big")
        return b"".join((SIMPLE_HEAD, seen, _INDEX, seen[30:], self._stamp, operation, size, value))


def take_plain(
    message: Merge,
    maps: list[dict[bytes, bytes]],
    young: dict[bytes, bytes],
    of_key: dict[bytes, bytes],
    prefix: bytes,
    changes: list[Change],
) -> list[int]:
    """Merge what is new, or a later event of the writer whose event is held; the rows left over."""
    left: list[int] = []
    for row, key in enumerate(message.keys):
        partition, state = message.partitions[row], message.states[row]
        of = maps[partition]
        held = of.get(key)
        if held == state:
            continue
        if held is None:
            if prefix and prefix in state:
                left.append(row)
                continue
        elif replaces(state, held):
            young[held[80:96]] = held[13:51]
        else:
            left.append(row)
            continue
        changes.append((partition, key, held, of_key.get(key, b"")))
        of[key] = state
    return left


assert operation_id(bytes(16), Kind.VALUE, b"x", None, 0) == (
    blake2b(bytes(16) + _BOUND + b"x", digest_size=PUT_ID_BYTES).digest()
)
