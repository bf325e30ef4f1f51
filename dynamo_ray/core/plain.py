"""Plain puts and merges, lean: no context, no lifetime, and what is held is one's own or nothing.

Nearly every put is plain. Its result is a simple state whose bytes can be written down at once:
nothing is decoded, no dot and no version is made as an object. Whatever is not plain goes the
general way (core/mint.py, core/merge.py), in its turn.

Law: what is done here is byte for byte what the general way does, side effects too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from struct import Struct

from dynamo_ray.core.lives import Lives
from dynamo_ray.core.messages import Code, Merge, Mint, Minted
from dynamo_ray.core.mint import PUT_ID_BYTES, operation_id
from dynamo_ray.core.remembered import RememberedPuts
from dynamo_ray.core.unpersisted import Changes
from dynamo_ray.core.version import SIMPLE, SIMPLE_HEAD, Kind, clock_of

# A simple state up to its payload: SIMPLE_HEAD and writer, counter, the writer's index (0), the
# dot's counter, the stamp (kind, wall time, expiry), put id, length.
STATE = Struct(">43sQIQ17s16sI")
_BOUND = b"%d.%d.%d." % (Kind.VALUE, 0, -1)  # what operation_id puts between put id and value
_OPERATION = blake2b(digest_size=PUT_ID_BYTES)  # copied: making one costs as much as its use


class Plain:
    """What a node holds, as the lean ways see it; made for one message."""

    __slots__ = ("_lives", "_maps", "_of_key", "_puts")

    def __init__(
        self,
        maps: list[dict[bytes, bytes]],
        lives: Lives,
        puts: RememberedPuts,
        of_key: dict[bytes, bytes],
    ) -> None:
        self._maps = maps
        self._lives = lives
        self._puts = puts
        self._of_key = of_key

    def mint(
        self, message: Mint, now_ms: int, changes: Changes, general: Callable[[int], bytes | None]
    ) -> list[bytes | None]:
        """Mint every row in order, what is not plain by `general`; the state of each after it."""
        states: list[bytes | None] = []
        before: list[bytes | None] = []
        maps, lives, cut, pack, size = self._maps, self._lives, SIMPLE.unpack_from, STATE.pack, len
        (young, old), ended, own = self._puts.generations, lives.ended, SIMPLE_HEAD + lives.prefix
        stamp = bytes((Kind.VALUE,)) + now_ms.to_bytes(8, "big") + bytes(8)
        columns = message.values, message.contexts, message.put_ids, message.ttls_ms
        rows = zip(message.keys, message.partitions, *columns, strict=True)
        for key, partition, value, context, put_id, ttl_ms in rows:
            held = maps[partition].get(key)
            head, count, operation = own, -1, b""
            if context is None and value is not None and not ttl_ms:
                hashed = _OPERATION.copy()
                hashed.update(put_id + _BOUND + value)
                operation = hashed.digest()
                if operation not in young and operation not in old:
                    if held is None:
                        head, count = own + lives.next_life(), 0
                        ended.discard(key)
                    else:
                        head, last, dot, held_id = cut(held)
                        if last == dot and head.startswith(own) and held_id != operation:
                            if key not in ended:
                                count = last
                                young[held_id] = held[13:51]
            if count >= 0:
                count += 1
                state = pack(head, count, 0, count, stamp, operation, size(value)) + value
                maps[partition][key] = state
                states.append(state)
                before.append(held)
            else:
                self._note(message, len(states), before, states, changes)
                states.append(general(len(states)))
                young, old = self._puts.generations
        self._note(message, len(states), before, states, changes)
        return states

    def merge(self, message: Merge, changes: Changes, general: Callable[[int], None]) -> None:
        """Merge every row in order: lean what is new, or a later event of the writer held."""
        before: list[bytes | None] = []
        maps, prefix, cut = self._maps, self._lives.prefix, SIMPLE.unpack_from
        young, _ = self._puts.generations
        keys, partitions, states = message.keys, message.partitions, message.states
        for row, (key, partition, state) in enumerate(zip(keys, partitions, states, strict=True)):
            of = maps[partition]
            held = of.get(key)
            if held is None:
                is_plain = not prefix or prefix not in state
            elif held == state:
                self._note(message, row, before, states, changes)
                continue
            else:
                head, count, dot, _ = cut(state)
                held_head, held_count, held_dot, put_id = cut(held)
                is_later = head == held_head and count > held_count
                is_plain = is_later and count == dot and held_count == held_dot
                if is_plain and head.startswith(SIMPLE_HEAD):
                    young[put_id] = held[13:51]
                else:
                    is_plain = False
            if is_plain:
                of[key] = state
                before.append(held)
            else:
                self._note(message, row, before, states, changes)
                general(row)
                young, _ = self._puts.generations
        self._note(message, len(keys), before, states, changes)

    def _note(
        self,
        message: Mint | Merge,
        end: int,
        before: list[bytes | None],
        after: Sequence[bytes | None],
        changes: Changes,
    ) -> None:
        """The lean rows before row `end` that are not noted yet, as changes; empties `before`."""
        if not before:
            return
        start, of_key = end - len(before), self._of_key
        keys = message.keys[start:end]
        changes.keys += keys
        changes.partitions += message.partitions[start:end]
        changes.before += before
        changes.after += after[start:end]
        changes.owners += [of_key.get(key, b"") for key in keys] if of_key else [b""] * len(keys)
        before.clear()


def minted_of(states: list[bytes | None], others: dict[int, tuple[int, bytes | None]]) -> Minted:
    """The answer; `others` are the code and the context of each row that was not plain."""
    if not others:
        return Minted(states, ())
    plain = Code.OK, None
    codes = [others.get(i, plain)[0] for i in range(len(states))]
    contexts = [
        others[i][1] if i in others or state is None else clock_of(state)
        for i, state in enumerate(states)
    ]
    return Minted(states, contexts, codes if any(codes) else ())


assert operation_id(bytes(16), Kind.VALUE, b"x", None, 0) == (
    blake2b(bytes(16) + _BOUND + b"x", digest_size=PUT_ID_BYTES).digest()
)
