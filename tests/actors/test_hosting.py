"""A server in an actor's thread, tried without an actor: failures to start are told and retried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dynamo_ray.actors import hosting
from dynamo_ray.actors.hosting import Hosted
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.kinds import STATUS, STATUSED
from dynamo_ray.core.membership import View
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings
from dynamo_ray.server.node import open_node

REQUEST = msgpack.packb((1, STATUS))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hosted]]:
    monkeypatch.setattr(hosting, "AGAIN_S", 0.02)
    made: list[Hosted] = []

    def make(opener: Any) -> Hosted:
        made.append(Hosted(opener))
        return made[-1]

    yield make
    for one in made:
        one.close()


def opener_of(folder: Path, obstacles: list[Exception]) -> Any:
    """Opens a node, once it has met the obstacles."""
    member = Member(bytes(8), "n1", "")
    charter = Charter(bytes(16), "hosted", Settings(n=1, r=1, w=1), (member,))

    async def opener() -> Any:
        if obstacles:
            raise obstacles.pop()
        return await open_node(charter, [bytes(32)], member, str(folder), "127.0.0.1", View(), True)

    return opener


def wait_up(hosted: Hosted) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while (told := hosted.describe(0.1))["state"] != "up":
        assert time.monotonic() < deadline, told
        time.sleep(0.01)
    return told


def test_a_server_that_starts(host: Callable[..., Hosted], tmp_path: Path) -> None:
    hosted = host(opener_of(tmp_path, []))
    told = wait_up(hosted)
    assert told["name"] == "n1" and len(told["view"][0]) == 1
    call, kind, answer = msgpack.unpackb(hosted.handle(REQUEST, "client"))
    assert (call, kind) == (1, STATUSED) and '"n1"' in answer


def test_what_is_in_the_way_is_told_and_may_go(
    host: Callable[..., Hosted], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    full = [OSError("the disk takes no writes") for _ in range(20)]
    hosted = host(opener_of(tmp_path, full))
    told = hosted.describe(10)
    assert told["state"] == "failed" and "takes no writes" in told["problem"]
    call, kind, code, _ = msgpack.unpackb(hosted.handle(REQUEST, "client"))
    assert (call, kind, code) == (1, Refused.KIND, Code.NOT_READY)
    wait_up(hosted)
    assert capfd.readouterr().err.count("Traceback") == 1, "said once, not each time"


def test_one_that_never_starts_can_be_closed(host: Callable[..., Hosted], tmp_path: Path) -> None:
    hosted = host(opener_of(tmp_path, [OSError("no")] * 10_000))
    assert hosted.describe(10)["state"] == "failed"


def test_a_message_that_cannot_be_handled_is_an_error(
    host: Callable[..., Hosted], tmp_path: Path
) -> None:
    hosted = host(opener_of(tmp_path, []))
    wait_up(hosted)
    hosted.server.handle = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        hosted.handle(REQUEST, "client")


def test_once_closed_it_refuses_at_once_and_closes_no_second_time(
    host: Callable[..., Hosted], tmp_path: Path
) -> None:
    """A request once waited a minute for a loop that had ended, in one of the actor's threads."""
    hosted = host(opener_of(tmp_path, []))
    wait_up(hosted)
    hosted.close()
    begun = time.monotonic()
    hosted.close()
    call, kind, code, _ = msgpack.unpackb(hosted.handle(REQUEST, "client"))
    assert (call, kind, code) == (1, Refused.KIND, Code.NOT_READY)
    assert time.monotonic() - begun < 5
