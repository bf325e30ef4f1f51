"""Single operations that come together leave together (natural batching, DESIGN §4).

An operation leaves at once when nothing is under way. Those that are submitted meanwhile in one
turn of the loop, with the same options, become one request of many keys; while `UNDER_WAY` such
requests are without an answer, further operations wait and leave together when one comes back. So
there is no timer, no delay when idle, and the batches grow with the load.

An operation's time begins when it is submitted: what is left of it when it leaves is its request's,
and one that could not leave in time is refused, so that nothing of it was applied.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.wire.turns import turn_of

UNDER_WAY = 4
TURN_S = 0.01  # below this a wait is a turn of the loop, and no wait
NOT_SENT = "earlier requests of this client are without an answer, and this one was not sent"


class Options(NamedTuple):
    """What operations must share to leave in one request: the quorum, its manner and its time."""

    quorum: int
    strict: bool
    timeout_s: float


class Batch:
    """Operations of one kind and one set of options on their way out: rows and their futures."""

    def __init__(
        self,
        send: Callable[[list[tuple[Any, ...]], Options, Callable[[Any], None]], None],
        settle: Callable[[Any, list[tuple[Any, ...]], list[asyncio.Future[Any]]], None],
        options: Options,
        fitting: Callable[[list[tuple[Any, ...]]], int],
    ) -> None:
        self._fitting = fitting
        self._send = send
        self._settle = settle
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)
        self._rows: list[tuple[Any, ...]] = []
        self._futures: list[asyncio.Future[Any]] = []
        self._since: list[float] = []
        self._under_way = 0
        self._scheduled = False
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, row: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Queue one operation; its future ends with its result or its error."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._rows.append(row)
        self._futures.append(future)
        self._since.append(self._loop.time())
        if not self._scheduled:
            if self._under_way or self._turn.receiving:
                self._scheduled = True
                self._turn.before_flush(self._leave, self._loop)
            else:
                # Nobody is under way to leave with, and a turn of the loop would only be waited.
                self._leave()
                self._turn.flush()
        return future

    def _leave(self) -> None:
        self._scheduled = False
        while self._rows and self._under_way < UNDER_WAY:
            # Who has waited long does not share its little time with those that just came.
            alike = bisect_right(self._since, self._since[0] + self._options.timeout_s / 4)
            count = min(alike, self._fitting(self._rows))
            rows, self._rows = self._rows[:count], self._rows[count:]
            futures, self._futures = self._futures[:count], self._futures[count:]
            since, self._since = self._since[0], self._since[count:]
            self._under_way += 1
            self._send(rows, self._left_of(since), self._arrival(rows, futures))
        if self._rows and self._alarm is None:
            self._set_alarm()

    def _left_of(self, since: float) -> Options:
        """The options with what is left of the time of the operation that waited longest."""
        waited_s = self._loop.time() - since
        if waited_s < TURN_S:
            return self._options
        return self._options._replace(timeout_s=max(TURN_S, self._options.timeout_s - waited_s))

    def _set_alarm(self) -> None:
        self._alarm = self._loop.call_at(self._since[0] + self._options.timeout_s, self._refuse)

    def _refuse(self) -> None:
        """Refuse what has waited for all of its time, and watch over what waits still."""
        self._alarm = None
        late = bisect_right(self._since, self._loop.time() - self._options.timeout_s)
        if late:
            rows, self._rows = self._rows[:late], self._rows[late:]
            futures, self._futures = self._futures[:late], self._futures[late:]
            self._since = self._since[late:]
            self._settle(Refused(Code.OVERLOADED, NOT_SENT), rows, futures)
        if self._since:
            self._set_alarm()

    def _arrival(
        self, rows: list[tuple[Any, ...]], futures: list[asyncio.Future[Any]]
    ) -> Callable[[Any], None]:
        def arrived(reply: Any) -> None:
            self._under_way -= 1
            self._settle(reply, rows, futures)
            if self._rows and not self._scheduled:
                self._scheduled = True
                self._turn.before_flush(self._leave, self._loop)

        return arrived
