"""Corrupting visitors: a sound history, damaged in one place, must be caught by the right checker.

A checker that never complains proves nothing (reliability: "the checker itself is tested"). Each
visitor below damages what clients were told, or what the nodes hold, in the way of a real bug.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.context import CLOCK_AT
from dynamo_ray.core.version import Kind, State, Version, clock_of, encode
from dynamo_ray.sim.checkers import check
from dynamo_ray.sim.history import FAILED, OK, UNKNOWN, History, Read, Reaped, Write, decode
from dynamo_ray.sim.plan import Plan
from dynamo_ray.sim.run import Run

KEYS = dict(clients=3, operations=14, think_us=10_000, strict_share=1.0, delete_share=0.0)
Visitor = Callable[[History], None]


def history_of(plan: Plan, seed: int = 1) -> History:
    run = Run(seed, plan, ())
    run.begin()
    run.work()
    run.calm()
    assert all(verdict.ok for verdict in run.result().verdicts)
    return run.history


@pytest.fixture(scope="module")
def sound() -> History:
    return history_of(Plan(**KEYS, context_share=0.4))


@pytest.fixture(scope="module")
def set_of_elements() -> History:
    return history_of(Plan(**KEYS, styles=("set",)))


def key_of(history: History) -> bytes:
    return next(iter(history.finals))


def current(history: History) -> State:
    return decode(next(iter(history.finals[key_of(history)].values())))


def set_finals(history: History, state: State) -> None:
    key = key_of(history)
    history.finals[key] = {node: encode(state) for node in history.finals[key]}


def write_of(history: History, version: Version) -> Write:
    number = history.of_dot[key_of(history), version.dot]
    return next(write for write in history.writes if write.number == number)


def last_read(history: History) -> Read:
    return next(r for r in reversed(history.reads) if r.outcome == OK and r.state is not None)


def complaints(history: History) -> set[str]:
    return {verdict.checker for verdict in check(history) if not verdict.ok}


# ---- the visitors


def every_copy_vanishes(history: History) -> None:
    history.finals[key_of(history)] = {}


def an_old_state_comes_back(history: History) -> None:
    first = history.mints[0].after
    history.finals[key_of(history)] = dict.fromkeys(history.finals[key_of(history)], first)


def a_failed_write_is_shown(history: History) -> None:
    write_of(history, current(history).versions[0]).outcome = FAILED


def a_value_is_altered(history: History) -> None:
    versions = [v._replace(payload=b"rot") for v in current(history).versions]
    set_finals(history, State(current(history).clock, tuple(versions)))


def a_value_from_nowhere(history: History) -> None:
    history.mints = [m for m in history.mints if m.dot != current(history).versions[0].dot]


def a_sibling_is_dropped(history: History) -> None:
    set_finals(history, State(current(history).clock, current(history).versions[1:]))


def a_replaced_version_stays(history: History) -> None:
    read, old = last_read(history), history.mints[0]
    versions = (*decode(read.state or b"").versions, *decode(old.after).versions)
    read.state = encode(State(decode(read.state or b"").clock, tuple(sorted(versions))))


def a_read_claims_too_much(history: History) -> None:
    read = next(r for r in history.reads if r.state is not None)
    widest = next(iter(history.finals[read.key].values()))
    read.token = read.token[:CLOCK_AT] + clock_of(widest)


def a_put_claims_too_much(history: History) -> None:
    write = next(w for w in history.writes if w.outcome == OK and w.token)
    widest = next(iter(history.finals[write.key].values()))
    write.token = (write.token or b"")[:CLOCK_AT] + clock_of(widest)


def a_dot_is_used_twice(history: History) -> None:
    history.mints.append(history.mints[0]._replace(write=history.mints[-1].write))


def an_owner_is_behind(history: History) -> None:
    node = next(iter(history.finals[key_of(history)]))
    del history.finals[key_of(history)][node]


def a_stranger_keeps_a_copy(history: History) -> None:
    key = key_of(history)
    history.finals[key]["n9"] = next(iter(history.finals[key].values()))


def the_calm_never_comes(history: History) -> None:
    history.calm = False


def a_strict_read_finds_nothing(history: History) -> None:
    acked = min(write.ended for write in history.writes if write.outcome == OK)
    read = next(r for r in history.reads if r.invoked > acked and r.outcome == OK)
    read.state = None


def an_expired_value_is_shown(history: History) -> None:
    read = last_read(history)
    state = decode(read.state or b"")
    old = tuple(v._replace(kind=int(Kind.VALUE), expiry_ms=1) for v in state.versions)
    read.state = encode(State(state.clock, old))


def something_was_seen(history: History) -> None:
    history.breach("any", 0, "something that must never be")


VISITORS: tuple[tuple[Visitor, str], ...] = (
    (every_copy_vanishes, "nothing_lost"),
    (an_old_state_comes_back, "nothing_lost"),
    (a_failed_write_is_shown, "nothing_invented"),
    (a_value_is_altered, "nothing_invented"),
    (a_value_from_nowhere, "nothing_invented"),
    (a_sibling_is_dropped, "siblings_sound"),
    (a_replaced_version_stays, "siblings_sound"),
    (a_read_claims_too_much, "contexts_sound"),
    (a_put_claims_too_much, "contexts_sound"),
    (a_dot_is_used_twice, "unique_dots"),
    (an_owner_is_behind, "copies_equal"),
    (a_stranger_keeps_a_copy, "copies_equal"),
    (the_calm_never_comes, "copies_equal"),
    (a_strict_read_finds_nothing, "reads_see_writes"),
    (an_expired_value_is_shown, "expired_hidden"),
    (something_was_seen, "no_breach"),
)


@pytest.mark.parametrize(
    "visitor, checker", VISITORS, ids=lambda one: getattr(one, "__name__", one)
)
def test_a_damaged_history_is_caught(sound: History, visitor: Visitor, checker: str) -> None:
    damaged = copy.deepcopy(sound)
    visitor(damaged)
    assert checker in complaints(damaged)


def test_a_lost_element_of_a_set_is_caught(set_of_elements: History) -> None:
    damaged = copy.deepcopy(set_of_elements)
    state = current(damaged)
    emptied = tuple(v._replace(payload=v.payload.split(b"|")[0] + b"||") for v in state.versions)
    set_finals(damaged, State(state.clock, emptied))
    assert "elements_kept" in complaints(damaged)


# ---- what the history notices by itself


def test_another_version_under_one_dot_is_noticed(sound: History) -> None:
    damaged = copy.deepcopy(sound)
    state = current(damaged)
    other = tuple(v._replace(put_id=bytes(16)) for v in state.versions)
    damaged.on_logged("n1", 0, key_of(damaged), encode(State(state.clock, other)))
    assert [breach.rule for breach in damaged.breaches] == ["dots"]


def test_a_retry_minted_where_it_was_known_is_noticed(sound: History) -> None:
    damaged = copy.deepcopy(sound)
    minted = damaged.mints[0]
    write = next(write for write in damaged.writes if write.number == minted.write)
    again = (minted.node, 0, minted.key, write.put_id, minted.context, None, minted.after)
    damaged.on_minted(*again)
    assert "retry" in [breach.rule for breach in damaged.breaches]


def test_a_blind_put_that_leaves_a_sibling_is_noticed(sound: History) -> None:
    damaged = copy.deepcopy(sound)
    key, before = key_of(damaged), encode(current(damaged))
    new = current(damaged).versions[0].dot._replace(counter=99)
    both = (*current(damaged).versions, current(damaged).versions[0]._replace(dot=new))
    after = encode(State(current(damaged).clock.with_dot(new), tuple(sorted(both))))
    damaged.on_minted("n1", 0, key, damaged.writes[-1].put_id, None, before, after)
    assert "replaces" in [breach.rule for breach in damaged.breaches]


def test_too_few_copies_at_the_acknowledgement_are_noticed(sound: History) -> None:
    damaged = copy.deepcopy(sound)
    write = next(w for w in damaged.writes if w.outcome == OK and w.w == 2)
    copies = [encode(current(damaged)), None, None]
    damaged.on_acknowledged(write, 0, copies)
    assert [breach.rule for breach in damaged.breaches] == ["quorum"]


# ---- and what may be


def test_a_delete_that_was_reaped_before_its_answer_came_is_acknowledged(sound: History) -> None:
    """Found as seed 260: a repeat of the delete found it everywhere, and its answer was slow."""
    changed = copy.deepcopy(sound)
    write = next(w for w in changed.writes if w.outcome == OK and w.w == 2)
    dots = changed._dots_of(write.key)[write.number]
    other = encode(State(Clock(), ()))
    held = encode(State(Clock().with_dot(dots[0]), (_tombstone(dots[0]),)))
    for before, rules in ((other, ["quorum"]), (held, [])):
        changed.breaches.clear()
        changed.reaped = {write.key: [Reaped(0, "n1", before, None, 1 << 50)]}
        changed.on_acknowledged(write, 0, [None, None, None])
        assert [breach.rule for breach in changed.breaches] == rules


def _tombstone(dot: Dot) -> Version:
    return Version(dot, int(Kind.TOMBSTONE), 0, 0, bytes(16), b"")


def test_a_write_whose_end_is_unknown_may_be_lost(sound: History) -> None:
    changed = copy.deepcopy(sound)
    for write in changed.writes:
        write.outcome = UNKNOWN
    every_copy_vanishes(changed)
    assert "nothing_lost" not in complaints(changed)


def forget(history: History, at: int, at_owners: tuple[bytes | None, ...] = ()) -> None:
    """A node stopped and found nothing of the key again; others hold what is said."""
    state = next(iter(history.finals[key_of(history)].values()))
    history.on_forgotten(key_of(history), at, (state, None), at_owners, at_owners)


def test_what_went_with_its_last_copy_may_be_lost(sound: History) -> None:
    changed = copy.deepcopy(sound)
    forget(changed, at=10**9)
    every_copy_vanishes(changed)
    assert "nothing_lost" not in complaints(changed)


def test_what_somebody_still_held_may_not_be_lost(sound: History) -> None:
    changed = copy.deepcopy(sound)
    forget(changed, 10**9, (next(iter(changed.finals[key_of(changed)].values())),))
    every_copy_vanishes(changed)
    assert "nothing_lost" in complaints(changed)


def test_what_arrives_after_all_is_not_lost(sound: History) -> None:
    changed = copy.deepcopy(sound)
    forget(changed, at=10**9)
    state = next(iter(changed.finals[key_of(changed)].values()))
    changed.on_logged("n1", 10**9, key_of(changed), state)
    every_copy_vanishes(changed)
    assert "nothing_lost" in complaints(changed)


@pytest.mark.parametrize("at_read, is_due", [(False, True), (True, False)])
def test_a_read_may_miss_only_what_was_gone_before_it(
    sound: History, at_read: bool, is_due: bool
) -> None:
    changed = copy.deepcopy(sound)
    a_strict_read_finds_nothing(changed)
    read = [r for r in changed.reads if r.outcome == OK and r.state is None][-1]
    at = max(write.ended for write in changed.writes if write.ended < read.invoked) + 1
    forget(changed, at if at_read else 10**9)
    assert ("reads_see_writes" in complaints(changed)) is is_due


def test_a_read_may_not_miss_what_one_of_w_owners_forgot(sound: History) -> None:
    """It is the very thing that rebuilding is for, unless fewer than W had been asked for."""
    changed = copy.deepcopy(sound)
    a_strict_read_finds_nothing(changed)
    read = [r for r in changed.reads if r.outcome == OK and r.state is None][-1]
    at = max(write.ended for write in changed.writes if write.ended < read.invoked) + 1
    forget(changed, at, (next(iter(changed.finals[key_of(changed)].values())),))
    assert "reads_see_writes" in complaints(changed)
    changed.terms = replace(changed.terms, w=3)
    assert "reads_see_writes" not in complaints(changed)


def test_a_degraded_read_promises_nothing(sound: History) -> None:
    changed = copy.deepcopy(sound)
    a_strict_read_finds_nothing(changed)
    for read in changed.reads:
        read.degraded = True
    assert "reads_see_writes" not in complaints(changed)
