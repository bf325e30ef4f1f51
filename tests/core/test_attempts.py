"""One request, tried at one coordinator after another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.attempts import ROUNDS, Answered, Ask, Attempts
from dynamo_ray.core.messages import ClientGet, ClientPut, Code, Failure, GetDone, PutDone, Refused

PUT = ClientPut([b"k"], [b"v"], [None], [b"i" * 16], [0], 0, False)
GET = ClientGet([b"k"], 0, False)
DONE = PutDone([b"context"])
BUSY = Refused(Code.OVERLOADED, "busy")


def code_of(effects: list[Any]) -> int:
    (answered,) = effects
    assert isinstance(answered, Answered)
    return int(answered.reply.code)


def test_the_first_coordinator_that_answers_ends_it() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    assert attempts.start() == [Ask("c1", PUT)]
    assert attempts.on_reply(DONE) == [Answered(DONE)]
    assert attempts.on_reply(DONE) == attempts.on_failure(True) == attempts.on_deadline() == []


def test_a_lost_connection_sends_the_same_put_ids_on() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    assert attempts.on_failure(maybe_applied=True) == [Ask("c2", PUT)]
    assert attempts.on_reply(DONE) == [Answered(DONE)]


def test_later_rounds_wait_a_little() -> None:
    attempts = Attempts(GET, ["c1", "c2"])
    waits = [attempts.start()] + [attempts.on_failure(False) for _ in range(5)]
    assert [effect.wait_s for (effect,) in waits] == [0.0, 0.0, 0.05, 0.05, 0.1, 0.1]
    assert code_of(attempts.on_failure(False)) == Code.UNAVAILABLE


def test_without_a_coordinator_it_is_unavailable() -> None:
    assert code_of(Attempts(PUT, []).start()) == Code.UNAVAILABLE


def test_a_put_that_may_have_been_applied_is_unknown_a_get_only_unavailable() -> None:
    for message, code in ((PUT, Code.UNKNOWN), (GET, Code.UNAVAILABLE)):
        attempts = Attempts(message, ["c1"])
        attempts.start()
        for _ in range(ROUNDS - 1):
            assert attempts.on_failure(True)
        assert code_of(attempts.on_failure(False)) == code


def test_an_overloaded_coordinator_sends_the_request_on_and_is_quoted_in_the_end() -> None:
    attempts = Attempts(PUT, ["c1"])
    attempts.start()
    for _ in range(ROUNDS - 1):
        attempts.on_reply(BUSY)
    assert attempts.on_reply(BUSY) == [Answered(BUSY)]


def test_a_refusal_that_every_coordinator_would_repeat_ends_it() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    refused = Refused(Code.BAD_REQUEST, "no")
    assert attempts.on_reply(refused) == [Answered(refused)]


def test_time_is_up() -> None:
    attempts = Attempts(PUT, ["c1"])
    attempts.start()
    assert code_of(attempts.on_deadline()) == Code.UNKNOWN


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.TOO_MANY_SIBLINGS])
def test_a_second_coordinator_cannot_say_that_the_first_applied_nothing(code: Code) -> None:
    """c1 minted and was lost. What c2 finds says nothing of that: the end is unknown (rule 7)."""
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    attempts.on_failure(maybe_applied=True)
    (answered,) = attempts.on_reply(PutDone([None], (Failure(0, code, 2, 1),)))
    assert answered == Answered(PutDone([None], (Failure(0, Code.UNKNOWN, 2, 1),)))


def test_nor_can_its_refusal() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    attempts.on_failure(maybe_applied=True)
    assert code_of(attempts.on_reply(Refused(Code.FORBIDDEN, "not you"))) == Code.UNKNOWN


def test_what_every_coordinator_refuses_was_refused_by_the_first_too() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    attempts.on_failure(maybe_applied=True)
    refused = PutDone([None], (Failure(0, Code.VALUE_SIZE, 1, 2),))
    assert attempts.on_reply(refused) == [Answered(refused)]


def test_a_get_is_not_rewritten() -> None:
    attempts = Attempts(GET, ["c1", "c2"])
    attempts.start()
    attempts.on_failure(maybe_applied=True)
    failed = GetDone([None], [b""], False, (Failure(0, Code.UNAVAILABLE, 2, 1),))
    assert attempts.on_reply(failed) == [Answered(failed)]


def test_a_silent_coordinator_is_not_waited_for() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    assert attempts.on_silence("c1") == [Ask("c2", PUT)]
    assert attempts.on_silence("c2") == [], "nobody is left who is not silent"
    assert attempts.on_reply(DONE) == [Answered(DONE)]


def test_a_coordinator_that_was_not_known_at_first_is_asked_too() -> None:
    attempts = Attempts(PUT, ["c1"])
    attempts.start()
    assert attempts.on_silence("c1", ["c1"]) == []
    assert attempts.on_silence("c1", ["c2", "c1"]) == [Ask("c2", PUT)]


def test_a_poor_answer_waits_for_the_silent_one() -> None:
    """c2 reaches nobody. c1, stopped for a moment, may have done it, and says so when it wakes."""
    for last, end in ((DONE, DONE), ("late", None), ("lost", None)):
        attempts = Attempts(PUT, ["c1", "c2"])
        attempts.start()
        attempts.on_silence("c1")
        assert attempts.on_reply(PutDone([None], (Failure(0, Code.UNAVAILABLE, 2, 1),))) == []
        if last == "late":
            out = attempts.on_deadline()
        else:
            out = attempts.on_failure(True) if last == "lost" else attempts.on_reply(last)
        unknown = PutDone([None], (Failure(0, Code.UNKNOWN, 2, 1),))
        assert out == [Answered(end or unknown)]


def test_a_refusal_that_all_would_repeat_waits_for_nobody() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    attempts.on_silence("c1")
    refused = PutDone([None], (Failure(0, Code.VALUE_SIZE, 1, 2),))
    assert attempts.on_reply(refused) == [Answered(refused)]


def test_one_that_is_busy_is_asked_again_while_the_silent_one_is_waited_for() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    assert attempts.on_silence("c1") == [Ask("c2", PUT)]
    assert attempts.on_reply(BUSY) == [Ask("c2", PUT, 0.05)]
    assert attempts.on_reply(BUSY) == [Ask("c2", PUT, 0.1)]
    assert attempts.on_reply(BUSY) == [], "only the silent one is left, and it works on it already"
    assert attempts.on_failure(True) == [Ask("c1", PUT, 0.05)], "it was lost: perhaps it is back"


def test_two_poor_answers_make_one_in_which_the_better_of_each_key_counts() -> None:
    two = ClientGet([b"k", b"l", b"m"], 0, False)
    bad = [Failure(i, Code.UNAVAILABLE, 2, 1) for i in range(3)]
    one = GetDone([b"K", None, None], [b"1", b"", b""], False, (bad[1], bad[2]))
    other = GetDone([None, b"L", None], [b"", b"2", b""], False, (bad[0], bad[2]))
    for first, second in ((one, other), (other, one)):
        attempts = Attempts(two, ["c1", "c2"])
        attempts.start()
        attempts.on_silence("c1")
        assert attempts.on_reply(first) == []
        (answered,) = attempts.on_reply(second)
        both = GetDone([b"K", b"L", None], [b"1", b"2", b""], False, (bad[2],))
        assert answered == Answered(both)
    attempts = Attempts(two, ["c1", "c2"])
    attempts.start()
    attempts.on_silence("c1")
    attempts.on_reply(one)
    assert attempts.on_reply(Refused(Code.UNAVAILABLE, "no")) == [Answered(one)]


def last_asked(out: list[Any]) -> Any:
    return next((one.coordinator for one in reversed(out) if isinstance(one, Ask)), None)


POOR = PutDone([None], (Failure(0, Code.UNAVAILABLE, 2, 1),))
_replies = st.sampled_from(
    [DONE, BUSY, POOR, Refused(Code.NOT_READY), Refused(Code.FORBIDDEN)]
    + ["lost", "unsent", "late", "silent"]
)


@given(st.lists(_replies, max_size=20), st.integers(0, 3))
def test_answered_once_and_never_a_false_nothing_applied(events: list[Any], count: int) -> None:
    attempts = Attempts(PUT, [f"c{i}" for i in range(count)])
    out, maybe_applied, ended = attempts.start(), False, 0
    for event in events:
        if any(isinstance(one, Answered) for one in out):
            break
        if event == "late":
            out += attempts.on_deadline()
            maybe_applied = True
        elif event == "silent":
            asked = attempts.on_silence(last_asked(out))
            maybe_applied = maybe_applied or bool(asked)
            out += asked
        elif sum(isinstance(one, Ask) for one in out) <= ended:
            continue  # nobody is asked who could answer
        elif event in ("lost", "unsent"):
            ended += 1
            maybe_applied = maybe_applied or event == "lost"
            out += attempts.on_failure(event == "lost")
        else:
            ended += 1
            out += attempts.on_reply(event)
    answers = [one.reply for one in out if isinstance(one, Answered)]
    assert len(answers) <= 1
    if answers and maybe_applied and answers[0] is not DONE:
        failure = answers[0] if isinstance(answers[0], Refused) else answers[0].failures[0]
        assert failure.code == Code.UNKNOWN
    assert len([one for one in out if isinstance(one, Ask)]) <= ROUNDS * max(count, 1)
