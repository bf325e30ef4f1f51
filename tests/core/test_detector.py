"""Who is suspected: evidence, silence, and an observer that was itself asleep."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from dynamo_ray.core.detector import Detector

A, B = b"a", b"b"


def watching(*nodes: bytes, now: float = 0.0) -> Detector:
    detector = Detector(suspect_s=0.6, tick_s=0.1)
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
    assert detector.silence_s(B, 1.0) == 1.0
    assert detector.silence_s(b"stranger", 1.0) == 0.0


def test_any_sign_of_life_ends_the_suspicion() -> None:
    detector = watching(A)
    ticks(detector, 1, 9)
    assert detector.on_heard(A, 0.9)
    assert not detector.on_heard(A, 0.91)
    assert detector.suspected == frozenset()


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
