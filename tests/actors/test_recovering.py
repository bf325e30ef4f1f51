"""While nodes read their data back: what they say, and how long they are waited for. No Ray."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray import exceptions

from dynamo_ray.actors import fleet, members
from dynamo_ray.actors.members import NodeActor
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings
from dynamo_ray.errors import UnavailableError
from dynamo_ray.server import recovering
from dynamo_ray.server.recovering import Recovering, in_words

UP = {"state": "up"}


def reading(size: int) -> dict[str, Any]:
    """A node that has read so much."""
    told = {"bytes": size, "bytes_in_all": 9000, "records": size // 10, "records_per_s": 7}
    return {"state": "recovering", "recovery": told}


class PlayedRay:
    """Answers what the test says, one after another; its clock moves by a second per look."""

    exceptions = exceptions

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, asked: Sequence[Any], timeout: float) -> Any:
        self.now += 1.0
        return [asked[0]], asked[1:]

    def get(self, answer: Callable[[], Any]) -> Any:
        return answer()


class PlayedNode:
    """A handle to an actor that gives these descriptions, the last one again and again."""

    def __init__(self, *told: dict[str, Any]) -> None:
        self.told = list(told)
        self.describe = self

    def remote(self, wait_s: float) -> Callable[[], Any]:
        return lambda: self.told.pop(0) if len(self.told) > 1 else self.told[0]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    played = PlayedRay()
    monkeypatch.setattr(fleet, "ray", played)
    monkeypatch.setattr(fleet, "time", played)
    return played


def test_nodes_are_waited_for_as_long_as_they_get_on(
    ray: PlayedRay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dynamo_ray.start")
    steps = [reading(10 * i) for i in range(200)]
    described = fleet.wait_until_up({"n1": PlayedNode(*steps, UP), "n2": PlayedNode(UP)}, 5.0)
    assert described == {"n1": UP, "n2": UP} and ray.now > 200, "far beyond five seconds"
    assert caplog.messages[0].startswith("n1 reads its data back") and len(caplog.messages) == 199


def test_nodes_that_do_not_get_on_are_given_up(ray: PlayedRay) -> None:
    stuck, silent = PlayedNode(reading(10), reading(20)), PlayedNode({"state": "starting"})
    with pytest.raises(UnavailableError, match="n1: recovering; n2: starting") as raised:
        fleet.wait_until_up({"n1": stuck, "n2": silent, "n3": PlayedNode(UP)}, 5.0)
    assert (raised.value.required, raised.value.alive) == (3, 1) and ray.now < 30


def test_a_node_that_failed_is_not_waited_for(ray: PlayedRay) -> None:
    failed = PlayedNode({"state": "failed", "problem": "the disk is full"})
    with pytest.raises(UnavailableError, match="n1: the disk is full"):
        fleet.wait_until_up({"n1": failed}, 5.0)
    assert ray.now < 5


def test_an_actor_says_how_far_it_is_while_it_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, begun = threading.Event(), threading.Event()

    async def open_slowly(*given: Any) -> Any:
        progress: Recovering = given[-1]
        progress.begin()
        progress.on_progress(30, 1_000_000, 3_000_000)
        begun.set()
        go_on.wait(5)
        raise OSError("enough")

    monkeypatch.setattr(members, "open_node", open_slowly)
    monkeypatch.setattr(NodeActor, "_is_first_start", lambda self: True)
    charter = Charter(bytes(16), "c", Settings(n=1, r=1, w=1), (Member(bytes(8), "n1", ""),))
    founding = {"charter": charter.to_dict(), "secrets": [bytes(32)], "view": []}
    actor = NodeActor(founding, fleet.row_of(charter.members[0]), str(tmp_path), "127.0.0.1")
    assert begun.wait(5)
    told = actor.describe()
    assert told["state"] == "recovering" and told["recovery"]["records"] == 30
    assert in_words("n1", told["recovery"]).startswith("n1 reads its data back: 1 of 3 MB, 30 rec")
    assert actor.snapshot(0.1) == {"problem": "it has not started yet"}
    go_on.set()
    assert actor.describe(5)["problem"] == "OSError: enough"
    actor.hosted.close()


def test_progress_is_logged_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = PlayedRay()
    monkeypatch.setattr(recovering, "time", clock)
    progress = Recovering("n1")
    progress.begin()
    for step in range(1, 51):
        clock.now += 0.5
        progress.on_progress(100 * step, step, 50)
    assert len(caplog.messages) == 5 and "1,000 records, 200 a second" in caplog.messages[0]
    progress.end(5100, 51)
    clock.now += 100
    assert progress.to_dict() == {
        "records": 5100,
        "bytes": 51,
        "bytes_in_all": 51,
        "seconds": 25.0,
        "records_per_s": 204,
    }
