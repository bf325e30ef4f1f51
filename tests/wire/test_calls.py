"""The table of calls: every call ends once, and ended calls leave nothing behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.wire.calls import Calls
from dynamo_ray.wire.errors import Failure


def add(calls: Calls, deadline: float | None = None) -> tuple[int, bool]:
    calls.last += 2
    calls.waiting[calls.last] = (lambda *_: None, lambda _: None)
    return calls.last, deadline is not None and calls.limit(calls.last, deadline)


def test_only_the_earliest_deadline_asks_for_an_alarm() -> None:
    calls = Calls(-1)
    assert [add(calls, at)[1] for at in (5.0, 6.0, 4.0, 5.5)] == [True, False, True, False]
    assert calls.next_deadline() == 4.0


def test_calls_expire_in_time_and_once() -> None:
    calls = Calls(-1)
    for at in (3.0, 1.0, 2.0):
        add(calls, at)
    assert [len(calls.expired(now)) for now in (0.9, 2.0, 2.0, 9.0)] == [0, 2, 0, 1]
    assert calls.next_deadline() is None and not calls.waiting


def test_a_call_that_was_answered_does_not_expire() -> None:
    calls = Calls(-1)
    call, _ = add(calls, 1.0)
    calls.waiting.pop(call)
    assert calls.expired(2.0) == []


def test_what_was_handed_over_is_lost_and_what_was_not_is_unsent() -> None:
    calls = Calls(0)
    add(calls)
    calls.sent = calls.last
    add(calls)
    assert [failure for _, failure in calls.take_all()] == [Failure.LOST, Failure.UNSENT]
    assert calls.take_all() == []


def test_deadlines_of_answered_calls_do_not_pile_up() -> None:
    calls = Calls(-1)
    for _ in range(10_000):
        call, _ = add(calls, 1e9)
        calls.waiting.pop(call)
    assert len(calls._deadlines) < 200


def test_only_lost_and_timed_out_leave_doubt() -> None:
    assert {failure for failure in Failure if failure.maybe_received} == {
        Failure.LOST,
        Failure.TIMED_OUT,
    }


@given(
    st.lists(st.tuples(st.sampled_from(["add", "answer", "tick"]), st.integers(1, 20)), max_size=60)
)
def test_a_dumb_twin_agrees(steps: list[tuple[str, int]]) -> None:
    """The twin keeps call -> deadline and looks at all of them every time."""
    calls, twin, now = Calls(-1), dict[int, float](), 0.0
    for step, number in steps:
        if step == "add":
            call, alarm = add(calls, now + number)
            assert (
                alarm == (now + number < min(twin.values(), default=1e9)) or not alarm or not twin
            )
            twin[call] = now + number
        elif step == "answer" and twin:
            call = sorted(twin)[number % len(twin)]
            del twin[call], calls.waiting[call]
        else:
            now += number / 4
            due = [call for call, deadline in twin.items() if deadline <= now]
            assert len(calls.expired(now)) == len(due)
            for call in due:
                del twin[call]
        assert calls.waiting.keys() == twin.keys()
        assert calls.next_deadline() == min(twin.values(), default=None)
