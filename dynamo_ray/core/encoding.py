"""Messages as plain fields, and back: what travels in a frame after the envelope.

A message of kind K is its dataclass's fields in order. What a client sent is checked whole before
anything acts on it (its columns have one length and the right types); peers hold the cluster's
secret and run this code, so their columns are only unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from dynamo_ray.core.messages import (
    ClientGet,
    ClientPut,
    Failure,
    Fetch,
    Fetched,
    GetDone,
    Merge,
    Merged,
    Mint,
    Minted,
    PutDone,
    Refused,
)
from dynamo_ray.core.mint import PUT_ID_BYTES
from dynamo_ray.core.upkeep import (
    Compare,
    Compared,
    Confirm,
    Confirmed,
    Copied,
    Copy,
    Descend,
    Descended,
    Enumerate,
    Enumerated,
    Offer,
    Offered,
    Reap,
    Scan,
    Scanned,
    Seal,
    Sealed,
)

TTL_MAX_MS = 100 * 366 * 24 * 3600 * 1000
_CLASSES: tuple[Any, ...] = (
    Mint,
    Merge,
    Fetch,
    Confirm,
    Reap,
    Copy,
    Scan,
    Compare,
    Descend,
    Enumerate,
    Offer,
    Seal,
    Minted,
    Merged,
    Fetched,
    Confirmed,
    Copied,
    Scanned,
    Compared,
    Descended,
    Enumerated,
    Offered,
    Sealed,
    Refused,
    ClientPut,
    ClientGet,
    PutDone,
    GetDone,
)
_BY_KIND = {cls.KIND: cls for cls in _CLASSES}
CLIENT_KINDS = frozenset({ClientPut.KIND, ClientGet.KIND})
_DONE_KINDS = frozenset({PutDone.KIND, GetDone.KIND})


_BYTES, _INTS = frozenset({bytes}), frozenset({int})
_BYTES_OR_NONE = frozenset({bytes, type(None)})


class BadMessageError(ValueError):
    """Fields that are not those of a message; the sentence says which."""


def _getter(cls: Any) -> Callable[[Any], tuple[Any, ...]]:
    names = [field.name for field in fields(cls)]
    if not names:
        return lambda message: ()
    getter = attrgetter(*names)  # which gives no tuple for a single name
    return getter if len(names) > 1 else lambda message: (getter(message),)


_GETTERS = {cls: _getter(cls) for cls in _CLASSES}


def to_fields(message: Any) -> tuple[Any, ...]:
    """The fields of a message, for a frame; its kind is `message.KIND`."""
    return _GETTERS[type(message)](message)


def from_fields(kind: int, given: Sequence[Any]) -> Any:
    """The message that a frame holds. Raises BadMessageError for what is none."""
    cls = _BY_KIND.get(kind) if type(kind) is int else None
    if cls is None:
        raise BadMessageError(f"no message is of kind {kind}")
    try:
        message = cls(*given)
    except TypeError as error:
        raise BadMessageError(f"a {cls.__name__} has not {len(given)} fields") from error
    if kind in CLIENT_KINDS:
        _check_client(message)
    elif kind in _DONE_KINDS and message.failures != []:
        message = _with_failures(message)
    return message


def _with_failures(message: Any) -> Any:
    try:
        return replace(message, failures=tuple(Failure(*row) for row in message.failures))
    except TypeError as error:
        raise BadMessageError("the failures of a reply cannot be read") from error


def _check_client(message: ClientPut | ClientGet) -> None:
    """Refuse a client's message whose columns differ in length or hold what they must not."""
    if isinstance(message, ClientGet):
        number = message.r
        columns: tuple[tuple[Any, Any], ...] = ((message.keys, _BYTES),)
    else:
        number = message.w
        columns = (
            (message.keys, _BYTES),
            (message.values, _BYTES_OR_NONE),
            (message.contexts, _BYTES_OR_NONE),
            (message.put_ids, _BYTES),
            (message.ttls_ms, _INTS),
        )
    count = len(message.keys) if isinstance(message.keys, list | tuple) else -1
    for column, types in columns:
        if not isinstance(column, list | tuple) or len(column) != count:
            raise BadMessageError("the columns of a request differ in length")
        if not types.issuperset(map(type, column)):
            raise BadMessageError("a column of a request holds something of the wrong type")
    if type(number) is not int or not 0 <= number < 2**31:
        raise BadMessageError("a number of a request is out of range")
    if type(message.strict) is not bool:
        raise BadMessageError("strict must be true or false")
    if isinstance(message, ClientPut):
        _check_put(message)


def _check_put(message: ClientPut) -> None:
    if not message.keys:
        return
    if min(message.ttls_ms) < 0 or max(message.ttls_ms) > TTL_MAX_MS:
        raise BadMessageError("a lifetime must be from 0 to 100 years")
    if {PUT_ID_BYTES} != set(map(len, message.put_ids)):
        raise BadMessageError(f"a put id has {PUT_ID_BYTES} bytes")
