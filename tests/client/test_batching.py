"""Operations that come together leave together, and none of them waits for longer than its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dynamo_ray.batching import UNDER_WAY, Batch, Options
from dynamo_ray.core.messages import Code, Refused


class Line:
    """What was sent, and how to answer it."""

    def __init__(self, timeout_s: float = 5.0) -> None:
        self.sent: list[tuple[list[Any], Options, Callable[[Any], None]]] = []
        self.batch = Batch(self.send, self.settle, Options(2, False, timeout_s), len)

    def send(self, rows: list[Any], options: Options, answer: Callable[[Any], None]) -> None:
        self.sent.append((rows, options, answer))

    def settle(self, reply: Any, rows: list[Any], futures: list[asyncio.Future[Any]]) -> None:
        for future in futures:
            future.set_result(reply)

    async def fill(self) -> None:
        """As many requests under way as there may be, of one operation each."""
        for number in range(UNDER_WAY):
            self.batch.add((number,))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    @property
    def sizes(self) -> list[int]:
        return [len(rows) for rows, _, _ in self.sent]


def story(told: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(told(), 10))


def test_one_alone_leaves_at_once_and_those_beside_it_together() -> None:
    async def told() -> None:
        line = Line()
        line.batch.add((b"first",))
        assert line.sizes == [1], "before the turn of the loop has ended"
        for number in range(9):
            line.batch.add((number,))
        assert line.sizes == [1]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert line.sizes == [1, 9]

    story(told)


def test_what_comes_while_many_are_under_way_leaves_when_one_comes_back() -> None:
    async def told() -> None:
        line = Line()
        futures = []
        for number in range(20):
            futures.append(line.batch.add((number,)))
            await asyncio.sleep(0.001)
        assert line.sizes == [1] * UNDER_WAY
        line.sent[1][2]("answer")
        await asyncio.sleep(0.001)
        assert line.sizes == [1] * UNDER_WAY + [20 - UNDER_WAY]
        assert [future.done() for future in futures] == [False, True] + [False] * 18

    story(told)


def test_a_request_has_what_is_left_of_the_time_of_its_oldest() -> None:
    async def told() -> None:
        line = Line(timeout_s=1.0)
        await line.fill()
        assert all(options.timeout_s == 1.0 for _, options, _ in line.sent)
        line.batch.add(("waits",))
        await asyncio.sleep(0.1)
        line.batch.add(("waits less",))
        await asyncio.sleep(0.2)
        line.sent[0][2]("answer")
        await asyncio.sleep(0.01)
        rows, options, _ = line.sent[-1]
        assert rows == [("waits",), ("waits less",)]
        assert 0.3 < options.timeout_s < 0.71

    story(told)


def test_who_has_little_time_left_does_not_share_it() -> None:
    async def told() -> None:
        line = Line(timeout_s=1.0)
        await line.fill()
        line.batch.add(("old",))
        await asyncio.sleep(0.5)
        line.batch.add(("fresh",))
        for _, _, answer in line.sent[:2]:
            answer("answer")
        await asyncio.sleep(0.01)
        old, fresh = line.sent[-2:]
        assert (old[0], fresh[0]) == ([("old",)], [("fresh",)])
        assert old[1].timeout_s < 0.51 and fresh[1].timeout_s > 0.9

    story(told)


@pytest.mark.parametrize("later", [False, True])
def test_what_could_not_leave_in_time_is_refused(later: bool) -> None:
    """Behind requests that nobody answers it once waited for their time, and then for its own."""

    async def told() -> None:
        line = Line(timeout_s=0.1)
        await line.fill()
        waiting = line.batch.add(("waits",))
        if later:
            await asyncio.sleep(0.05)
            after = line.batch.add(("comes later",))
        begun = asyncio.get_running_loop().time()
        reply = await waiting
        assert isinstance(reply, Refused) and reply.code == Code.OVERLOADED
        assert asyncio.get_running_loop().time() - begun < 1.0
        assert len(line.sent) == UNDER_WAY
        if later:
            assert not after.done()
            line.sent[0][2]("answer")
            await asyncio.sleep(0.01)
            assert line.sent[-1][0] == [("comes later",)]

    story(told)
