"""Nodes that come and go on real actors, under load and under kills, judged by all checkers.

The operator's commands are given as an operator gives them: as `dynamo-ray` in a process of its
own. `make chaos` runs them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.clusters import Hurt, wait
from tests.chaos.drills import Drilled, drill
from tests.chaos.test_members import assert_nothing_failed, assert_sound

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

Keep = Callable[[Drilled], Drilled]


@pytest.fixture
def home(folder: Path) -> Path:
    return folder / "home"


@pytest.fixture
def whole(cluster: Hurt) -> Hurt:
    wait(cluster.is_whole, what="a whole cluster")
    return cluster


def changed(
    cluster: Hurt, home: Path, fault: str, *words: str, beside: Callable[[], None] | None = None
) -> Drilled:
    """A command, given under load; `beside` happens while it goes on."""

    def act() -> None:
        other = threading.Thread(target=beside) if beside else None
        if other is not None:
            other.start()
        cluster.command(home, *words)
        if other is not None:
            other.join()

    return drill(cluster, fault, act, lasts_s=0.0)


def names(cluster: Hurt) -> set[str]:
    return {node.name for node in cluster.status().nodes}


def killing(cluster: Hurt, name: str, after_s: float = 3.0) -> Callable[[], None]:
    """A node is killed a while after the command was given, and comes back in place."""

    def kill() -> None:
        time.sleep(after_s)
        pid = next(node.pid for node in cluster.status().nodes if node.name == name)
        os.kill(pid, signal.SIGKILL)
        cluster.wait_until_back({name: pid})

    return kill


def test_a_node_is_added(whole: Hurt, home: Path, keep: Keep) -> None:
    drilled = keep(changed(whole, home, "a node is added", "node", "add", "n6"))
    assert_nothing_failed(drilled)
    assert drilled.strict_failed == 0
    assert "n6" in names(whole)


def test_a_node_is_removed(whole: Hurt, home: Path, keep: Keep) -> None:
    drilled = keep(changed(whole, home, "a node is removed", "node", "remove", "n1"))
    assert_nothing_failed(drilled)
    assert drilled.strict_failed == 0
    assert "n1" not in names(whole)


def test_a_node_is_added_while_one_that_gives_is_killed(
    whole: Hurt, home: Path, keep: Keep
) -> None:
    fault = "a node is added while one that gives is killed"
    beside = killing(whole, "n2")
    assert_nothing_failed(keep(changed(whole, home, fault, "node", "add", "n7", beside=beside)))


def test_a_node_is_removed_while_one_that_receives_is_killed(
    whole: Hurt, home: Path, keep: Keep
) -> None:
    fault = "a node is removed while one that receives is killed"
    beside = killing(whole, "n3")
    assert_nothing_failed(keep(changed(whole, home, fault, "node", "remove", "n7", beside=beside)))


def test_a_node_is_replaced_that_is_gone_for_good(whole: Hurt, home: Path, keep: Keep) -> None:
    """Its process is killed and its actor ended: it does not come back."""
    fault = "a node is replaced"
    drilled = keep(changed(whole, home, fault, "node", "replace", "n4", "--by", "n8", "--force"))
    assert_sound(drilled)
    assert drilled.puts_failed == 0
    assert {"n8"} <= names(whole) and "n4" not in names(whole)
