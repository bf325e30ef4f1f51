"""Put ids outlive their versions: for long enough, and in bounded room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.remembered import RememberedPuts


def put_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def dot_bytes(number: int) -> bytes:
    return bytes(30) + number.to_bytes(8, "big")


def test_an_id_is_known_until_it_is_old() -> None:
    puts = RememberedPuts(keep_ms=100, most=10)
    puts.on_tick(1_000)
    puts.remember([(put_id(1), dot_bytes(7))])
    puts.on_tick(1_099)
    assert puts.get(put_id(1)) == dot_bytes(7)
    puts.on_tick(1_100)  # one generation older, still known
    assert puts.get(put_id(1)) == dot_bytes(7)
    puts.on_tick(1_200)
    assert puts.get(put_id(1)) is None
    assert puts.get(put_id(2)) is None


def test_an_undone_replacement_is_forgotten_in_both_generations() -> None:
    puts = RememberedPuts(keep_ms=100, most=10)
    puts.remember([(put_id(1), dot_bytes(1))])
    puts.on_tick(100)
    puts.remember([(put_id(2), dot_bytes(2))])
    puts.forget([(put_id(1), b""), (put_id(2), b""), (put_id(3), b"")])
    assert len(puts) == 0


def test_when_there_are_too_many_the_oldest_go_first() -> None:
    puts = RememberedPuts(keep_ms=10**9, most=10)
    for number in range(100):
        puts.remember([(put_id(number), dot_bytes(number))])
        assert len(puts) <= 10
    assert puts.get(put_id(99)) == dot_bytes(99)
    assert puts.get(put_id(0)) is None


@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=40),
)
def test_within_the_time_to_keep_nothing_is_lost(steps: list[tuple[int, bool]]) -> None:
    """The dumb twin: a plain list of (when, id)."""
    puts, now, twin = RememberedPuts(keep_ms=100, most=1_000), 0, []
    puts.on_tick(0)
    for number, (later, is_put) in enumerate(steps):
        now += later
        puts.on_tick(now)
        if is_put:
            puts.remember([(put_id(number), dot_bytes(number))])
            twin.append((now, number))
        for when, known in twin:
            if now - when < 100:
                assert puts.get(put_id(known)) == dot_bytes(known)
