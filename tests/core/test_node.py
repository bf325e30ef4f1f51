"""A node around its replica: what comes too late is dropped, and answers wait for the log."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.agreeing import OWNERS
from dynamo_ray.core.messages import (
    Code,
    Fetch,
    Fetched,
    Merge,
    Merged,
    Minted,
    Persist,
    Refused,
    Renew,
)
from dynamo_ray.core.node import Answer, Fsync, Node, ToPeer
from dynamo_ray.core.pages import COPY_KEYS
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.upkeep import Copied, Copy
from tests.core.histories import dot, incarnation, node_id, placement, shown, state, version
from tests.core.test_replica import FOREIGN, OWNED, merge_of, mint

A, B = node_id("a"), node_id("b")
NOW, LATER, WALL = 50_000, 51_000, 1_000
HELD = state(version(dot("b", 1), b"v"))
FETCH = Fetch([b"k"], [OWNED])


def node(durability: str = "written") -> Node:
    settings = Settings(partitions=2, durability=durability)
    ring = Ring(2, 1, (Member(A, "a"), Member(B, "b")), (A, B))
    replica = Replica(A, settings, [{}, {}], frozenset({OWNED}))
    made = Node(replica, settings, placement(ring, settings))
    made.on_incarnation(incarnation(1))
    return made


def ask(at: Node, message: Any, expires_ms: int = LATER) -> list[Any]:
    return at.on_request("co", message, expires_ms, NOW, WALL)


def answers(out: list[Any]) -> list[Any]:
    return [effect.message for effect in out if isinstance(effect, Answer)]


def code_of(out: list[Any]) -> int:
    (message,) = answers(out)
    assert isinstance(message, Refused)
    return message.code


# Deadlines.


@pytest.mark.parametrize("message", [mint(b"k", b"v"), merge_of(b"k", HELD), FETCH])
def test_what_comes_too_late_is_not_done(message: Any) -> None:
    at = node()
    assert code_of(ask(at, message, expires_ms=NOW - 1)) == Code.EXPIRED
    assert at.replica.maps == [{}, {}]
    assert len(ask(at, message, expires_ms=NOW)) > 0


@pytest.mark.parametrize("expires_ms", [0, NOW + 12_001])
def test_a_mint_must_say_credibly_when_it_expires(expires_ms: int) -> None:
    at = node()
    assert code_of(ask(at, mint(b"k", b"v"), expires_ms)) == Code.EXPIRED
    assert at.replica.maps == [{}, {}]
    assert ask(at, merge_of(b"k", HELD), expires_ms)  # a merge is harmless whenever it comes


def test_what_is_no_request_is_refused() -> None:
    assert code_of(ask(node(), Merged())) == Code.BAD_REQUEST
    assert code_of(ask(node(), "nonsense")) == Code.BAD_REQUEST


# The three durability levels.


def test_written_waits_for_the_append() -> None:
    at = node("written")
    assert [type(effect) for effect in ask(at, mint(b"k", b"v"))] == [Persist]
    assert [type(effect) for effect in at.on_appended(1)] == [Answer]
    assert at.on_synced(1) == []


def test_synced_waits_for_the_fsync() -> None:
    at = node("synced")
    ask(at, mint(b"k", b"v"))
    assert at.on_appended(1) == [Fsync()]
    assert [type(effect) for effect in at.on_synced(1)] == [Answer]


def test_memory_waits_for_nothing() -> None:
    at = node("memory")
    out = ask(at, mint(b"k", b"v"))
    assert [type(effect) for effect in out] == [Persist, Answer]
    assert at.replica.queue.shown_at([b"k"]) == 0


@pytest.mark.parametrize("durability", ["memory", "written", "synced"])
def test_a_durable_answer_waits_for_the_fsync_at_every_level(durability: str) -> None:
    """Somebody gives up a copy for it (rule 8)."""
    at = node(durability)
    assert answers(ask(at, merge_of(b"k", HELD, durable=True))) == []
    assert at.on_appended(1) == [Fsync()]
    assert answers(at.on_synced(1)) == [Merged()]


@pytest.mark.parametrize("durability", ["written", "synced"])
def test_what_waits_for_an_fsync_alone_asks_for_it_at_once(durability: str) -> None:
    """Nothing is to be appended after which it would be asked for: a seal, and a proof."""
    at = node(durability)
    ask(at, merge_of(b"k", HELD))
    at.on_appended(1)
    assert ask(at, Merge([], [], [], durable=True)) == [Fsync()]
    ask(at, merge_of(b"l", HELD))
    waits = ask(at, merge_of(b"l", HELD, durable=True))
    assert waits == [], "its own record is to be appended before"
    assert Fsync() in at.on_appended(2)


@pytest.mark.parametrize("durability", ["written", "synced"])
def test_a_read_waits_for_what_it_shows(durability: str) -> None:
    at = node(durability)
    ask(at, merge_of(b"k", HELD))
    assert ask(at, FETCH) == []
    assert answers(ask(at, Fetch([b"other"], [OWNED]))) == [Fetched([None], True)]
    at.on_appended(1)
    at.on_synced(1)
    assert answers(ask(at, FETCH)) == [Fetched([HELD], True)]


def test_answers_leave_in_the_order_of_the_requests() -> None:
    at = node()
    for key in (b"x", b"y", b"z"):
        at.on_request(key, merge_of(key, HELD), 0, NOW, WALL)
    out = at.on_appended(2)
    assert [effect.to for effect in out if isinstance(effect, Answer)] == [b"x", b"y"]
    assert [effect.to for effect in at.on_appended(3) if isinstance(effect, Answer)] == [b"z"]
    assert at.on_appended(2) == []


# A log that fails.


def test_a_failed_append_refuses_its_callers_and_those_behind_it() -> None:
    at = node()
    at.on_request(1, mint(b"k", b"v", put_id=b"1"), LATER, NOW, WALL)
    at.on_request(2, mint(b"k", b"w", put_id=b"2"), LATER, NOW, WALL)
    at.on_request(3, FETCH, LATER, NOW, WALL)
    at.on_appended(1)
    out = at.on_append_failed()
    assert [effect.to for effect in out if isinstance(effect, Answer)] == [2, 3]
    assert {message.code for message in answers(out)} == {Code.READ_ONLY}
    assert out[-1] == Renew()
    assert list(shown(at.replica.maps[OWNED][b"k"]).values()) == [b"v"]


def test_what_may_be_read_again_after_a_crash_is_unknown_and_not_refused() -> None:
    at = node()
    ask(at, mint(b"k", b"v"))
    assert code_of(at.on_append_failed(cut_back=False)) == Code.UNKNOWN


def test_what_was_appended_and_waits_for_its_fsync_outlives_the_failure_of_the_next() -> None:
    at = node("synced")
    at.on_request(1, mint(b"k", b"v", put_id=b"1"), LATER, NOW, WALL)
    at.on_appended(1)
    at.on_request(2, mint(b"k", b"w", put_id=b"2"), LATER, NOW, WALL)
    assert [effect.to for effect in at.on_append_failed() if isinstance(effect, Answer)] == [2]
    assert [effect.to for effect in at.on_synced(1) if isinstance(effect, Answer)] == [1]
    assert list(shown(at.replica.maps[OWNED][b"k"]).values()) == [b"v"]


def test_after_a_failure_nothing_is_minted_before_the_next_incarnation() -> None:
    at = node()
    ask(at, mint(b"k", b"v"))
    at.on_append_failed()
    assert code_of(ask(at, mint(b"k", b"v"))) == Code.NOT_READY
    at.on_incarnation(incarnation(2))
    ask(at, mint(b"k", b"v"))
    assert shown(at.replica.maps[OWNED][b"k"]) == {dot("a", 1, run=2): b"v"}


# Hints go home.


def test_a_hint_goes_to_its_owner_and_its_end_comes_back() -> None:
    at = node()
    ask(at, mint(b"k", b"v", hint_for=B, partition=FOREIGN))
    at.on_appended(1)
    held = at.replica.maps[FOREIGN][b"k"]
    home = ToPeer(B, Merge([b"k"], [FOREIGN], [held], durable=True), OWNERS)
    assert at.on_tick(WALL, WALL, frozenset({B})) == []
    assert at.on_tick(WALL, WALL, frozenset()) == [home]
    for end in (Refused(Code.READ_ONLY), None):
        assert at.on_peer(B, home.message, end) == []
    assert at.on_tick(WALL, WALL, frozenset()) == [home]
    assert at.on_peer(B, home.message, Merged()) == [Persist(2, [FOREIGN], [b"k"], [None], ())]


# Whatever the order of events: nobody is answered twice, and nothing is shown before it is logged.

_events = st.lists(
    st.sampled_from(["mint", "merge", "fetch", "append", "sync", "fail"]), max_size=30
)


@given(_events, st.sampled_from(["written", "synced"]))
def test_every_caller_is_answered_once_and_not_before_the_log(
    events: list[str], durability: str
) -> None:
    at, asked, answered, logged, synced, runs = node(durability), 0, set(), 0, 0, 1
    safe: set[bytes] = set()

    def take(out: list[Any]) -> None:
        for effect in out:
            if isinstance(effect, Answer):
                assert effect.to not in answered
                answered.add(effect.to)
                if isinstance(effect.message, Fetched | Minted):
                    for held in effect.message.states:
                        assert held is None or held in safe, "shown before it was persisted"

    records: list[Persist] = []
    for event in events:
        out: list[Any] = []
        if event in ("mint", "merge", "fetch"):
            asked += 1
            name = b"%d" % asked
            held = state(version(dot("b", asked), name), also_seen=[dot("b", 1)])
            made = {"mint": mint(b"k", name, put_id=name), "merge": merge_of(b"k", held)}
            out = at.on_request(asked, made.get(event, FETCH), LATER, NOW, WALL)
            records += [effect for effect in out if isinstance(effect, Persist)]
        elif event == "append" and logged < len(records):
            logged += 1
            if durability == "written":
                safe.update(s for s in records[logged - 1].states if s)
            out = at.on_appended(records[logged - 1].position)
        elif event == "sync" and logged:
            synced = logged
            safe.update(s for record in records[:synced] for s in record.states if s)
            out = at.on_synced(records[synced - 1].position)
        elif event == "fail" and logged < len(records):
            del records[logged:]
            out = at.on_append_failed()
            runs += 1
            at.on_incarnation(incarnation(runs))
        take(out)
    if records:
        safe.update(s for record in records for s in record.states if s)
        take(at.on_appended(records[-1].position))
        take(at.on_synced(records[-1].position))
    assert answered == set(range(1, asked + 1))


# Pages of a partition, for a node that rebuilds its own.


def copy_of(at: Node, after: bytes = b"") -> list[Any]:
    return ask(at, Copy(OWNED, after), 0)


def test_a_page_waits_for_the_log_up_to_what_it_shows() -> None:
    at = node()
    (record,) = ask(at, merge_of(b"k", HELD))
    assert copy_of(at) == []
    out = at.on_appended(record.position)
    assert answers(out) == [Merged(), Copied([b"k"], [HELD], COPY_KEYS, True)]


def test_a_page_for_a_proof_is_refused_under_another_ring() -> None:
    """Who has given the partition away holds less of it than it once acknowledged."""
    at, asked = node(), Copy(OWNED, b"")
    mine = at.on_request("co", asked, 0, NOW, WALL, at._ring.epoch_of(OWNED))
    assert answers(mine) == [Copied([], [], COPY_KEYS, True)]
    (other,) = answers(at.on_request("co", asked, 0, NOW, WALL, b"another epoch"))
    assert isinstance(other, Refused) and other.code == Code.OTHER_EPOCH


def test_pages_follow_each_other_in_the_order_of_keys() -> None:
    at = node("memory")
    keys = [b"%04d" % i for i in range(COPY_KEYS + 1)]
    at.replica.maps[OWNED].update(dict.fromkeys(reversed(keys), HELD))
    (first,) = answers(copy_of(at))
    assert (list(first.keys), first.size) == (keys[:-1], COPY_KEYS)
    (last,) = answers(copy_of(at, first.keys[-1]))
    assert list(last.keys) == keys[-1:] and last.size > 1


def test_a_page_is_bounded_in_bytes_and_says_that_more_follows() -> None:
    at = node("memory")
    most = Settings().limits.batch_bytes
    large = state(version(dot("b", 1), b"v" * (most // 2 + 1)))
    at.replica.maps[OWNED].update(dict.fromkeys((b"a", b"b"), large))
    (page,) = answers(copy_of(at))
    assert (list(page.keys), page.size) == ([b"a"], 1)


def test_a_page_says_whether_its_node_is_sure_of_the_partition() -> None:
    at = node("memory")
    assert answers(copy_of(at))[0].complete
    (foreign,) = answers(ask(at, Copy(FOREIGN, b""), 0))
    assert foreign.complete  # nothing that it acknowledged is missing
    at.replica.doubted = frozenset({OWNED})
    assert not answers(copy_of(at))[0].complete


def test_the_end_of_an_old_repair_is_not_taken_for_that_of_a_delivery() -> None:
    """A ring may change, or a transfer end, while a push is under way: nobody waits for it then."""
    at = node("memory")
    ask(at, merge_of(b"k", HELD, hint_for=B, partition=FOREIGN))
    (delivery,) = [out for out in at.on_tick(NOW, WALL, frozenset()) if isinstance(out, ToPeer)]
    for reply in (Merged(), None):
        assert at.on_peer(B, Merge([b"k"], [FOREIGN], [HELD]), reply) == []
    assert at.replica.hints.of(b"k") == B and delivery.message.durable
    at.on_peer(B, delivery.message, Merged())
    assert not at.replica.hints.of(b"k")
