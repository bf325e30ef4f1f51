"""Turns: what gathers is done, then written, whatever one act does."""

from __future__ import annotations

import asyncio
from typing import Any

from dynamo_ray.wire.turns import turn_of

ECHO = 7


def test_an_act_is_done_before_what_it_says_is_written(on_one_loop: Any, new_pair: Any) -> None:
    """A node gathers the records of a chunk, appends them once, and the answers leave together."""

    @on_one_loop
    async def _(net: Any) -> None:
        loop = asyncio.get_running_loop()
        gathered: list[int] = []

        def append() -> None:
            for call in gathered:
                pair.far.reply(call, ECHO, [len(gathered)])

        def handler(connection: Any, call: int, kind: int, fields: list[Any]) -> None:
            if not gathered:
                turn_of(loop).before_flush(append, loop)
            gathered.append(call)

        pair = new_pair(handler)
        for _ in range(3):
            net.ends.call(pair.near, ECHO)
        pair.near.flush()
        pair.far.data_received(pair.near_wire.writes.pop())
        assert len(pair.far_wire.writes) == 1
        pair.near.data_received(pair.far_wire.writes.pop())
        assert net.ends.all() == [[3]] * 3


def test_outside_of_a_chunk_it_is_done_on_the_next_turn(on_one_loop: Any, new_pair: Any) -> None:
    @on_one_loop
    async def _(net: Any) -> None:
        loop = asyncio.get_running_loop()
        pair = new_pair()
        turn_of(loop).before_flush(lambda: net.ends.call(pair.near, ECHO), loop)
        assert net.ends.made == 0
        await asyncio.sleep(0)
        assert net.ends.made == 1 and len(pair.near_wire.writes) == 1
        pair.carry()


def test_an_act_that_raises_harms_nobody(on_one_loop: Any, new_pair: Any) -> None:
    """Neither the connection whose chunk it was, nor the other acts, nor what was said before."""

    @on_one_loop
    async def _(net: Any) -> None:
        loop = asyncio.get_running_loop()
        done: list[str] = []

        def broken() -> None:
            raise ValueError("a bug in an act")

        def handler(connection: Any, call: int, kind: int, fields: list[Any]) -> None:
            turn_of(loop).before_flush(broken, loop)
            turn_of(loop).before_flush(lambda: done.append("after"), loop)
            connection.reply(call, kind, fields)

        pair = new_pair(handler)
        for n in range(2):
            net.ends.call(pair.near, ECHO, n)
        pair.near.flush()
        pair.carry()
        assert net.ends.all() == [[0], [1]] and done == ["after", "after"]
        assert [type(fault["exception"]) for fault in net.faults] == [ValueError, ValueError]
        net.faults.clear()
        net.ends.call(pair.near, ECHO, 2)
        await asyncio.sleep(0)
        assert len(pair.near_wire.writes) == 1, "the next turn comes as ever"
        pair.carry()
        net.faults.clear()


def test_a_closed_loop_is_forgotten() -> None:
    import gc
    import weakref

    async def use() -> weakref.ref[Any]:
        turn_of(asyncio.get_running_loop())
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(use())
    gc.collect()
    assert loop() is None
