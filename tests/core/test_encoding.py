"""Messages as plain fields: a round trip for each, and no harm from a client's nonsense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.encoding import TTL_MAX_MS, BadMessageError, from_fields, to_fields
from dynamo_ray.core.messages import (
    ClientGet,
    ClientPut,
    Code,
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
    Reap,
    Scan,
    Scanned,
)

ID = b"i" * 16
PUT = ClientPut([b"k"], [b"v"], [None], [ID], [0], 0, False)
GET = ClientGet([b"k"], 0, False)
MESSAGES: list[Any] = [
    Mint([b"k"], [1], [None], [b"c"], [ID], [0], b"owner"),
    Merge([b"k"], [1], [b"s"], b"owner", True),
    Fetch([b"k"], [1]),
    Confirm([b"k"], [1], [ID]),
    Reap([b"k", b"l"], [1, 1], [ID, ID], [None, b"w" * 30]),
    Minted([b"s", None], [b"c", None], [0, 3]),
    Merged(),
    Fetched([b"s", None], False),
    Confirmed([True, False]),
    Refused(Code.OVERLOADED, "busy"),
    Copy(1, b"after"),
    Scan(3, b"k"),
    Scanned([b"k"], 2000, True),
    Copied([b"k"], [b"s"], 200, True),
    Compare(1, ID),
    Compared(ID * 32, False),
    Descend(1, [0, 31]),
    Descended(ID * 64),
    Enumerate(1, [7, 1023], b"after"),
    Enumerated([b"k"], [ID], [117], True),
    PUT,
    GET,
    PutDone([b"c", None], (Failure(1, Code.UNKNOWN, 2, 1, "why"),)),
    GetDone([b"s"], [b"seal"], True, (Failure(0, Code.UNAVAILABLE, 2, 1),)),
    PutDone([], []),
    GetDone([], [], False, []),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_frame(message: Any) -> None:
    frame = msgpack.packb([message.KIND, *to_fields(message)])
    kind, *given = msgpack.unpackb(frame)
    assert from_fields(kind, given) == message


def test_every_kind_has_a_number_of_its_own() -> None:
    assert len({type(m).KIND for m in MESSAGES}) == len({type(m) for m in MESSAGES})


@pytest.mark.parametrize("kind", [0, 99, None, "10", b"", [10], {}, 10.5])
def test_a_kind_that_is_none_is_refused(kind: Any) -> None:
    with pytest.raises(BadMessageError):
        from_fields(kind, [])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_too_many_fields_are_refused(message: Any) -> None:
    with pytest.raises(BadMessageError):
        from_fields(message.KIND, [*to_fields(message), 1])


@pytest.mark.parametrize(
    "failures", [None, 7, [7], [[1]], [[0, 1, 2, 3, "", 5]]], ids=lambda failures: repr(failures)
)
def test_failures_that_are_none_are_refused(failures: Any) -> None:
    for fields in ([[b"c"], failures],):
        with pytest.raises(BadMessageError):
            from_fields(PutDone.KIND, fields)
    with pytest.raises(BadMessageError):
        from_fields(GetDone.KIND, [[b"c"], [b"s"], False, failures])


def test_fields_with_defaults_may_be_left_out() -> None:
    assert from_fields(PutDone.KIND, [[b"c"]]) == PutDone([b"c"])
    assert from_fields(Minted.KIND, [[b"s"], [b"c"]]) == Minted([b"s"], [b"c"])


BAD_PUTS: list[dict[str, Any]] = [
    {"keys": b"k"},
    {"keys": None},
    {"keys": ["k"]},
    {"keys": [b"k", b"l"]},
    {"keys": {b"k": 1}},
    {"values": ["v"]},
    {"values": []},
    {"values": None},
    {"contexts": [0]},
    {"put_ids": [b"short"]},
    {"put_ids": [None]},
    {"put_ids": 5},
    {"ttls_ms": [-1]},
    {"ttls_ms": [TTL_MAX_MS + 1]},
    {"ttls_ms": [1.5]},
    {"ttls_ms": [True]},
    {"ttls_ms": [None]},
    {"ttls_ms": 5},
    {"w": -1},
    {"w": 2**31},
    {"w": None},
    {"w": True},
    {"strict": "yes"},
    {"strict": None},
    {"w": 1.5},
    {"w": float("nan")},
]


@pytest.mark.parametrize("change", BAD_PUTS, ids=repr)
def test_a_put_with_one_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadMessageError):
        from_fields(ClientPut.KIND, to_fields(replace(PUT, **change)))


@pytest.mark.parametrize(
    "change",
    [{"keys": 1}, {"keys": [1]}, {"r": "2"}, {"r": -1}, {"strict": 2}, {"r": None}],
    ids=repr,
)
def test_a_get_with_one_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadMessageError):
        from_fields(ClientGet.KIND, to_fields(replace(GET, **change)))


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=8,
)
_near = st.one_of(_plain, st.sampled_from([[b"k"], [ID], [0], [None], 0, False, 1000]))


@given(st.sampled_from([40, 41]), st.lists(_near, max_size=9))
def test_a_clients_nonsense_raises_nothing_else(kind: int, given: list[Any]) -> None:
    try:
        message = from_fields(kind, given)
    except BadMessageError:
        return
    assert all(type(key) is bytes for key in message.keys)
    assert type(message.strict) is bool


@given(_plain, st.lists(_plain, max_size=5))
def test_no_kind_and_no_fields_raise_anything_else(kind: Any, given: list[Any]) -> None:
    try:
        from_fields(kind, given)
    except BadMessageError:
        return
