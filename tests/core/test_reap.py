"""The reaper, step by step: who is asked, how often, and what makes it stop (DESIGN rule 12)."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.messages import Code, Merge, Merged, Persist, Refused
from dynamo_ray.core.node import Answer, Fsync, Node, ToPeer
from dynamo_ray.core.pace import Allowance
from dynamo_ray.core.reap import EFFORT_A_TICK, KEYS_A_SLICE
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.rounds import Rounds
from dynamo_ray.core.settings import Settings, Times
from dynamo_ray.core.sync import Sync
from dynamo_ray.core.upkeep import Confirm, Confirmed, Reap
from dynamo_ray.core.version import Kind, decode, digest
from tests.core.histories import dot, incarnation, node_id, placement, state, version, writer

A, B, C, D = map(node_id, "abcd")
RING = Ring(1, 3, tuple(Member(n, n.decode()[:1]) for n in (A, B, C, D)), (A, B, C))
TIMES = Times(timeout_s=0.5, timeout_max_s=1.0, linger_s=1.0, purge_s=3600.0, grace_s=100.0)
SETTINGS = Settings(partitions=1, times=TIMES)
MESSAGE_MS = 4_000
GRACE_MS, HOUR_MS = 100_000, 3_600_000
GONE = version(dot("a", 2), None)._replace(wall_ms=1_000)
TOMBSTONE = state(GONE)
LATE = 1_000 + GRACE_MS
NOBODY: frozenset[bytes] = frozenset()


def node(me: bytes = A, **held: bytes) -> Node:
    """A node that holds these keys; what it did before is fsynced."""
    maps = [{key.encode(): value for key, value in held.items()}]
    owned = frozenset({0}) if me in RING.owners(0) else frozenset[int]()
    made = Node(Replica(me, SETTINGS, maps, owned), SETTINGS, placement(RING, SETTINGS))
    alone = Ring(1, 1, (Member(me, "me"),), (me,))
    nobody = Rounds(me, alone, TIMES.repair_s)
    made.sync = Sync(made.replica, nobody, Allowance(1, 1.0))
    made.on_incarnation(incarnation(1))
    return made


def questions(out: list[Any]) -> dict[bytes, Any]:
    """What other nodes are asked."""
    return {effect.node: effect.message for effect in out if isinstance(effect, ToPeer)}


def answered(at: Node, asked: dict[bytes, Any], same: bool = True) -> list[Any]:
    """Every other node says yes (or no) to all; what the last answer led to."""
    out: list[Any] = []
    for other, message in asked.items():
        out = at.on_peer(other, message, Confirmed([same] * len(message.keys)))
    return out


def reaped(at: Node, now_ms: int = 0, wall_ms: int = LATE) -> list[Any]:
    """Both rounds of questions, all answered with yes; the effects of the last answer."""
    first = questions(at.on_tick(now_ms, wall_ms, NOBODY))
    assert set(first) == {B, C, D}
    assert answered(at, first) == []
    at.on_tick(now_ms, wall_ms, NOBODY)
    second = questions(at.on_tick(now_ms + MESSAGE_MS, wall_ms, NOBODY))
    assert set(second) == {B, C, D}
    return answered(at, second)


def test_a_tombstone_leaves_after_two_rounds_and_all_owners_are_told() -> None:
    at = node(k=TOMBSTONE)
    out = reaped(at)
    told = Reap([b"k"], [0], [digest(TOMBSTONE)], [None])
    assert questions(out) == {B: told, C: told}
    assert [e for e in out if isinstance(e, Persist)] == [Persist(1, [0], [b"k"], [None], ())]
    assert at.replica.maps[0] == {}


def test_it_is_asked_again_only_once_no_older_message_can_be_under_way() -> None:
    at = node(k=TOMBSTONE)
    answered(at, questions(at.on_tick(0, LATE, NOBODY)))
    assert at.on_tick(50, LATE, NOBODY) == []  # the wait begins with the tick after the answers
    assert at.on_tick(50 + MESSAGE_MS - 1, LATE, NOBODY) == []
    assert questions(at.on_tick(50 + MESSAGE_MS, LATE, NOBODY))


def test_nothing_younger_than_the_grace_and_nothing_alive_is_asked_about() -> None:
    at = node(k=TOMBSTONE, alive=state(version(dot("a", 1), b"v")))
    assert at.on_tick(0, LATE - 1, NOBODY) == []
    (asked,) = set(map(str, questions(at.on_tick(0, LATE, NOBODY)).values()))
    assert "alive" not in asked


def test_only_the_first_owner_asks() -> None:
    for other in (B, C):
        assert node(other, k=TOMBSTONE).on_tick(0, LATE, NOBODY) == []
    assert not questions(node(D, k=TOMBSTONE).on_tick(0, LATE, NOBODY))


@pytest.mark.parametrize("away", [B, D], ids=["an owner", "any member"])
def test_while_a_member_is_away_nothing_is_reaped(away: bytes) -> None:
    at = node(k=TOMBSTONE)
    assert at.on_tick(0, LATE, frozenset({away})) == []
    first = questions(at.on_tick(1, LATE, NOBODY))
    at.on_tick(2, LATE, frozenset({away}))
    assert answered(at, first) == []
    assert questions(at.on_tick(3, LATE, NOBODY))  # from the beginning
    assert at.on_tick(4 + MESSAGE_MS, LATE, NOBODY) == []


@pytest.mark.parametrize("end", [Confirmed([False]), Refused(Code.NOT_READY), None])
@pytest.mark.parametrize("who", [B, D])
def test_one_no_or_no_answer_ends_it_for_now(who: bytes, end: Any) -> None:
    at = node(k=TOMBSTONE)
    first = questions(at.on_tick(0, LATE, NOBODY))
    at.on_peer(who, first[who], end)
    for other in {B, C, D} - {who}:
        assert at.on_peer(other, first[other], Confirmed([True])) == []
    assert at.on_tick(1, LATE, NOBODY) == [] or not at.reaper.is_busy
    assert at.replica.maps[0] == {b"k": TOMBSTONE}


def test_a_no_in_the_second_round_ends_it_too() -> None:
    at = node(k=TOMBSTONE)
    answered(at, questions(at.on_tick(0, LATE, NOBODY)))
    at.on_tick(0, LATE, NOBODY)
    second = questions(at.on_tick(MESSAGE_MS, LATE, NOBODY))
    assert answered(at, second, same=False) == []
    assert at.replica.maps[0] == {b"k": TOMBSTONE}


def test_an_answer_to_an_older_question_is_not_taken_for_one_to_the_newer() -> None:
    at = node(k=TOMBSTONE)
    first = questions(at.on_tick(0, LATE, NOBODY))
    at.on_tick(1, LATE, frozenset({D}))
    second = questions(at.on_tick(2, LATE, NOBODY))
    assert first[B] == second[B]
    assert answered(at, first) == []
    at.on_tick(3, LATE, NOBODY)
    assert at.on_tick(3 + MESSAGE_MS, LATE, NOBODY) == []  # the newer one is still open


# What a node answers.


def confirm(at: Node, held: bytes, key: bytes = b"k") -> Any:
    at.on_tick(0, LATE, frozenset(RING.owners(0)))
    out = at.on_request("a", Confirm([key], [0], [digest(held)]), 0, 0, 0)
    (answer,) = [e.message for e in out + at.on_synced(99) if isinstance(e, Answer)]
    return answer.same


def test_an_owner_confirms_exactly_what_it_holds() -> None:
    at = node(B, k=TOMBSTONE)
    assert confirm(at, TOMBSTONE) == [True]
    assert confirm(at, state(GONE, also_seen=[dot("b", 1)])) == [False]
    assert confirm(at, TOMBSTONE, b"other") == [False]
    at.replica.doubted = frozenset({0})
    assert confirm(at, TOMBSTONE) == [False]


def test_an_owner_that_keeps_it_for_another_does_not_confirm() -> None:
    at = node(B, k=TOMBSTONE)
    at.replica.hints.add(C, b"k", 0, len(TOMBSTONE))
    assert confirm(at, TOMBSTONE) == [False]


def test_another_member_confirms_that_it_holds_nothing() -> None:
    assert confirm(node(D), TOMBSTONE) == [True]
    at = node(D, k=TOMBSTONE)
    at.replica.hints.add(C, b"k", 0, len(TOMBSTONE))
    assert confirm(at, TOMBSTONE) == [False]


def test_an_owner_by_whose_clock_it_is_too_young_does_not_confirm() -> None:
    at = node(B, k=TOMBSTONE)
    at.on_tick(0, LATE - 1, NOBODY)
    (answer,) = at.on_request("a", Confirm([b"k"], [0], [digest(TOMBSTONE)]), 0, 0, 0)
    assert answer.message.same == [False]


def test_what_changes_while_the_last_answers_come_is_not_reaped() -> None:
    """Here at the one who asks: the others still hold what they confirmed, and may lose nothing."""
    live = version(dot("a", 5), b"v")
    held = state(live, also_seen=[dot("b", 1)])
    at = node(k=held)
    answered(at, questions(at.on_tick(0, LATE, NOBODY)))
    at.on_tick(0, LATE, NOBODY)
    second = questions(at.on_tick(MESSAGE_MS, LATE, NOBODY))
    deleted = state(version(dot("a", 6), None), also_seen=[dot("a", 5), dot("b", 1)])
    at.on_request("co", Merge([b"k"], [0], [deleted]), 0, 0, 0)
    assert answered(at, second) == []


def test_a_member_that_answers_about_other_keys_is_not_understood() -> None:
    at = node(k=TOMBSTONE)
    first = questions(at.on_tick(0, LATE, NOBODY))
    assert at.on_peer(B, first[B], Confirmed([])) == []
    assert questions(at.on_tick(1, LATE, NOBODY))


def test_a_confirmation_waits_for_the_fsync_of_what_it_speaks_of() -> None:
    at = node(B)
    at.on_tick(0, LATE, NOBODY)
    at.on_request("co", Merge([b"k"], [0], [TOMBSTONE]), 0, 0, 0)
    question = Confirm([b"k"], [0], [digest(TOMBSTONE)])
    assert at.on_request("a", question, 0, 0, 0) == []
    (told, fsync) = at.on_appended(1)
    assert told.to == "co" and fsync == Fsync()
    assert at.on_synced(1) == [Answer("a", Confirmed([True]))]


def test_what_has_changed_since_stays() -> None:
    at = node(B, k=TOMBSTONE)
    newer = state(version(dot("b", 1), b"v"), also_seen=[dot("a", 2)])
    at.on_request("co", Merge([b"k"], [0], [newer]), 0, 0, 0)
    told = Reap([b"k"], [0], [digest(TOMBSTONE)], [None])
    assert at.on_request("a", told, 0, 0, 0) == [Answer("a", Merged())]
    assert at.replica.maps[0] == {b"k": newer}


def test_a_reap_is_logged_before_its_answer_and_undone_if_the_log_refuses() -> None:
    at = node(B, k=TOMBSTONE)
    told = Reap([b"k"], [0], [digest(TOMBSTONE)], [None])
    assert at.on_request("a", told, 0, 0, 0) == [Persist(1, [0], [b"k"], [None], ())]
    at.on_append_failed()
    assert at.replica.maps[0] == {b"k": TOMBSTONE}


# Clock entries (rule 14), and expired bytes (rule 13).


def test_a_writer_without_a_version_leaves_the_clock_of_a_living_key() -> None:
    live = version(dot("a", 5), b"v")
    held = state(live, also_seen=[dot("b", 1), dot("c", 7)])
    at = node(k=held)
    out = reaped(at)
    told = Reap([b"k"], [0], [digest(held)], [writer("b") + writer("c")])
    assert questions(out) == {B: told, C: told}
    assert at.replica.maps[0] == {b"k": state(live)}


def test_an_expired_value_is_purged_an_hour_later_and_its_digest_stays() -> None:
    held = state(version(dot("a", 1), b"v" * 100)._replace(expiry_ms=5_000))
    at = node(B, k=held)
    assert at.on_tick(0, 5_000 + HOUR_MS - 1, NOBODY) == []
    (record,) = at.on_tick(0, 5_000 + HOUR_MS, NOBODY)
    (less,) = record.states
    assert at.replica.maps[0] == {b"k": less} and len(less) < len(held)
    assert decode(less).versions[0].kind == Kind.PURGED
    assert digest(less) == digest(held)


def test_a_stand_ins_copy_is_purged_too_and_takes_less_of_its_room() -> None:
    held = state(version(dot("a", 1), b"v" * 100)._replace(expiry_ms=5_000))
    at = node(D, k=held)
    at.replica.load_hints({b"k": B})
    _, record = at.on_tick(0, 5_000 + HOUR_MS, NOBODY)
    assert record.hints == [B] and len(record.states[0]) < len(held)
    limit = SETTINGS.limits.hint_bytes - len(record.states[0])
    assert at.replica.hints.has_room(limit) and not at.replica.hints.has_room(limit + 1)


def test_an_expired_value_is_reaped_like_a_tombstone() -> None:
    held = state(version(dot("a", 1), b"v")._replace(expiry_ms=5_000))
    at = node(k=held)
    at.on_tick(0, 5_000 + HOUR_MS, NOBODY)
    at.on_synced(1)
    reaped(at, 1, 5_000 + HOUR_MS + GRACE_MS)
    assert at.replica.maps[0] == {}


def test_a_tick_does_a_bounded_part_and_the_ticks_together_all() -> None:
    big = b"v" * (EFFORT_A_TICK // 4)
    held = {
        f"k{i}": state(version(dot("a", i + 1), big)._replace(expiry_ms=5_000)) for i in range(20)
    }
    at = node(B, **held)
    shares = []
    for _ in range(20):
        out = at.on_tick(0, 5_000 + HOUR_MS, NOBODY)
        shares.append(sum(len(e.keys) for e in out if isinstance(e, Persist)))
    assert sum(shares) == 20 and max(shares) <= 5


def test_what_is_passed_by_for_now_is_looked_at_by_the_next_tick() -> None:
    """Large values that live long come first in each round, and must not hide what is behind."""
    lives = version(dot("a", 1), b"v" * (EFFORT_A_TICK // 16))._replace(expiry_ms=1 << 50)
    held = {f"a{i:02}": state(lives) for i in range(20)}
    expired = state(version(dot("b", 1), b"v" * 100)._replace(expiry_ms=5_000))
    held |= {f"b{i:02}": expired for i in range(20)}
    at = node(B, **held)
    purged = 0
    for _ in range(6):
        out = at.on_tick(0, 5_000 + HOUR_MS, NOBODY)
        purged += sum(len(e.keys) for e in out if isinstance(e, Persist))
    assert purged == 20


def test_few_dead_keys_among_many_are_asked_about_together() -> None:
    alive = state(version(dot("a", 1), b"v"))
    held = {f"k{i}": TOMBSTONE if i % 50 == 0 else alive for i in range(8 * KEYS_A_SLICE)}
    at = node(**held)
    asked = [questions(at.on_tick(now, LATE, NOBODY)) for now in range(10)]
    (question,) = {id(one) for ask in asked for one in ask.values()}
    batch = at.reaper._asked
    assert question and len(batch.keys) == 8


def test_it_looks_at_everything_ten_times_while_a_key_grows_old_and_not_more_often() -> None:
    """The more keys there are the more at a tick: at 100 s and ten ticks a second all in 100."""
    alive = state(version(dot("a", 1), b"v"))
    for count, ticks in ((30_000, range(95, 106)), (3_000, range(25, 35))):
        at = node(**{f"k{i:05}": alive for i in range(count)}, last=TOMBSTONE)
        needed = next(now for now in range(1000) if questions(at.on_tick(now, LATE, NOBODY)))
        assert needed in ticks


def test_an_own_life_that_becomes_the_newest_by_a_reap_is_not_resumed() -> None:
    """An old backup brought life 1 back; life 2 leaves the clock; (life 1, 2) was used long ago."""
    live = version(dot("b", 1), b"v")
    held = state(live, also_seen=[dot("a", 1, life=1), dot("a", 1, life=2)])
    at = node(k=held)
    assert [at.replica.lives.next_life()[-1] for _ in range(2)] == [1, 2]  # both were begun here
    writers = writer("a", life=2)
    told = Reap([b"k"], [0], [digest(held)], [writers])
    at.on_request("a", told, 0, 0, 0)
    left = at.replica.maps[0][b"k"]
    assert at.replica.lives.next_dot(b"k", left).writer not in (writer("a"), writers)


def test_many_dead_keys_all_leave() -> None:
    count = 3 * KEYS_A_SLICE + 7
    at = node(**{f"k{i}": state(GONE._replace(dot=dot("a", i + 1))) for i in range(count)})
    now = 0
    while at.replica.maps[0]:
        now += 500
        assert now < 100_000
        at.on_appended(at.replica.queue.last)
        at.on_synced(at.replica.queue.last)
        for other, message in questions(at.on_tick(now, LATE, NOBODY)).items():
            reply = Confirmed([True] * len(message.keys))
            for owner, told in questions(at.on_peer(other, message, reply)).items():
                at.on_peer(owner, told, Merged())
