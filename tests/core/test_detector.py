"""Who is suspected: evidence, silence, what a line is used to, and an observer that was asleep."""

from __future__ import annotations

from itertools import accumulate
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynamo_ray.core.detector import DEVIATIONS, MOST, PHI, WINDOW, Detector, _phi
from dynamo_ray.core.settings import Times

A, B = b"a", b"b"
TIMES = Times(heartbeat_s=0.1, suspect_s=0.6, tick_s=0.1)


def watching(*nodes: bytes, now: float = 0.0) -> Detector:
    detector = Detector(TIMES)
    detector.watch(nodes, now)
    detector.on_tick(now)
    return detector


def ticks(detector: Detector, start: int, end: int, heard: bytes = b"") -> frozenset[bytes]:
    """Tenths of a second, tick by tick; who was newly suspected."""
    new: frozenset[bytes] = frozenset()
    for tenth in range(start, end):
        if heard:
            detector.on_heard(heard, tenth / 10)
        new |= detector.on_tick(tenth / 10)
    return new


def test_silence_is_evidence_after_the_time_to_suspect() -> None:
    detector = watching(A, B)
    assert ticks(detector, 1, 6, heard=A) == frozenset()
    assert ticks(detector, 6, 9, heard=A) == {B}
    assert detector.suspected == {B}
    assert detector.silence_of(B, 1.0).silence_s == 1.0
    assert detector.silence_of(b"stranger", 1.0).silence_s == 0.0


def test_after_a_silence_one_sign_of_life_may_be_a_straggler_and_two_are_none() -> None:
    detector = watching(A)
    ticks(detector, 1, 9)
    assert not detector.on_heard(A, 0.9)
    assert not detector.on_heard(A, 0.91), "the same heartbeat"
    assert ticks(detector, 10, 12) == frozenset() and detector.suspected == {A}
    assert detector.on_heard(A, 1.2)
    assert not detector.on_heard(A, 1.3)
    assert detector.suspected == frozenset()


def test_who_stammers_stays_suspected_and_is_told_of_once() -> None:
    detector = watching(A)
    assert ticks(detector, 1, 9) == {A}
    for second in range(1, 9):
        assert not detector.on_heard(A, float(second))
        assert ticks(detector, 10 * second, 10 * second + 10) == frozenset()
    assert detector.suspected == {A}


def test_a_closed_connection_is_evidence_at_once_and_until_a_sign_of_life() -> None:
    detector = watching(A, B)
    assert detector.on_down(A, 0.01) == {A}
    assert detector.on_down(A, 0.02) == frozenset()
    assert ticks(detector, 1, 3, heard=B) == frozenset()
    assert detector.suspected == {A}
    assert detector.on_heard(A, 0.3)
    assert detector.suspected == frozenset()


def test_strangers_are_neither_heard_nor_suspected() -> None:
    detector = watching(A)
    assert not detector.on_heard(b"x", 0.1)
    assert detector.on_down(b"x", 0.1) == frozenset()
    assert detector.suspected == frozenset()


def test_who_leaves_is_forgotten_and_who_comes_has_time_to_show_itself() -> None:
    detector = watching(A)
    detector.on_down(A, 0.1)
    detector.watch([B], 50.0)
    assert detector.suspected == frozenset()
    assert detector.on_tick(50.1) == frozenset()
    assert ticks(detector, 502, 520) == {B}


def test_an_observer_that_was_asleep_suspects_nobody_for_it() -> None:
    detector = watching(A, B)
    assert detector.on_tick(5.0) == frozenset()
    assert ticks(detector, 51, 56) == frozenset()
    assert ticks(detector, 56, 60) == {A, B}


def test_nor_does_it_when_it_wakes_to_a_closed_connection() -> None:
    """What waits in the socket after a stall comes before the tick: only that node is down."""
    detector = watching(A, B)
    assert detector.on_down(A, 5.0) == {A}
    assert detector.on_tick(5.01) == frozenset()
    assert detector.suspected == {A}


def test_nor_when_it_wakes_to_a_new_view() -> None:
    detector = watching(A, B)
    detector.watch([A, B], 5.0)
    assert detector.suspected == frozenset()


# A stall of the observer once took back its suspicion of somebody whom it had still not heard.
STALLED = [("heard", A)] * 2 + [("tick", A)] + [("heard", A)] * 2 + [("tick", A)] * 2
STALLED += [("heard", A)] * 3 + [("tick", A)]


@example(STALLED)
@given(st.lists(st.tuples(st.sampled_from(["heard", "down", "tick"]), st.sampled_from([A, B]))))
def test_new_suspects_are_told_once(events: list[tuple[str, bytes]]) -> None:
    detector, told, now = watching(A, B), set[bytes](), 0.0
    for name, node in events:
        now += 0.1
        if name == "heard":
            if detector.on_heard(node, now):
                assert node in told
                told.discard(node)
        else:
            new = detector.on_down(node, now) if name == "down" else detector.on_tick(now)
            assert not new & told
            told |= new
        assert detector.suspected == told


# What the line is used to.


class FixedSilence:
    """The detector before this one, as a baseline: silence longer than `suspect_s` is evidence."""

    def __init__(self) -> None:
        self._heard = 0.0
        self.suspected: frozenset[bytes] = frozenset()

    def on_heard(self, node: bytes, at: float) -> None:
        self._heard = at
        self.suspected = frozenset()

    def on_tick(self, now: float) -> frozenset[bytes]:
        new = frozenset({A}) if now - self._heard > TIMES.suspect_s else frozenset()
        new -= self.suspected
        self.suspected |= new
        return new


def suspicions(detector: Detector | FixedSilence, arrivals: list[float]) -> list[float]:
    """When the node was newly suspected; ticks come each tenth of a second in between."""
    at, tick = [], 0
    for arrival in [*arrivals, arrivals[-1] + 5]:
        while tick * TIMES.tick_s < arrival:
            if detector.on_tick(tick * TIMES.tick_s):
                at.append(tick * TIMES.tick_s)
            tick += 1
        if arrival != arrivals[-1] + 5:
            detector.on_heard(A, arrival)
    return at


def arrivals_of(intervals: list[float]) -> list[float]:
    return list(accumulate(intervals))


def calm(chance: Random, count: int) -> list[float]:
    return [0.1 + chance.random() * 0.01 for _ in range(count)]


def jittery(chance: Random, count: int) -> list[float]:
    """Each heartbeat is answered after another 300 ms, on the average."""
    return [0.1 + chance.expovariate(1 / 0.3) for _ in range(count)]


def stalling(chance: Random, count: int) -> list[float]:
    """Regular, but for a stall of about a second now and then: a busy machine."""
    return [0.1 if chance.random() > 0.02 else 0.7 + chance.random() * 0.5 for _ in range(count)]


@pytest.mark.parametrize("trace", [jittery, stalling])
@pytest.mark.parametrize("seed", range(10))
def test_where_heartbeats_come_late_it_does_not_flap(trace, seed: int) -> None:  # type: ignore[no-untyped-def]
    arrivals = arrivals_of(trace(Random(seed), 2000))
    fixed = suspicions(FixedSilence(), arrivals)[:-1]
    accrual = suspicions(watching(A), arrivals)[:-1]
    print(
        f"{trace.__name__} {seed}: {len(accrual)} false suspicions, {len(fixed)} with a fixed time"
    )
    assert len(fixed) > 20
    assert len(accrual) * 5 < len(fixed)


@pytest.mark.parametrize("seed", range(10))
def test_on_a_calm_line_it_is_no_later_than_a_fixed_time(seed: int) -> None:
    arrivals = arrivals_of(calm(Random(seed), 500))
    (fixed,), (accrual,) = (suspicions(d, arrivals) for d in (FixedSilence(), watching(A)))
    assert accrual <= fixed + TIMES.tick_s


def test_ordinary_traffic_is_a_sign_of_life_and_does_not_drive_out_what_heartbeats_taught() -> None:
    detector = watching(A)
    ticks(detector, 1, 10)
    detector.on_heard(A, 0.0)
    detector.on_heard(A, 1.0)
    ticks(detector, 10, 11)
    for millisecond in range(1000, 3000):
        detector.on_heard(A, millisecond / 1000)
        if millisecond % 100 == 0:
            detector.on_tick(millisecond / 1000)
    silence = detector.silence_of(A, 3.0)
    assert silence.silence_s < 0.01 and silence.suspect_s > 1.0
    assert ticks(detector, 30, 40) == frozenset()
    assert ticks(detector, 40, 54) == {A}


def test_a_fault_teaches_nothing_and_a_late_heartbeat_does() -> None:
    detector = watching(A)
    ticks(detector, 1, 100, heard=A)
    ticks(detector, 100, 130)
    detector.on_heard(A, 13.0)
    assert detector.silence_of(A, 13.0).suspect_s == pytest.approx(TIMES.suspect_s)
    ticks(detector, 130, 140)
    detector.on_heard(A, 14.0)
    assert detector.silence_of(A, 14.0).suspect_s > 1.0


def test_nor_does_the_time_before_a_new_connection_or_an_own_stall() -> None:
    detector = watching(A)
    ticks(detector, 1, 20, heard=A)
    detector.on_down(A, 2.0)
    ticks(detector, 20, 30)
    detector.on_heard(A, 3.0)
    ticks(detector, 30, 40, heard=A)
    detector.on_heard(A, 5.0)  # it comes before the tick that notices the stall
    detector.on_tick(5.0)
    detector.on_heard(A, 5.1)
    assert detector.silence_of(A, 5.1).suspect_s == pytest.approx(TIMES.suspect_s)


@given(st.lists(st.floats(0.0, 4.0), max_size=80), st.floats(0.0, 4.0))
def test_the_laws_of_enough_silence(intervals: list[float], silence_s: float) -> None:
    detector, now = watching(A), 0.0
    for interval in intervals:
        before = now
        now += interval
        tick = before
        while tick < now:
            detector.on_tick(tick)
            tick += 0.1
        detector.on_heard(A, now)
    silence = detector.silence_of(A, now + silence_s)
    learnt = detector._rhythms[A].intervals
    assert silence.silence_s == pytest.approx(silence_s)
    assert TIMES.suspect_s - 1e-9 <= silence.suspect_s <= MOST * TIMES.suspect_s + 1e-9
    assert silence.suspect_s >= min(max(learnt, default=0.0), MOST * TIMES.suspect_s) - 1e-9
    if silence.suspect_s < MOST * TIMES.suspect_s:
        assert (silence.phi > PHI + 1e-3) <= (silence_s >= silence.suspect_s - 1e-3)
        assert (silence.phi < PHI - 1e-3) <= (silence_s <= silence.suspect_s + 1e-3)
    assert len(learnt) <= WINDOW


def test_phi_is_the_tail_of_the_normal_distribution() -> None:
    """The values that Akka's detector gives for a mean of 1 s and a deviation of 0.1 s."""
    for deviations, phi in ((-10, 0.0), (0, 0.3), (2, 1.6), (4, 4.7), (6, 10.8), (7, 15.3)):
        assert _phi(deviations) == pytest.approx(phi, abs=0.1)
    assert _phi(DEVIATIONS) == pytest.approx(PHI, abs=1e-4)
    assert _phi(-1e6) == 0.0 and _phi(1e6) > PHI
