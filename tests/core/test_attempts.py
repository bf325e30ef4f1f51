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
    if answers and maybe_applied and answers[0] != DONE:
        failure = answers[0] if isinstance(answers[0], Refused) else answers[0].failures[0]
        assert failure.code == Code.UNKNOWN
    assert len([one for one in out if isinstance(one, Ask)]) <= ROUNDS * max(count, 1)


THREE = ClientPut([b"k", b"l", b"m"], [b"v"] * 3, [None] * 3, [b"1", b"2", b"3"], [0] * 3, 0, False)
UNAVAILABLE = Failure(0, Code.UNAVAILABLE, 2, 1)


def test_what_one_finds_unavailable_another_one_is_asked_for_once_and_alone() -> None:
    """c1 sees too few nodes: it is cut off, or suspects them wrongly. c2 need not be."""
    attempts = Attempts(THREE, ["c1", "c2", "c3"])
    attempts.start()
    siblings = Failure(0, Code.TOO_MANY_SIBLINGS, 1, 2)
    poor = PutDone([None, b"L", None], (siblings, UNAVAILABLE._replace(index=2)))
    only_m = ClientPut([b"m"], [b"v"], [None], [b"3"], [0], 0, False)
    assert attempts.on_reply(poor) == [Ask("c2", only_m)]
    assert attempts.on_reply(PutDone([b"M"])) == [
        Answered(PutDone([None, b"L", b"M"], (siblings,)))
    ]


def test_where_nodes_are_really_gone_two_coordinators_are_asked_and_no_more() -> None:
    for message, poor in (
        (PUT, PutDone([None], (UNAVAILABLE,))),
        (GET, GetDone([None], [b""], False, (UNAVAILABLE,))),
    ):
        attempts = Attempts(message, ["c1", "c2", "c3"])
        attempts.start()
        assert attempts.on_reply(poor) == [Ask("c2", message)]
        assert attempts.on_reply(poor) == [Answered(poor)]


def test_nobody_who_was_asked_before_is_the_other_one() -> None:
    attempts = Attempts(PUT, ["c1", "c2"])
    attempts.start()
    attempts.on_reply(BUSY)
    assert attempts.on_reply(POOR) == [Answered(POOR)]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_what_another_one_answers_whole_is_not_degraded(strict: bool, again: bool) -> None:
    """An answer with an unavailable key always is; of its other keys only a sloppy one may be."""
    missing = [UNAVAILABLE._replace(index=row) for row in range(2)]
    for rows, is_degraded in ((2, again), (1, again or not strict)):
        attempts = Attempts(ClientGet([b"k", b"l"], 0, strict), ["c1", "c2"])
        attempts.start()
        states, seals = ([None, b"L"], [b"", b"2"]) if rows == 1 else ([None] * 2, [b""] * 2)
        attempts.on_reply(GetDone(states, seals, True, tuple(missing[:rows])))
        out = attempts.on_reply(GetDone([b"K", b"L"][:rows], [b"1", b"2"][:rows], again))
        assert out == [Answered(GetDone([b"K", b"L"], [b"1", b"2"], is_degraded))]


def test_while_one_is_silent_and_another_poor_a_third_is_asked_for_all() -> None:
    """The silent one may be dead, or have done it: whichever answer is better counts."""
    attempts = Attempts(PUT, ["c1", "c2", "c3", "c4"])
    attempts.start()
    assert attempts.on_silence("c1") == [Ask("c2", PUT)]
    assert attempts.on_reply(POOR) == [Ask("c3", PUT)]
    assert attempts.on_reply(POOR) == [], "and no fourth"
    assert attempts.on_reply(DONE) == [Answered(DONE)]


@pytest.mark.parametrize("last", ["lost", "silent", "late", "unreadable"])
def test_an_other_one_that_says_nothing_leaves_what_it_was_asked_for_unknown(last: str) -> None:
    siblings = Failure(0, Code.TOO_MANY_SIBLINGS, 1, 2)
    found = GetDone([None, None], [b"", b""], False, (siblings, UNAVAILABLE._replace(index=1)))
    stored = PutDone([None, None, b"M"], found.failures)
    for message, poor in ((ClientGet([b"k", b"l"], 0, False), found), (THREE, stored)):
        attempts = Attempts(message, ["c1", "c2", "c3"])
        attempts.start()
        attempts.on_reply(poor)
        (answered,) = {
            "lost": lambda one: one.on_failure(True),
            "silent": lambda one: one.on_silence("c2"),
            "late": lambda one: one.on_deadline(),
            "unreadable": lambda one: one.on_reply(Refused(Code.UNKNOWN, "what?")),
        }[last](attempts)
        codes = [failure.code for failure in answered.reply.failures]
        end = Code.UNKNOWN if message is THREE else Code.UNAVAILABLE
        assert codes == [Code.TOO_MANY_SIBLINGS, end]


@pytest.mark.parametrize("code", [Code.OVERLOADED, Code.EXPIRED, Code.BAD_REQUEST, None])
def test_instead_of_one_that_did_not_begin_the_next_is_asked(code: Code | None) -> None:
    attempts = Attempts(PUT, ["c1", "c2", "c3"])
    attempts.start()
    attempts.on_reply(POOR)
    for answer in (Ask("c3", PUT), Answered(POOR)):
        out = attempts.on_failure(False) if code is None else attempts.on_reply(Refused(code, "no"))
        assert out == [answer]


_codes = st.sampled_from([None, Code.UNAVAILABLE, Code.UNKNOWN, Code.TOO_MANY_SIBLINGS])
_turns = st.one_of(
    st.sampled_from(["lost", "unsent", "late", "silent", "busy"]),
    st.tuples(_codes, _codes, _codes),
)


@given(st.lists(_turns, max_size=12), st.integers(1, 4), st.randoms())
def test_what_somebody_may_have_applied_never_ends_as_failed(
    turns: list[Any], count: int, chance: Any
) -> None:
    """Whoever answers, in whichever order: each key ends as what all that happened allows."""
    attempts = Attempts(THREE, [f"c{i}" for i in range(count)])
    keys, working = list(THREE.keys), []
    stored: set[bytes] = set()
    perhaps: set[bytes] = set()
    out = attempts.start()
    for turn in turns:
        working += [one for one in out if isinstance(one, Ask)]
        if any(isinstance(one, Answered) for one in out):
            break
        if turn == "late":
            perhaps.update(*(ask.message.keys for ask in working))
            out = attempts.on_deadline()
        elif turn == "silent":
            if working:
                perhaps.update(working[-1].message.keys)
                out = attempts.on_silence(working[-1].coordinator)
        elif working:
            ask = working.pop(chance.randrange(len(working)))
            codes = dict(zip(keys, turn, strict=True)) if isinstance(turn, tuple) else {}
            if turn == "lost":
                perhaps.update(ask.message.keys)
                out = attempts.on_failure(True)
            elif turn == "unsent":
                out = attempts.on_failure(False)
            elif turn == "busy":
                out = attempts.on_reply(BUSY)
            else:
                stored.update(key for key in ask.message.keys if codes[key] is None)
                perhaps.update(key for key in ask.message.keys if codes[key] == Code.UNKNOWN)
                out = attempts.on_reply(_answer_to(ask.message.keys, codes))
        else:
            out = []
    for answered in (one for one in out if isinstance(one, Answered)):
        _judge(answered.reply, keys, stored, perhaps)


def _answer_to(keys: Any, codes: dict[bytes, Any]) -> PutDone:
    failures = [Failure(i, codes[k], 2, 1) for i, k in enumerate(keys) if codes[k] is not None]
    return PutDone([k.upper() if codes[k] is None else None for k in keys], tuple(failures))


def _judge(reply: Any, keys: list[bytes], stored: set[bytes], perhaps: set[bytes]) -> None:
    if isinstance(reply, Refused):
        assert reply.code == Code.UNKNOWN or not (stored | perhaps)
        return
    codes = {failure.index: failure.code for failure in reply.failures}
    for row, key in enumerate(keys):
        if row not in codes:
            assert key in stored
            assert reply.contexts[row] == key.upper()
        elif codes[row] != Code.UNKNOWN:
            assert key not in stored | perhaps
