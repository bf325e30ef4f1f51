"""A get in flight: who counts, what is merged, and who is repaired afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.get import Get
from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import Code, Done, Failure, Fetch, Fetched, GetOutcome, Merge, Send
from dynamo_ray.core.routing import Route
from tests.core.histories import dot, node_id, state, version

A, B, C, D, E, F = (node_id(letter) for letter in "abcdef")
FETCH = Fetch([b"k"], [7])
OLD = state(version(dot("a", 1), b"old"))
NEW = state(version(dot("a", 2), b"new"), also_seen=[dot("a", 1)])
BESIDE = state(version(dot("b", 1), b"beside"))
NOTHING = Fetched([None])


def get(
    *suspected: bytes,
    r: int = 2,
    strict: bool = False,
    repair: bool = True,
    spares: tuple[bytes, ...] = (D, E, F),
) -> Get:
    return Get(FETCH, Route((A, B, C), spares, frozenset(suspected)), r, strict, repair)


def found(held: bytes | None, degraded: bool = False) -> Done:
    return Done(GetOutcome([held], degraded))


def unavailable(alive: int, r: int = 2) -> Done:
    return Done(GetOutcome([None], True, (Failure(0, Code.UNAVAILABLE, r, alive),)))


def ask(*nodes: bytes) -> list[Send]:
    return [Send(node, FETCH) for node in nodes]


def mend(node: bytes, held: bytes) -> Send:
    return Send(node, Merge([b"k"], [7], [held]))


# The healthy get.


def test_the_owners_are_asked_and_the_first_r_decide() -> None:
    machine = get()
    assert machine.start() == ask(A, B, C)
    assert machine.on_fetched(C, Fetched([NEW])) == []
    assert machine.on_fetched(A, Fetched([NEW])) == [found(NEW)]
    assert machine.answered and not machine.closed
    assert machine.on_fetched(B, Fetched([NEW])) == []
    assert machine.closed


def test_what_differs_is_merged_and_whoever_was_behind_is_repaired_at_the_end() -> None:
    machine = get()
    machine.start()
    machine.on_fetched(A, Fetched([OLD]))
    assert machine.on_fetched(B, Fetched([BESIDE])) == [found(merge(OLD, BESIDE))]
    newest = merge(NEW, BESIDE)
    assert machine.on_fetched(C, Fetched([NEW])) == [mend(n, newest) for n in (A, B, C)]


def test_an_owner_without_the_key_is_repaired_too() -> None:
    machine = get()
    machine.start()
    machine.on_fetched(A, NOTHING)
    assert machine.on_fetched(B, Fetched([NEW])) == [found(NEW)]
    assert machine.on_failure(C) == [mend(A, NEW)]


def test_a_late_answer_repairs_and_changes_no_answer() -> None:
    machine = get()
    machine.start()
    machine.on_fetched(A, Fetched([OLD]))
    machine.on_fetched(B, Fetched([OLD]))
    assert machine.on_fetched(C, Fetched([NEW])) == [mend(A, NEW), mend(B, NEW)]


def test_not_found_needs_r_owners() -> None:
    machine = get()
    machine.start()
    assert machine.on_fetched(A, NOTHING) == []
    assert machine.on_fetched(B, NOTHING) == [found(None)]


def test_repair_can_be_left_to_others() -> None:
    machine = get(repair=False)
    machine.start()
    machine.on_fetched(A, Fetched([OLD]))
    machine.on_fetched(B, Fetched([NEW]))
    assert machine.on_failure(C) == []
    assert machine.closed


def test_a_batch_repairs_only_the_keys_that_were_behind() -> None:
    machine = Get(Fetch([b"x", b"y"], [7, 8]), Route((A, B), ()), 2)
    machine.start()
    machine.on_fetched(A, Fetched([NEW, OLD]))
    done, repair = machine.on_fetched(B, Fetched([NEW, NEW]))
    assert done == Done(GetOutcome([NEW, NEW]))
    assert repair == Send(A, Merge([b"y"], [8], [NEW]))


# Owners that cannot be reached.


def test_with_r_healthy_owners_nobody_else_is_asked() -> None:
    assert get(A).start() == ask(B, C)


def test_with_fewer_stand_ins_help_and_the_answer_is_degraded() -> None:
    machine = get(A, B)
    assert machine.start() == ask(C, A, B, D, E, F)
    machine.on_fetched(C, Fetched([OLD]))
    machine.on_fetched(D, Fetched([NEW], complete=False))
    machine.on_fetched(E, Fetched([None], complete=False))
    assert machine.on_fetched(F, Fetched([None], complete=False)) == [found(NEW, degraded=True)]
    assert not machine.closed  # A and B may answer after all
    machine.on_failure(A)
    assert machine.on_failure(B) == [mend(C, NEW)]


def test_a_suspected_owner_that_answers_after_all_counts() -> None:
    machine = get(A, B)
    machine.start()
    machine.on_fetched(C, Fetched([OLD]))
    assert machine.on_fetched(A, Fetched([OLD])) == [found(OLD)]


def test_a_stand_ins_nothing_never_counts() -> None:
    machine = get(A, B, C)
    machine.start()
    machine.on_fetched(D, Fetched([None], complete=False))
    machine.on_fetched(E, Fetched([None], complete=True))  # whatever it says of itself
    assert machine.on_fetched(F, Fetched([None], complete=False)) == [unavailable(0)]


def test_an_owner_that_fails_is_replaced_once_the_rest_cannot_decide() -> None:
    machine = get()
    machine.start()
    assert machine.on_failure(A) == []
    assert machine.on_refused(B, Code.NOT_READY) == ask(D, E, F)
    machine.on_fetched(C, Fetched([NEW]))
    machine.on_failure(D)
    machine.on_failure(E)
    assert machine.on_failure(F) == [found(NEW, degraded=True)]


def test_strict_is_unavailable_however_much_stand_ins_hold() -> None:
    machine = get(A, B, strict=True)
    assert machine.start() == ask(C, A, B)
    machine.on_fetched(C, Fetched([NEW]))
    assert machine.on_failure(A) == []
    assert machine.on_failure(B) == [unavailable(1)]


def test_an_owner_that_cannot_prove_its_log_complete_does_not_count() -> None:
    """What it holds is welcome; that it holds nothing else is not believed (rule 9)."""
    machine = get()
    machine.start()
    assert machine.on_fetched(A, Fetched([NEW], complete=False)) == []
    assert machine.on_fetched(B, NOTHING) == []
    assert machine.on_fetched(C, NOTHING) == [found(NEW), mend(B, NEW), mend(C, NEW)]


def test_owners_that_cannot_prove_it_are_replaced_as_if_they_had_failed() -> None:
    """Two of three lost their log: a stand-in may hold what they acknowledged and cannot show."""
    machine = get()
    machine.start()
    machine.on_fetched(A, Fetched([None], complete=False))
    assert machine.on_fetched(B, Fetched([None], complete=False)) == ask(D, E, F)
    machine.on_fetched(C, Fetched([OLD]))
    machine.on_fetched(D, Fetched([NEW], complete=False))
    machine.on_failure(E)
    assert machine.on_failure(F) == [found(NEW, degraded=True)] + [mend(n, NEW) for n in (A, B, C)]


# Deadlines.


def test_time_is_up_before_r_and_what_is_there_is_degraded() -> None:
    machine = get()
    machine.start()
    machine.on_fetched(A, Fetched([NEW]))
    assert machine.on_deadline() == [found(NEW, degraded=True)]
    assert machine.on_fetched(B, Fetched([OLD])) == []
    assert machine.on_deadline() == [mend(B, NEW)]
    assert machine.closed and machine.on_fetched(C, Fetched([OLD])) == []


def test_time_is_up_and_nobody_answered() -> None:
    machine = get()
    machine.start()
    assert machine.on_deadline() == [unavailable(0)]


def test_an_answer_twice_counts_once() -> None:
    machine = get()
    machine.start()
    assert machine.on_fetched(A, NOTHING) == machine.on_fetched(A, NOTHING) == []


# Any order of events.

HOLDINGS = [None, OLD, NEW, BESIDE, merge(NEW, BESIDE)]


class Driver:
    """Feeds a get with whatever its messages may meet, and remembers who held what."""

    def __init__(self, machine: Get, r: int, strict: bool, holds: list[bytes | None]) -> None:
        self.machine, self.r, self.strict = machine, r, strict
        self.holds = dict(zip((A, B, C, D, E, F), holds, strict=True))
        self.incomplete: set[bytes] = set()
        self.open: list[bytes] = []
        self.asked: list[bytes] = []
        self.answers: dict[bytes, bytes | None] = {}
        self.counted: set[bytes] = set()
        self.done: list[GetOutcome] = []
        self.mended: dict[bytes, bytes] = {}
        self.take(machine.start)

    def take(self, event: Callable[[], list[Any]]) -> None:
        was_closed = self.machine.closed
        effects = event()
        assert not (was_closed and effects), "a closed get did something"
        for effect in effects:
            if isinstance(effect, Done):
                self.done.append(effect.outcome)
                self.judge(effect.outcome)
            elif isinstance(effect.message, Fetch):
                self.open.append(effect.node)
                self.asked.append(effect.node)
            else:
                assert effect.node not in self.mended
                self.mended[effect.node] = effect.message.states[0]

    def together(self) -> bytes | None:
        merged: bytes | None = None
        for held in self.answers.values():
            if held is not None:
                merged = held if merged is None else merge(merged, held)
        return merged

    def judge(self, outcome: GetOutcome) -> None:
        assert outcome.degraded == (len(self.counted) < self.r)
        merged = self.together()
        if not outcome.degraded:
            assert not outcome.failures and outcome.states == [merged]
        elif self.strict or merged is None:
            (failure,) = outcome.failures
            assert failure == Failure(0, Code.UNAVAILABLE, self.r, len(self.counted))
            assert outcome.states == [None]
        else:
            assert outcome.states == [merged] and not outcome.failures

    def step(self, what: str, which: int) -> None:
        machine = self.machine
        if what == "deadline":
            self.take(machine.on_deadline)
        elif self.open and what == "suspect":  # its call stays open
            node = self.open[which % len(self.open)]
            self.take(lambda: machine.on_failure(node))
        elif self.open:
            node = self.open.pop(which % len(self.open))
            if what == "lost":
                self.take(lambda: machine.on_failure(node))
                return
            complete = node in (A, B, C) and what != "incomplete"
            if not machine.closed:
                self.answers[node] = self.holds[node]
                if complete:
                    self.counted.add(node)
            fetched = Fetched([self.holds[node]], complete)
            self.take(lambda: machine.on_fetched(node, fetched))
            self.take(lambda: machine.on_fetched(node, fetched))


_steps = st.lists(
    st.tuples(
        st.sampled_from(["ok", "ok", "ok", "incomplete", "lost", "suspect", "deadline"]),
        st.integers(0, 5),
    ),
    max_size=20,
)
_suspected = st.frozensets(st.sampled_from([A, B, C, D, E]), max_size=4)
_holds = st.lists(st.sampled_from(HOLDINGS), min_size=6, max_size=6)


@given(_steps, _suspected, _holds, st.integers(1, 3), st.booleans())
def test_in_any_order_of_events_the_caller_hears_once_and_the_truth(
    steps: list[tuple[str, int]],
    suspected: frozenset[bytes],
    holds: list[bytes | None],
    r: int,
    strict: bool,
) -> None:
    driver = Driver(get(*suspected, r=r, strict=strict), r, strict, holds)
    for what, which in steps:
        driver.step(what, which)
    while driver.open:
        driver.step("lost", 0)
    assert len(driver.done) == 1
    assert driver.machine.closed and driver.machine.answered
    assert len(driver.asked) == len(set(driver.asked)), "a node was asked twice"
    assert not strict or set(driver.asked) <= {A, B, C}
    merged = driver.together()
    behind = {n for n, held in driver.answers.items() if n in (A, B, C) and held != merged}
    assert driver.mended == dict.fromkeys(behind, merged)


def test_an_answer_of_one_that_is_gone_is_asked_of_its_heir() -> None:
    """It knew nothing of what the others count with the heir."""
    machine = get()
    machine.start()
    machine.on_fetched(A, Fetched([OLD]))
    assert machine.on_gone(frozenset({A, B})) == ask(A)
    assert machine.on_fetched(B, Fetched([OLD])) == []
    assert machine.on_fetched(A, Fetched([NEW])) == [found(merge(OLD, NEW))]
    assert machine.on_gone(frozenset({A})) == [], "it is answered"
