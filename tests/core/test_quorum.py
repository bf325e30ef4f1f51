"""Quorums: the three verdicts, and the tally against a twin that recounts everything each time."""

from __future__ import annotations

import random

import pytest

from dynamo_ray.core.quorum import Tally, Verdict, verdict

PENDING, MET, LOST = Verdict.PENDING, Verdict.MET, Verdict.LOST
A, B, C, D = b"A", b"B", b"C", b"D"


@pytest.mark.parametrize(
    "required, received, possible, expected",
    [
        (2, 0, 3, PENDING),
        (2, 1, 2, PENDING),
        (2, 2, 3, MET),
        (2, 3, 3, MET),
        (2, 1, 1, LOST),
        (2, 0, 0, LOST),
        (1, 0, 1, PENDING),
        (0, 0, 0, MET),
    ],
)
def test_a_verdict_is_one_of_three(
    required: int, received: int, possible: int, expected: Verdict
) -> None:
    assert verdict(required, received, possible) is expected


def test_the_second_of_three_acknowledgements_meets_a_quorum_of_two_and_only_it_says_so() -> None:
    tally = Tally(2, [A, B, C])
    assert [tally.on_ack(node) for node in (A, B, C)] == [PENDING, MET, PENDING]
    assert tally.verdict is MET
    assert (tally.received, tally.possible, tally.waiting) == (3, 3, frozenset())


def test_the_failure_that_leaves_too_few_loses_the_quorum_and_only_it_says_so() -> None:
    tally = Tally(2, [A, B, C])
    assert [tally.on_failure(node) for node in (A, B, C)] == [PENDING, LOST, PENDING]
    assert tally.verdict is LOST


def test_a_node_that_answers_twice_counts_once() -> None:
    tally = Tally(2, [A, B, C])
    assert [tally.on_ack(A), tally.on_ack(A)] == [PENDING, PENDING]
    assert tally.received == 1


def test_a_node_that_fails_twice_fails_once() -> None:
    tally = Tally(2, [A, B, C])
    assert [tally.on_failure(A), tally.on_failure(A)] == [PENDING, PENDING]
    assert tally.possible == 2


def test_an_acknowledgement_that_comes_after_its_time_out_counts() -> None:
    tally = Tally(2, [A, B, C])
    tally.on_failure(A)
    tally.on_ack(B)
    assert tally.on_ack(A) is MET


def test_a_failure_after_the_acknowledgement_takes_nothing_back() -> None:
    tally = Tally(2, [A, B, C])
    tally.on_ack(A)
    tally.on_failure(A)
    assert (tally.received, tally.possible) == (1, 3)


def test_a_stand_in_added_in_time_keeps_the_quorum_possible() -> None:
    tally = Tally(2, [A, B])
    tally.add(D)
    assert [tally.on_failure(A), tally.on_ack(B), tally.on_ack(D)] == [PENDING, PENDING, MET]


def test_what_is_lost_stays_lost() -> None:
    tally = Tally(2, [A, B])
    assert tally.on_failure(A) is LOST
    tally.add(C)
    assert [tally.on_ack(B), tally.on_ack(C)] == [PENDING, PENDING]
    assert tally.verdict is LOST


def test_a_strict_quorum_is_one_whose_candidates_are_the_owners() -> None:
    tally = Tally(2, [A, B, C])
    assert [tally.on_ack(D), tally.on_ack(A)] == [PENDING, PENDING]
    assert tally.received == 1


def test_a_quorum_can_be_decided_from_the_start() -> None:
    assert Tally(0, []).verdict is MET
    assert Tally(3, [A, B]).verdict is LOST


class Recount:
    """The dumb twin: keeps every event, and replays all of them for every question."""

    def __init__(self, required: int, candidates: list[bytes]) -> None:
        self.required = required
        self.events: list[tuple[str, bytes]] = [("add", node) for node in candidates]
        self.born = len(candidates)

    def status(self, until: int) -> dict[bytes, str]:
        status: dict[bytes, str] = {}
        for event, node in self.events[:until]:
            if event == "add":
                status.setdefault(node, "waiting")
            elif node in status and status[node] != "acked":
                status[node] = "acked" if event == "ack" else "failed"
        return status

    def judged(self, until: int) -> Verdict:
        status = list(self.status(until).values())
        if status.count("acked") >= self.required:
            return MET
        return LOST if len(status) - status.count("failed") < self.required else PENDING

    def decided(self) -> tuple[int, Verdict]:
        """The number of the event that decided, and how. An addition decides nothing."""
        for until in range(self.born, len(self.events) + 1):
            told = until == self.born or self.events[until - 1][0] != "add"
            if told and self.judged(until) is not PENDING:
                return until, self.judged(until)
        return -1, PENDING


@pytest.mark.parametrize("seed", range(8))
def test_the_tally_agrees_with_a_recount_of_everything(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(500):
        nodes = [bytes([i]) for i in range(chance.randint(1, 7))]
        candidates = [node for node in nodes if chance.random() < 0.7]
        required = chance.randint(0, len(nodes))
        tally, twin = Tally(required, candidates), Recount(required, candidates)
        for _ in range(chance.randint(0, 16)):
            event, node = chance.choice(["ack", "ack", "fail", "add"]), chance.choice(nodes)
            twin.events.append((event, node))
            when, how = twin.decided()
            if event == "add":
                tally.add(node)
            else:
                said = tally.on_ack(node) if event == "ack" else tally.on_failure(node)
                assert said is (how if when == len(twin.events) else PENDING)
            status = twin.status(len(twin.events))
            assert tally.verdict is how
            assert tally.received == list(status.values()).count("acked")
            assert tally.waiting == {n for n, s in status.items() if s == "waiting"}
            assert tally.possible == tally.received + len(tally.waiting)
