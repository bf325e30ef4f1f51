"""Canonical bytes: one form per state, and nothing else is read as one."""

from __future__ import annotations

from hashlib import blake2b
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.clock import EMPTY, Clock, Dot, clock
from dynamo_ray.core.version import (
    BEYOND,
    EMPTY_CLOCK,
    FORM,
    HEAD,
    PAYLOAD_AT,
    VERSION,
    WRITER,
    Kind,
    MalformedStateError,
    State,
    clock_of,
    decode,
    decode_clock,
    decode_strict,
    digest,
    dot_bytes,
    dot_of,
    encode,
    encode_clock,
    hide_expired,
    is_canonical,
    is_expired,
    is_simple,
    purged,
    siblings,
    values,
)
from tests.core.histories import History, dot, histories, seen, state, version, writer

SIMPLE = state(version(dot("a", 2), b"value"), also_seen=[dot("a", 1)])
SIBLINGS = state(version(dot("a", 2), b"x"), version(dot("b", 1), None), also_seen=[dot("c", 3)])
NOTHING = encode(State())


def test_a_simple_state_is_a_hundred_bytes_and_its_value() -> None:
    assert len(SIMPLE) == PAYLOAD_AT + len(b"value")
    assert SIMPLE[PAYLOAD_AT:] == b"value"
    assert is_simple(SIMPLE)
    assert not is_simple(SIBLINGS)
    assert siblings(SIMPLE) == 1 and siblings(SIBLINGS) == 2


def test_one_writer_whose_clock_runs_ahead_of_its_version_is_not_simple() -> None:
    assert not is_simple(state(version(dot("a", 1), b"x"), also_seen=[dot("a", 2)]))


def test_the_layout_is_fixed() -> None:
    """These bytes are on disks: a change of the form needs a new form number."""
    held = state(version(dot("a", 1), b"hi"))
    expected = (
        HEAD.pack(FORM, 1, 0, 1)
        + WRITER.pack(writer("a"), 1)
        + VERSION.pack(0, 1, Kind.VALUE, 1000, 0, b"hi".ljust(16, b"."), 2)
        + b"hi"
    )
    assert held == expected
    assert EMPTY_CLOCK == HEAD.pack(FORM, 0, 0, 0) == encode_clock(EMPTY)


def test_the_values_of_a_state_are_shown_once_each_and_tombstones_not() -> None:
    twice = state(
        version(dot("a", 1), b"x"), version(dot("b", 1), b"x"), version(dot("c", 1), None)
    )
    assert values(decode(twice)) == (b"x",)
    assert values(decode(NOTHING)) == ()


def test_a_put_id_is_found_in_the_state_that_carries_it() -> None:
    assert dot_of(SIMPLE, b"value".ljust(16, b".")) == dot("a", 2)
    assert dot_of(SIMPLE, bytes(16)) is None
    assert dot_bytes(dot("a", 2)) == writer("a") + (2).to_bytes(8, "big")


def test_an_expired_value_is_hidden_at_its_time_and_keeps_its_dot() -> None:
    held = version(dot("a", 1), b"secret")._replace(put_id=bytes(16), expiry_ms=5_000)
    assert not is_expired(held, 4_999)
    assert is_expired(held, 5_000)
    assert not is_expired(held._replace(expiry_ms=0), 10**15)
    raw = state(held)
    assert hide_expired(raw, 4_999) is raw
    hidden = decode(hide_expired(raw, 5_000))
    assert values(hidden) == ()
    assert hidden.clock == decode(raw).clock
    assert b"secret" not in hide_expired(raw, 5_000)


def test_hiding_leaves_what_is_not_a_value_or_not_expired() -> None:
    kept = version(dot("b", 1), b"kept")
    gone = version(dot("a", 1), b"gone")._replace(expiry_ms=10)
    dead = version(dot("c", 1), None)._replace(expiry_ms=10)
    shown = decode(hide_expired(state(gone, kept, dead), 10)).versions
    assert shown == (purged(gone), kept, dead)
    assert purged(purged(gone)) == purged(gone)


def test_the_digest_is_that_of_the_values_hashes() -> None:
    held = version(dot("a", 1), b"v")
    assert digest(state(held)) == digest(state(purged(held)))
    assert digest(state(held)) != digest(state(held._replace(payload=b"w")))
    assert len(digest(NOTHING)) == 16


# Bytes that are not the canonical form of any state.


def forged(
    writers: list[tuple[bytes, int]], beyond: list[tuple[int, int]], rows: list[bytes]
) -> bytes:
    parts = [HEAD.pack(FORM, len(writers), len(beyond), len(rows))]
    parts += [WRITER.pack(*one) for one in writers]
    parts += [BEYOND.pack(*one) for one in beyond]
    return b"".join(parts + rows)


def row(index: int, counter: int, kind: int = 0, payload: bytes = b"") -> bytes:
    return VERSION.pack(index, counter, kind, 0, 0, bytes(16), len(payload)) + payload


A, B = writer("a"), writer("b")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(SIMPLE + b"\0", id="trailing byte"),
        pytest.param(b"\2" + SIMPLE[1:], id="another form"),
        pytest.param(HEAD.pack(FORM, 2**32 - 1, 2**32 - 1, 2**32 - 1), id="counts of a bomb"),
        pytest.param(forged([(B, 1), (A, 1)], [], []), id="writers out of order"),
        pytest.param(forged([(A, 1), (A, 2)], [], []), id="a writer twice"),
        pytest.param(forged([(A, 0)], [], []), id="a writer of nothing"),
        pytest.param(forged([(A, 1)], [(0, 2)], []), id="a dot that belongs to the vector"),
        pytest.param(forged([(A, 0)], [(0, 1)], []), id="a first dot that belongs to the vector"),
        pytest.param(forged([(A, 3)], [(0, 2)], []), id="a dot that the vector covers"),
        pytest.param(forged([(A, 0)], [(0, 0)], []), id="a dot of counter zero"),
        pytest.param(forged([(A, 1)], [(0, 3), (0, 3)], []), id="a dot twice"),
        pytest.param(forged([(A, 1)], [(0, 4), (0, 3)], []), id="dots out of order"),
        pytest.param(forged([(A, 1)], [(1, 3)], []), id="a dot of no writer"),
        pytest.param(forged([(A, 1)], [], [row(1, 1)]), id="a version of no writer"),
        pytest.param(forged([(A, 1)], [], [row(0, 2)]), id="a version that the clock has not seen"),
        pytest.param(forged([(A, 1)], [], [row(0, 0)]), id="a version of counter zero"),
        pytest.param(forged([(A, 0)], [], [row(0, 0)]), id="a version of counter zero, no clock"),
        pytest.param(forged([(A, 2)], [], [row(0, 2), row(0, 1)]), id="versions out of order"),
        pytest.param(forged([(A, 1)], [], [row(0, 1), row(0, 1)]), id="a version twice"),
        pytest.param(forged([(A, 1)], [], [row(0, 1, kind=3)]), id="an unknown kind"),
        pytest.param(
            forged([(A, 1)], [], [row(0, 1, kind=1, payload=b"x")]), id="a full tombstone"
        ),
        pytest.param(forged([(A, 1)], [], [row(0, 1, kind=2, payload=b"x")]), id="a short hash"),
    ],
)
def test_what_encode_would_not_have_written_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedStateError):
        decode_strict(data)


def test_a_clock_with_versions_is_no_clock() -> None:
    with pytest.raises(MalformedStateError):
        decode_clock(SIMPLE)
    assert decode_clock(clock_of(SIMPLE)) == clock({A: 2})


@given(histories)
def test_a_state_has_one_form(history: History) -> None:
    states = [held for held, _ in history.states]
    for held in states:
        assert encode(decode_strict(held)) == held
        assert clock_of(held) == encode_clock(decode(held).clock)
        assert siblings(held) == len(decode(held).versions)
        head = is_simple(held)
        assert head == (siblings(held) == 1 and decode(held).clock == _only(held))
    for a, b in combinations(states, 2):
        assert (a == b) == (decode(a) == decode(b))
    for token, _ in history.contexts:
        assert encode_clock(decode_clock(token)) == token


def _only(held: bytes) -> Clock:
    last = decode(held).versions[-1].dot
    return Clock({last.writer: last.counter})


@given(histories)
def test_every_cut_is_refused(history: History) -> None:
    for held in dict.fromkeys([SIBLINGS, *(held for held, _ in history.states[-2:])]):
        for end in range(len(held)):
            with pytest.raises(MalformedStateError):
                decode_strict(held[:end])


@given(histories, st.sampled_from([0x01, 0x02, 0x80, 0xFF]))
def test_a_changed_byte_gives_another_canonical_state_or_is_refused(
    history: History, mask: int
) -> None:
    for held in dict.fromkeys([SIMPLE, *(held for held, _ in history.states[-1:])]):
        for at in range(len(held)):
            changed = held[:at] + bytes([held[at] ^ mask]) + held[at + 1 :]
            try:
                found = decode_strict(changed)
            except MalformedStateError:
                continue
            assert encode(found) == changed
            assert clock(found.clock.vector, found.clock.beyond) == found.clock
            assert all(v.dot.counter > 0 and found.clock.covers(v.dot) for v in found.versions)


@given(histories, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=2))
def test_law_what_is_canonical_is_what_decode_strict_takes(
    history: History, changes: list[tuple[int, int]]
) -> None:
    for held in [SIMPLE, *(one for one, _ in history.states)]:
        changed = bytearray(held)
        for at, byte in changes:
            changed[at % len(changed)] = byte
        assert is_canonical(held) and is_canonical(bytes(changed)) == _is_taken(bytes(changed))


def test_one_byte_of_a_simple_state_may_make_it_no_state() -> None:
    for kind in (Kind.TOMBSTONE, Kind.PURGED):
        assert not is_canonical(SIMPLE[:63] + bytes([kind]) + SIMPLE[64:])
    for at in range(PAYLOAD_AT):
        for byte in (0, 1, 2, 3, 0xFF):
            changed = SIMPLE[:at] + bytes([byte]) + SIMPLE[at + 1 :]
            assert is_canonical(changed) == _is_taken(changed), (at, byte)
    for size in range(len(SIMPLE) + 2):
        cut = (SIMPLE + b"x")[:size]
        assert is_canonical(cut) == _is_taken(cut) == (size == len(SIMPLE))


def _is_taken(data: bytes) -> bool:
    try:
        decode_strict(data)
    except MalformedStateError:
        return False
    return True


@given(st.binary(max_size=300))
def test_chance_bytes_raise_nothing_else(data: bytes) -> None:
    for one in (data, SIMPLE[:13] + data, SIBLINGS[:60] + data):
        try:
            decode_strict(one)
            decode_clock(one)
        except MalformedStateError:
            continue


@given(histories)
def test_hiding_and_purging_keep_clock_and_digest(history: History) -> None:
    for held, _ in history.states[-4:]:
        for now_ms in (0, 10**15):
            hidden = hide_expired(held, now_ms)
            assert digest(hidden) == digest(held)
            assert clock_of(hidden) == clock_of(held)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), max_size=6))
def test_seen_covers_exactly_its_dots(pairs: list[tuple[str, int]]) -> None:
    dots = {dot(letter, counter) for letter, counter in pairs}
    found = decode_clock(seen(*dots))
    universe = {Dot(writer(letter), n) for letter in "abc" for n in range(1, 6)}
    assert {one for one in universe if found.covers(one)} == dots


@given(histories)
def test_the_digest_of_a_simple_state_is_made_as_that_of_any_other(history: History) -> None:
    for held, _ in history.states[-4:]:
        whole = decode(held)
        body = encode(State(whole.clock, tuple(map(purged, whole.versions))))
        assert digest(held) == blake2b(body, digest_size=16).digest()
