"""Who is refused asks again at once, then with rests, and not for ever."""

from __future__ import annotations

from dynamo_ray.core.following import PAUSE_S, TRIES, Following


def test_at_once_then_with_rests_and_not_for_ever() -> None:
    following = Following()
    pauses = [following.pause_s(b"a") for _ in range(TRIES + 2)]
    assert pauses == [0.0] + [PAUSE_S] * (TRIES - 1) + [None, None]


def test_owners_that_change_are_a_new_beginning() -> None:
    following = Following()
    for _ in range(TRIES):
        following.pause_s(b"a")
    assert following.pause_s(b"b") == 0.0
    assert following.pause_s(b"b") == PAUSE_S
    assert following.pause_s(b"a") == 0.0
