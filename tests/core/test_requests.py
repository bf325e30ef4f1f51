"""A client's request at a coordinator: checked by key, cut by route, gathered into one reply."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dynamo_ray.core.context import ContextKeys
from dynamo_ray.core.messages import (
    ClientGet,
    ClientPut,
    Code,
    Failure,
    GetDone,
    GetOutcome,
    PutOutcome,
    Send,
)
from dynamo_ray.core.mint import CONCURRENT
from dynamo_ray.core.requests import Desk, GetRequest, PutRequest
from dynamo_ray.core.ring import Member, claim, partition_of
from dynamo_ray.core.settings import Limits, Settings
from dynamo_ray.core.version import EMPTY_CLOCK, clock_of, purged
from tests.core.histories import dot, node_id, seen, state, version

SETTINGS = Settings(partitions=16, limits=Limits(key_bytes=8, value_bytes=10))
MEMBERS = [Member(node_id(letter), letter) for letter in "abcdef"]
KEYS = ContextKeys(b"c" * 16, [b"secret"])
DESK = Desk(claim(MEMBERS, 16), SETTINGS, KEYS)
NOW = 1_000


def put_of(**columns: Any) -> ClientPut:
    """A put of `keys`, whose other columns may be given."""
    count = len(columns["keys"])
    given: dict[str, Any] = {
        "values": [b"v"] * count,
        "contexts": [None] * count,
        "put_ids": [bytes([i]) * 16 for i in range(count)],
        "ttls_ms": [0] * count,
        "w": 0,
        "strict": False,
    }
    return ClientPut(**{**given, **columns})


def keys_of_different_routes(count: int) -> list[bytes]:
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < count:
        key = b"%d" % number
        found.setdefault(DESK.ring.route_key(partition_of(key, 16)), key)
        number += 1
    return list(found.values())


def mint_of(request: PutRequest, at: int = 0) -> Any:
    (send,) = request.groups[at].machine.start()
    assert isinstance(send, Send)
    return send.message


def test_keys_that_share_a_route_travel_together_and_others_apart() -> None:
    x, y = keys_of_different_routes(2)
    request = PutRequest(put_of(keys=[x, y, x]), DESK)
    assert [group.rows for group in request.groups] == [[0, 2], [1]]
    assert mint_of(request, 0).keys == [x, x]
    assert mint_of(request, 0).partitions == [partition_of(x, 16)] * 2
    assert mint_of(request, 1).put_ids == [bytes([1]) * 16]


def test_the_reply_is_gathered_when_the_last_group_has_ended() -> None:
    x, y = keys_of_different_routes(2)
    request = PutRequest(put_of(keys=[x, y, x]), DESK)
    clock = seen(dot("a", 1))
    failure = Failure(1, Code.UNKNOWN, 2, 1)
    assert request.reply_if_done() is None
    assert request.on_outcome(request.groups[0], PutOutcome([clock, None], (failure,))) is None
    done = request.on_outcome(request.groups[1], PutOutcome([clock]))
    assert done is not None
    assert done.failures == (failure._replace(index=2),)
    assert [
        context and KEYS.open(x if i != 1 else y, context)
        for i, context in enumerate(done.contexts)
    ] == [clock, clock, None]


def test_a_bad_key_a_big_value_and_a_forged_context_fail_alone() -> None:
    keys = [b"", b"far too long", b"big", b"forged", b"good"]
    values = [b"v", b"v", bytes(11), b"v", None]
    other = KEYS.seal(b"other", seen(dot("a", 1)))
    message = put_of(keys=keys, values=values, contexts=[None, None, None, other, None])
    request = PutRequest(message, DESK)
    assert [group.rows for group in request.groups] == [[4]]
    done = request.on_outcome(request.groups[0], PutOutcome([seen(dot("a", 1))]))
    assert done is not None
    assert [(f.index, f.code) for f in done.failures] == [
        (0, Code.KEY_SIZE),
        (1, Code.KEY_SIZE),
        (2, Code.VALUE_SIZE),
        (3, Code.INVALID_CONTEXT),
    ]
    assert done.failures[1].required == 8 and done.failures[1].received == 12
    assert done.contexts[:4] == [None] * 4


def test_when_every_key_is_refused_the_reply_is_there_at_once() -> None:
    request = PutRequest(put_of(keys=[b""]), DESK)
    done = request.reply_if_done()
    assert not request.groups
    assert done is not None and done.failures[0].code == Code.KEY_SIZE
    assert GetRequest(ClientGet([], 0, False), DESK).reply_if_done(NOW) == GetDone([], [])


def test_contexts_are_opened_on_the_way_in() -> None:
    """None replaces, the empty bytes are CONCURRENT, and nodes see clocks, never tokens."""
    clock = seen(dot("a", 1))
    token = KEYS.seal(b"k", clock)
    message = put_of(keys=[b"k"] * 3, contexts=[None, b"", token])
    assert mint_of(PutRequest(message, DESK)).contexts == [None, CONCURRENT, clock]


def test_more_copies_than_there_are_cannot_be_asked_for() -> None:
    put = PutRequest(put_of(keys=[b"k"], w=4), DESK).reply_if_done()
    get = GetRequest(ClientGet([b"k"], 4, False), DESK).reply_if_done(NOW)
    assert put is not None and put.failures == (Failure(0, Code.BAD_REQUEST, 4, 3),)
    assert get is not None and get.failures == (Failure(0, Code.BAD_REQUEST, 4, 3),)


def test_suspicion_is_part_of_the_route() -> None:
    first = DESK.ring.owners(partition_of(b"k", 16))[0]
    request = PutRequest(put_of(keys=[b"k"]), replace(DESK, suspected=frozenset({first})))
    (send,) = request.groups[0].machine.start()
    assert send.node == DESK.ring.owners(partition_of(b"k", 16))[1]


def reply_of(held: bytes | None, now_ms: int = NOW) -> GetDone:
    request = GetRequest(ClientGet([b"k"], 0, False), DESK)
    done = request.on_outcome(request.groups[0], GetOutcome([held]), now_ms)
    assert done is not None
    return done


def test_the_seal_and_the_states_clock_make_the_context() -> None:
    held = state(version(dot("a", 1), b"v"))
    done = reply_of(held)
    assert done.states == [held]
    assert KEYS.open(b"k", done.seals[0] + clock_of(held)) == clock_of(held)


def test_a_key_that_is_not_there_has_a_context_too() -> None:
    done = reply_of(None)
    assert KEYS.open(b"k", done.seals[0] + EMPTY_CLOCK) == EMPTY_CLOCK


def test_an_expired_value_does_not_leave_the_coordinator() -> None:
    expiring = version(dot("a", 1), b"secret")._replace(expiry_ms=NOW, put_id=bytes(16))
    assert reply_of(state(expiring), NOW - 1).states == [state(expiring)]
    done = reply_of(state(expiring), NOW)
    assert done.states == [state(purged(expiring))]
    assert KEYS.open(b"k", done.seals[0] + clock_of(state(expiring))) is not None


def test_degraded_in_one_group_is_degraded_in_the_reply() -> None:
    x, y = keys_of_different_routes(2)
    request = GetRequest(ClientGet([y, x], 0, False), DESK)
    failure = Failure(0, Code.UNAVAILABLE, 2, 1)
    request.on_outcome(request.groups[1], GetOutcome([None], True, (failure,)), NOW)
    done = request.on_outcome(request.groups[0], GetOutcome([None]), NOW)
    assert done is not None and done.degraded
    assert done.failures == (failure._replace(index=1),)
