"""Members killed, stopped, reset and cut off for real, under load, judged by all checkers.

Bounds are generous and relative to the time in which a silent node is suspected: what is asserted
are counts. `make chaos` runs all of them, `make test` those that are not marked slow.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.clusters import Hurt, wait
from tests.chaos.drills import Drilled, Outside, drill
from tests.chaos.sockets import cut, hindrance, reset_all

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(240)]
slow = pytest.mark.slow

KILL, STOP, GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
NODES = [f"n{i}" for i in range(1, 6)]
COORDINATORS = ["c1", "c2"]
# Time to suspect somebody, twice as much for a machine that is busy, and some for the request.
GAP_S = 3 * 0.6 + 1.0
# A request may take its whole time-out, and then its client asks again.
LONGEST_S = 2.0 + GAP_S
WORKERS = 10
# Clients look for a coordinator that they lost every half second: it listens elsewhere now.
FOUND_AGAIN_S = 1.0
Keep = Callable[[Drilled], Drilled]


@pytest.fixture
def whole(cluster: Hurt) -> Hurt:
    wait(cluster.is_whole, what="a whole cluster")
    return cluster


def assert_nothing_failed(drilled: Drilled, gap_s: float = GAP_S) -> None:
    """No sloppy request failed; the rest as `assert_sound`."""
    failed = drilled.puts_failed, drilled.puts_unknown, drilled.gets_failed
    assert failed == (0, 0, 0), drilled.errors
    assert drilled.longest_gap_s < gap_s
    assert_sound(drilled)


def assert_writes_went_on(drilled: Drilled) -> None:
    """No put was refused; what a worker had under way may have ended as one that may be there."""
    assert drilled.puts_failed == 0, drilled.errors
    assert drilled.puts_unknown <= WORKERS, drilled.errors
    assert drilled.longest_gap_s < LONGEST_S
    assert_sound(drilled)


def assert_sound(drilled: Drilled) -> None:
    """Clients worked, it came to rest, and no checker found anything."""
    assert drilled.puts > 50 and drilled.gets > 50
    assert drilled.found == {}
    assert drilled.lost == 0
    assert drilled.settled_s is not None


def killed(cluster: Hurt, fault: str, *names: str) -> Drilled:
    """The members are killed at once; healed when Ray has started all of them again."""
    pids: dict[str, int] = {}
    return drill(
        cluster,
        fault,
        lambda: pids.update(cluster.signal(KILL, *names)),
        lambda: cluster.wait_until_back(pids),
        lasts_s=1.0,
        victims=names,
    )


def stopped(cluster: Hurt, fault: str, *names: str, lasts_s: float = 3.0) -> Drilled:
    """The members stand still for a time; nobody takes them for dead."""
    before = cluster.pids()

    def go_on() -> None:
        for name in names:
            os.kill(before[name], GO_ON)

    stop = lambda: cluster.signal(STOP, *names)  # noqa: E731
    drilled = drill(cluster, fault, stop, go_on, lasts_s=lasts_s, victims=names)
    assert cluster.pids() == before
    return drilled


def test_a_node_is_killed(whole: Hurt, keep: Keep) -> None:
    """It comes back in place, with its data and as a new incarnation."""
    before = {node.name: node for node in whole.status().nodes}["n2"]
    assert_nothing_failed(keep(killed(whole, "a node is killed", "n2")))
    after = {node.name: node for node in whole.status().nodes}["n2"]
    assert after.incarnation > before.incarnation
    assert after.keys > 0 and after.recovery["records"] > 0


def test_a_coordinator_is_killed(whole: Hurt, keep: Keep) -> None:
    assert_nothing_failed(keep(killed(whole, "a coordinator is killed", "c1")))


@slow
def test_a_node_is_cut_off(whole: Hurt, keep: Keep) -> None:
    """It runs and hears nobody, nobody hears it, and all connections stay open."""
    drilled = keep(cut_off(whole, "a node is cut off for 5 s", "n5"))
    assert_nothing_failed(drilled)
    assert drilled.detected_s is not None


@slow
def test_nothing_happens(whole: Hurt, keep: Keep) -> None:
    drilled = keep(drill(whole, "none"))
    assert_nothing_failed(drilled)
    assert drilled.strict_failed == 0


@slow
def test_a_node_stands_still(whole: Hurt, keep: Keep) -> None:
    assert_nothing_failed(keep(stopped(whole, "a node stands still for 3 s", "n3")))


@slow
def test_a_coordinator_stands_still(whole: Hurt, keep: Keep) -> None:
    assert_nothing_failed(keep(stopped(whole, "a coordinator stands still for 3 s", "c2")))


@slow
def test_a_node_and_a_coordinator_stand_still(whole: Hurt, keep: Keep) -> None:
    fault = "a node and a coordinator stand still for 3 s"
    assert_nothing_failed(keep(stopped(whole, fault, "n4", "c1")), 2 * GAP_S)


@slow
def test_both_coordinators_are_killed(whole: Hurt, keep: Keep) -> None:
    """Nobody coordinates for those that do not do it themselves, until Ray has started one."""
    drilled = keep(killed(whole, "both coordinators are killed", *COORDINATORS))
    assert_sound(drilled)


@slow
def test_two_of_three_owners_are_killed(whole: Hurt, keep: Keep) -> None:
    assert_writes_went_on(keep(killed(whole, "two nodes are killed", "n1", "n2")))


@slow
def test_two_of_three_owners_stand_still(whole: Hurt, keep: Keep) -> None:
    """Sloppy writes go on; strict ones, and reads of what only the two may know, are refused."""
    drilled = keep(stopped(whole, "two nodes stand still for 4 s", "n3", "n4", lasts_s=4.0))
    assert_writes_went_on(drilled)
    assert drilled.strict_failed > 0


@slow
def test_all_connections_of_a_node_are_reset(whole: Hurt, keep: Keep) -> None:
    pid, ports = whole.pids()["n4"], whole.ports()
    _may_hold(pid)
    count: list[int] = []
    reset = lambda: count.append(reset_all(pid, ports))  # noqa: E731
    drilled = keep(drill(whole, "all connections of a node are reset", reset, lasts_s=2.0))
    assert count[0] >= len(NODES) - 1
    assert_nothing_failed(drilled)


@slow
def test_the_cluster_is_split_in_two(whole: Hurt, keep: Keep, folder: Path) -> None:
    """Two nodes with a coordinator and a client on one side, three with the others on the other.

    Each side takes writes, also to the same sets. What was written on either is there in the end.
    """
    with Outside(whole, folder / "home", "address") as outside:
        pids = whole.pids()
        _may_hold(pids["n1"])
        here = [pids["n1"], pids["n2"], pids["c1"], outside.process.pid]
        there = [pids["n3"], pids["n4"], pids["n5"], pids["c2"], os.getpid()]
        drilled = keep(apart(whole, "split in two for 5 s", here, there, outside))
    assert drilled.puts_failed + drilled.puts_unknown <= drilled.puts // 100
    assert_sound(drilled)


@slow
def test_every_member_is_restarted_under_load(whole: Hurt, keep: Keep) -> None:
    def roll() -> None:
        for name in (*NODES, *COORDINATORS):
            whole.wait_until_back(whole.signal(KILL, name))
            wait(whole.is_whole, what=f"a whole cluster after {name}")
            time.sleep(FOUND_AGAIN_S)

    assert_nothing_failed(keep(drill(whole, "each member is killed, one by one", roll, lasts_s=0)))


@slow
def test_everything_is_killed_at_once(whole: Hurt, keep: Keep) -> None:
    """What was acknowledged is there again; meanwhile requests fail, and are told so."""
    drilled = keep(killed(whole, "all members are killed at once", *NODES, *COORDINATORS))
    assert_sound(drilled)


def cut_off(cluster: Hurt, fault: str, name: str) -> Drilled:
    pids = cluster.pids()
    _may_hold(pids[name])
    rest = [pid for other, pid in pids.items() if other != name]
    return apart(cluster, fault, [pids[name]], [*rest, os.getpid()], victims=[name])


def apart(
    cluster: Hurt,
    fault: str,
    here: list[int],
    there: list[int],
    outside: Outside | None = None,
    **options: Any,
) -> Drilled:
    """Nothing passes between the processes of two sides for 5 s."""
    ports, cutting = cluster.ports(), ExitStack()
    begin = lambda: cutting.enter_context(cut(here, there, ports))  # noqa: E731
    return drill(cluster, fault, begin, cutting.close, 5.0, outside=outside, **options)


def _may_hold(pid: int) -> None:
    if why := hindrance(pid):
        pytest.skip(why)
