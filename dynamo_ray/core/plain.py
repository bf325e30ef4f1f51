"""Plain puts and merges, lean: no context, no lifetime, and what is held is one's own or nothing.

Nearly every put of a large batch is plain. Its result is a simple state whose bytes can be written
down at once: nothing is decoded, no dot and no version is made as an object. Whatever is not plain
goes the general way (core/mint.py).

Law: where `mint` gives a state, it is byte for byte what the general way gives.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from dynamo_ray.core.lives import Lives
from dynamo_ray.core.messages import Merge
from dynamo_ray.core.mint import PUT_ID_BYTES, operation_id
from dynamo_ray.core.remembered import RememberedPuts
from dynamo_ray.core.unpersisted import Changes
from dynamo_ray.core.version import SIMPLE, SIMPLE_HEAD, Kind

_BOUND = b"%d.%d.%d." % (Kind.VALUE, 0, -1)  # what operation_id puts between put id and value
_OPERATION = blake2b(digest_size=PUT_ID_BYTES)  # copied: making one costs as much as its use
COUNTER = Struct(">Q")
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
        hashed = _OPERATION.copy()
        hashed.update(put_id + _BOUND + value)
        operation = hashed.digest()
        if operation in self._puts:
            return None
        if held is None:
            seen = self._prefix + self._lives.next_life() + _FIRST
            self._ended.discard(key)
        else:
            head, counter, dot, held_id = SIMPLE.unpack_from(held)
            if (
                counter != dot
                or held_id == operation
                or not head.startswith(self._own)
                or key in self._ended
            ):
                return None
            (count,) = COUNTER.unpack(counter)
            seen = head[13:] + COUNTER.pack(count + 1)
        size = len(value).to_bytes(4, "big")
        return b"".join((SIMPLE_HEAD, seen, _INDEX, seen[30:], self._stamp, operation, size, value))


def take_plain(
    message: Merge,
    maps: list[dict[bytes, bytes]],
    young: dict[bytes, bytes],
    of_key: dict[bytes, bytes],
    prefix: bytes,
    changes: Changes,
) -> list[int]:
    """Merge what is new, or a later event of the writer whose event is held; the rows left over."""
    taken: list[int] = []
    left: list[int] = []
    before: list[bytes | None] = []
    columns = message.keys, message.partitions, message.states
    cut = SIMPLE.unpack_from
    for row, (key, partition, state) in enumerate(zip(*columns, strict=True)):
        of = maps[partition]
        held = of.get(key)
        if held is None:
            if prefix and prefix in state:
                left.append(row)
                continue
        elif held == state:
            continue
        else:
            head, counter, dot, _ = cut(state)
            held_head, held_counter, held_dot, put_id = cut(held)
            if (
                head != held_head
                or counter <= held_counter
                or counter != dot
                or held_counter != held_dot
                or not head.startswith(SIMPLE_HEAD)
            ):
                left.append(row)
                continue
            young[put_id] = head[13:] + held_counter
        of[key] = state
        before.append(held)
        taken.append(row)
    _note(message, taken, before, of_key, changes)
    return left


def _note(
    message: Merge,
    taken: list[int],
    before: list[bytes | None],
    of_key: dict[bytes, bytes],
    changes: Changes,
) -> None:
    """The rows that were taken, as changes; mostly that is all of them."""
    keys, partitions, states = message.keys, message.partitions, message.states
    if len(taken) < len(keys):
        keys = [keys[row] for row in taken]
        partitions = [partitions[row] for row in taken]
        states = [states[row] for row in taken]
    changes.keys += keys
    changes.partitions += partitions
    changes.before += before
    changes.after += states
    changes.owners += [of_key.get(key, b"") for key in keys] if of_key else [b""] * len(keys)


assert operation_id(bytes(16), Kind.VALUE, b"x", None, 0) == (
    blake2b(bytes(16) + _BOUND + b"x", digest_size=PUT_ID_BYTES).digest()
)
