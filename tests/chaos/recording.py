"""Clients that read and write until told to stop, and write down all that they were told.

What they write down is a `History` of the simulator (sim/history.py), so that the simulator's own
checkers can judge it; times are of this machine's monotonic clock, in microseconds, and so may be
compared between processes. Every value is unique. Every put has a context, because only then does
what a client was told say which versions its put replaced; where the get before it was not
answered, it is a put beside all others (CONCURRENT).

    own     one writer per key: put with the last context, then get
    strict  the same with strict reads and writes
    shared  several writers add elements to the same sets, and merge what siblings they find
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from dynamo_ray import CONCURRENT
from dynamo_ray.errors import ClosedError, DynamoError, OperationTimeoutError
from dynamo_ray.sim.checkers import elements
from dynamo_ray.sim.history import FAILED, OK, UNKNOWN, History, Read, Write

PAUSE_S = 0.004
WRITES_A_KEY = 40
R = W = 2


def now_us() -> int:
    """The machine's monotonic clock."""
    return time.monotonic_ns() // 1000


class Recorder:
    """What the clients of one process do and are told. Several share the sets of one `place`."""

    def __init__(self, name: str, first_number: int = 1, place: str = "") -> None:
        self.name = name
        self.place = place or name
        self.history = History()
        self.errors: list[tuple[int, str]] = []
        """When something was not answered well, who asked, and what it was told."""
        self.going = True
        self._numbers: Iterator[int] = count(first_number)

    async def run(
        self, client: Any, who: str, own: int = 2, strict: int = 1, shared: int = 1
    ) -> None:
        """So many workers of each kind on one client, until `going` is over."""
        kinds = [*["own"] * own, *["strict"] * strict, *["shared"] * shared]
        await asyncio.gather(
            *(self._work(client, f"{who}.{i}", kind) for i, kind in enumerate(kinds))
        )

    async def _work(self, client: Any, who: str, kind: str) -> None:
        contexts: dict[bytes, bytes] = {}
        for turn in count():
            if not self.going:
                return
            place = self.place if kind == "shared" else f"{self.name}:{who}"
            key = f"{place}:{kind}:{turn % 3}:{turn // (3 * WRITES_A_KEY)}".encode()
            if kind == "shared":
                await self._add(client, who, key)
            else:
                await self._replace(client, who, key, contexts, kind == "strict")
            await asyncio.sleep(PAUSE_S)

    async def _replace(
        self, client: Any, who: str, key: bytes, contexts: dict[bytes, bytes], strict: bool
    ) -> None:
        context = contexts.pop(key, None)
        if context is None:
            found = await self.get(client, who, key, strict)
            context = CONCURRENT if found is None else found.context
        number = next(self._numbers)
        token = await self.put(client, who, key, b"%d" % number, number, context, strict)
        if token is not None:
            contexts[key] = token
        found = await self.get(client, who, key, strict)
        if found is not None:
            contexts[key] = found.context

    async def _add(self, client: Any, who: str, key: bytes) -> None:
        found = await self.get(client, who, key, False)
        self.history.styles[key] = "set"
        number = next(self._numbers)
        mine = b"%d" % number
        held = {mine}.union(*map(elements, found.values if found else ()))
        value = b"%d|%s|+%s" % (number, b",".join(sorted(held)), mine)
        context = found.context if found else CONCURRENT
        await self.put(client, who, key, value, number, context, False)

    async def get(self, client: Any, who: str, key: bytes, strict: bool) -> Any:
        """What was found, or None if that was not told."""
        read = Read(who, key, R, strict, now_us())
        self.history.reads.append(read)
        try:
            found = await client.get(key, r=R, strict=strict)
        except DynamoError as error:
            read.ended, read.outcome = now_us(), _outcome(error)
            self._note("strict get" if strict else "get", who, read.invoked, error)
            return None
        read.ended, read.outcome = now_us(), OK
        read.state, read.token, read.degraded = found._state, found.context, found.degraded
        return found

    async def put(
        self,
        client: Any,
        who: str,
        key: bytes,
        value: bytes,
        number: int,
        context: bytes,
        strict: bool,
    ) -> bytes | None:
        """The context that was told, or None."""
        put_id = b"%d" % number  # the client draws one, and tells nobody
        write = Write(number, who, key, value, context, put_id, 0, W, strict, now_us())
        self.history.add_write(write)
        try:
            done = await client.put(key, value, context, w=W, strict=strict)
        except DynamoError as error:
            write.ended, write.outcome = now_us(), _outcome(error)
            self._note("strict put" if strict else "put", who, write.invoked, error)
            return None
        write.ended, write.outcome, write.token = now_us(), OK, done.context
        return done.context

    def _note(self, what: str, who: str, invoked: int, error: DynamoError) -> None:
        took_s = (now_us() - invoked) / 1_000_000
        self.errors.append((now_us(), f"{what} of {who} after {took_s:.2f} s: {error}"))


def _outcome(error: DynamoError) -> str:
    if isinstance(error, ClosedError):
        return UNKNOWN
    return UNKNOWN if isinstance(error, OperationTimeoutError) and error.maybe_applied else FAILED
