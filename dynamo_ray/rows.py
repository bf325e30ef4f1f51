"""Operations as rows of a request: checked arguments, put ids, and parts of a bounded size."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import accumulate, repeat
from operator import add
from types import NoneType
from typing import Any

from dynamo_ray.core.encoding import TTL_MAX_MS
from dynamo_ray.core.mint import PUT_ID_BYTES
from dynamo_ray.errors import BadRequestError, DynamoError, WrongTypeError

Key = str | bytes
Row = tuple[Any, ...]

# Requests of a many-key call follow each other through client, coordinator and nodes like wagons:
# short enough that all of them work at the same time, and that none holds its loop for long.
KEYS_A_REQUEST = 500
# Single operations that leave together.
KEYS_A_BATCH = 1000
# A member handles a message of so many bytes in two or three milliseconds.
BYTES_A_REQUEST = 1024 * 1024


def key_bytes(key: Key) -> bytes:
    """A key as bytes: text as UTF-8. Raises TypeError for anything else."""
    if type(key) is bytes:
        return key
    if isinstance(key, str):
        return key.encode()
    raise TypeError(f"a key is str or bytes, not {type(key).__name__}")


def keys_bytes(keys: Sequence[Key]) -> list[bytes]:
    """`key_bytes` of many keys."""
    return [key if type(key) is bytes else key_bytes(key) for key in keys]


def value_bytes(value: Any) -> bytes:
    """A value as bytes. Raises TypeError for anything that is not bytes-like."""
    if type(value) is bytes:
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(
        f"a value is bytes, not {type(value).__name__}; "
        "dynamo_ray.codec(...) turns objects into bytes"
    )


def put_row(key: Key, value: bytes | None, context: bytes | None, ttl_s: float | None) -> Row:
    """One put, or a delete (`value` None), with a put id of its own."""
    put_id = os.urandom(PUT_ID_BYTES)
    return key_bytes(key), value, _checked_context(context), put_id, _ttl_ms(ttl_s)


def put_rows(
    keys: Sequence[Key],
    values: Iterable[bytes | None],
    contexts: Mapping[Key, bytes] | None,
    ttl_s: float | None,
) -> list[Row]:
    """`put_row` for many keys: the put ids are drawn together."""
    drawn = os.urandom(PUT_ID_BYTES * len(keys))
    ids = [drawn[at : at + PUT_ID_BYTES] for at in range(0, len(drawn), PUT_ID_BYTES)]
    known = _known(contexts, keys)
    seen = [_checked_context(known.get(key)) for key in keys] if known else repeat(None, len(keys))
    ttls_ms = repeat(_ttl_ms(ttl_s), len(keys))
    return list(zip(keys_bytes(keys), values, seen, ids, ttls_ms, strict=True))


def slices(rows: list[Row], keys: int, most: int) -> Iterable[list[Row]]:
    """Parts of a bounded number of keys and bytes."""
    start = 0
    while start < len(rows):
        count = fitting(rows, start, keys, most)
        yield rows[start : start + count]
        start += count


def fitting(
    rows: list[Row], start: int = 0, keys: int = KEYS_A_BATCH, most: int = BYTES_A_REQUEST
) -> int:
    """How many rows from `start` make one request: bounded in keys and bytes, at least one."""
    part = rows[start : start + keys]
    sizes = [len(row[0]) for row in part]
    if part and len(part[0]) > 1:
        sizes = list(map(add, sizes, [len(row[1] or b"") for row in part]))
    if sum(sizes) <= most:
        return len(part)
    return max(1, bisect_right(list(accumulate(sizes)), most))


def distinct(keys: Iterable[Key]) -> list[Key]:
    """Each key once, in order. Raises TypeError for a single key, which is no list of keys."""
    if isinstance(keys, str | bytes):
        raise TypeError(f"many keys are given as a list of keys, not as {type(keys).__name__}")
    given = list(keys)
    if not set(map(type, given)) <= {str, bytes}:
        # One that cannot be a key of a dict could not be told to fail alone.
        given = [key if isinstance(key, Hashable) else key_bytes(key) for key in given]
    return list(dict.fromkeys(given))


def usable(items: Mapping[Any, Any]) -> tuple[Mapping[Key, bytes | None], dict[Any, DynamoError]]:
    """The items that can be sent, values as bytes, and what is wrong with each of the others.

    A value of None stands for none: a get or a delete.
    """
    if set(map(type, items)) == {bytes} and set(map(type, items.values())) <= {bytes, NoneType}:
        return items, {}
    good: dict[Key, bytes | None] = {}
    wrong: dict[Any, DynamoError] = {}
    for key, value in items.items():
        try:
            key_bytes(key)
            good[key] = None if value is None else value_bytes(value)
        except TypeError as error:
            wrong[key] = WrongTypeError(str(error))
        except ValueError as error:
            wrong[key] = BadRequestError(f"the key is no text that has bytes ({error})")
    return good, wrong


def answers(name: str, wanted: int) -> int:
    """`r` or `w` as given by a caller. Raises TypeError or ValueError for what is no number."""
    if type(wanted) is not int:
        raise TypeError(f"{name} is a number of answers, not {type(wanted).__name__}")
    if not 1 <= wanted < 2**31:
        raise ValueError(f"{name} is at least 1, not {wanted}")
    return wanted


def seconds(timeout_s: float) -> float:
    """A caller's timeout. Raises ValueError for one that cannot be."""
    if not 0 < timeout_s < 3600:
        raise ValueError(f"timeout_s must be above 0 and below 3600, not {timeout_s}")
    return timeout_s


def _known(contexts: Mapping[Key, bytes] | None, keys: Iterable[Key]) -> Mapping[Key, bytes]:
    """The contexts by key. One of no key is refused: the put it was meant for would be blind."""
    if contexts and (strange := contexts.keys() - set(keys)):
        raise ValueError(f"contexts holds {strange.pop()!r}, which is none of the keys")
    return contexts or {}


def _checked_context(context: bytes | None) -> bytes | None:
    if context is not None and not isinstance(context, bytes):
        raise TypeError(f"a context is bytes, not {type(context).__name__}")
    return context


def _ttl_ms(ttl_s: float | None) -> int:
    if ttl_s is None:
        return 0
    if not 0 < ttl_s * 1000 <= TTL_MAX_MS:
        raise ValueError(f"ttl_s must be above 0 and at most 100 years, not {ttl_s}")
    return max(1, int(ttl_s * 1000))
