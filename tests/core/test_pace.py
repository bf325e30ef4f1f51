"""What background work may use: bytes and a share of the time, and less where all is busy."""

from __future__ import annotations

import pytest

from dynamo_ray.core.pace import LONGEST_S, Allowance


def asked_in_ten_seconds(took_ms: int, share: float = 0.25, is_waited_for: bool = False) -> int:
    """How many questions are asked whose answers take so long; ticks are 100 ms apart."""
    allowance = Allowance(1 << 40, share)
    asked, free_at = 0, 0.0
    for now in range(0, 10_000, 100):
        allowance.on_tick(now)
        free_at = max(free_at, now)
        while free_at < now + 100 and allowance.is_enough(is_waited_for):
            asked, free_at = asked + 1, free_at + took_ms
            allowance.spend(1, took_ms)
    return asked


@pytest.mark.parametrize("took_ms", [2, 10, 80, 400])
def test_answers_take_a_share_of_the_time(took_ms: int) -> None:
    for share in (0.25, 0.125):
        used = asked_in_ten_seconds(took_ms, share) * took_ms / 10_000
        assert share * 0.9 <= used <= share * 1.2 + 0.04


def test_where_answers_take_ten_times_as_long_a_tenth_is_asked() -> None:
    quiet, busy = asked_in_ten_seconds(5), asked_in_ten_seconds(50)
    assert 8 <= quiet / busy <= 12


def test_what_somebody_waits_for_takes_the_time_that_it_needs() -> None:
    assert asked_in_ten_seconds(10, is_waited_for=True) >= 990


def test_one_answer_that_never_came_does_not_stop_it_for_long() -> None:
    allowance = Allowance(1 << 40, 0.25)
    allowance.on_tick(0)
    allowance.spend(0, 60_000)
    waits = next(
        s for s in range(1, 60) if allowance.on_tick(s * 1000) or allowance.is_enough(False)
    )
    assert waits <= LONGEST_S / 0.25


def test_bytes_are_bounded_for_all_and_not_saved_up() -> None:
    allowance = Allowance(1000, 0.25)
    allowance.on_tick(0)
    allowance.on_tick(60_000)
    for is_waited_for in (False, True):
        assert allowance.is_enough(is_waited_for)
    allowance.spend(1000)
    for is_waited_for in (False, True):
        assert not allowance.is_enough(is_waited_for)
    allowance.on_tick(60_100)
    assert allowance.is_enough(True)
