"""What a coordinator does not begin, and in which words it says so."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.admission import EXPIRED, refusal
from dynamo_ray.core.messages import ClientGet, Code
from dynamo_ray.core.settings import Limits
from tests.core.test_requests import put_of

LIMITS = Limits(batch_keys=3, batch_bytes=4, in_flight=2)
PUT = put_of(keys=[b"a", b"b"], values=[b"12", b"34"])
GET = ClientGet([b"k"] * 3, 0, False)


@pytest.mark.parametrize("message", [PUT, GET, put_of(keys=[b"k"], values=[b"12345"])])
def test_what_is_within_the_bounds_is_begun(message: Any) -> None:
    """The size of a single value is judged by its key: it fails alone."""
    assert refusal(message, False, 1, LIMITS) is None


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (ClientGet([b"k"] * 4, 0, False), "4 keys in one request; the most is 3"),
        (
            put_of(keys=[b"a", b"b"], values=[b"12", b"345"]),
            "5 bytes in one request; the most is 4",
        ),
        ("nonsense", "not a request of a client"),
    ],
)
def test_what_is_over_them_is_refused_whole(message: Any, text: str) -> None:
    found = refusal(message, False, 0, LIMITS)
    assert found is not None and (found.code, found.text) == (Code.BAD_REQUEST, text)


def test_values_that_are_none_weigh_nothing() -> None:
    assert refusal(put_of(keys=[b"a", b"b"], values=[None, b"1234"]), False, 0, LIMITS) is None


def test_more_than_may_be_waited_for_is_refused() -> None:
    found = refusal(PUT, False, 2, LIMITS)
    assert found is not None and found.code == Code.OVERLOADED
    assert "2 requests in flight" in found.text


def test_what_is_late_is_not_begun_whatever_it_is() -> None:
    for message in (PUT, "nonsense"):
        assert refusal(message, True, 0, LIMITS) == EXPIRED
