"""Context tokens: what this cluster sealed for a key opens, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.clock import clock
from dynamo_ray.core.context import CLOCK_AT, ContextKeys, clock_of_token
from dynamo_ray.core.version import EMPTY_CLOCK, MalformedStateError
from tests.core.histories import dot, seen, writer

CLUSTER, OLD, NEW = b"c" * 16, b"old secret", b"new secret"
KEYS = ContextKeys(CLUSTER, [OLD])
SEEN = seen(dot("a", 1), dot("b", 3))


def test_a_token_opens_for_the_key_it_was_sealed_for() -> None:
    assert KEYS.open(b"cart", KEYS.seal(b"cart", SEEN)) == SEEN
    assert KEYS.open(b"cart", KEYS.seal(b"cart", EMPTY_CLOCK)) == EMPTY_CLOCK


def test_a_token_of_another_key_cluster_or_secret_does_not_open() -> None:
    token = KEYS.seal(b"cart", SEEN)
    assert KEYS.open(b"art", token) is None
    assert ContextKeys(b"d" * 16, [OLD]).open(b"cart", token) is None
    assert ContextKeys(CLUSTER, [NEW]).open(b"cart", token) is None


def test_key_and_clock_cannot_be_cut_elsewhere() -> None:
    """The key's length is under the MAC, so bytes cannot wander from the clock into the key."""
    token = KEYS.seal(b"k", SEEN)
    moved = token[:CLOCK_AT] + SEEN[1:]
    assert KEYS.open(b"k" + SEEN[:1], moved) is None


def test_while_secrets_rotate_both_open_and_the_first_seals() -> None:
    before, during, after = KEYS, ContextKeys(CLUSTER, [NEW, OLD]), ContextKeys(CLUSTER, [NEW])
    old, new = before.seal(b"k", SEEN), during.seal(b"k", SEEN)
    assert during.open(b"k", old) == during.open(b"k", new) == SEEN
    assert after.open(b"k", new) == SEEN
    assert after.open(b"k", old) is None
    assert before.open(b"k", new) is None


@given(st.binary(min_size=1, max_size=20), st.integers(1, 255))
def test_a_token_altered_in_any_byte_does_not_open(key: bytes, mask: int) -> None:
    token = KEYS.seal(key, SEEN)
    for at in range(len(token)):
        altered = token[:at] + bytes([token[at] ^ mask]) + token[at + 1 :]
        assert KEYS.open(key, altered) is None
    for end in range(len(token)):
        assert KEYS.open(key, token[:end]) is None
    assert KEYS.open(key, token + b"\0") is None


@given(st.binary(max_size=80))
def test_chance_bytes_do_not_open(token: bytes) -> None:
    assert KEYS.open(b"k", token) is None


def test_people_can_read_what_a_token_says() -> None:
    assert clock_of_token(KEYS.seal(b"k", SEEN)) == clock({writer("a"): 1}, [dot("b", 3)])
    for wrong in (b"", b"\2" + KEYS.seal(b"k", SEEN)[1:], KEYS.seal(b"k", SEEN)[:-1]):
        with pytest.raises(MalformedStateError):
            clock_of_token(wrong)
