"""One asyncio loop (uvloop) in a thread of its own, with one server in it, for an actor's life.

The actor's own threads only wait: they pass bytes in (the Ray door) and ask for a description. A
failure to start is kept and told, never raised in the actor's constructor: Ray would give the actor
up for good (DESIGN §6).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import threading
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgpack
import uvloop

from dynamo_ray.core.messages import Code, Refused

DOOR_S = 60.0
AGAIN_S = 1.0


class Hosted:
    """A server in a thread: started by `opener`, stopped by its own `close`."""

    def __init__(self, opener: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.server: Any = None
        self.problem = ""
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._thread.start()
        self._tried: concurrent.futures.Future[None] = concurrent.futures.Future()
        asyncio.run_coroutine_threadsafe(self._start(opener), self._loop)

    async def _start(self, opener: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Open the server; again and again, because what is in the way may go (a full disk)."""
        while not await self._open(opener):
            await asyncio.sleep(AGAIN_S)

    async def _open(self, opener: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        try:
            self.server = await opener()
            self.problem = ""
            # What recovery made lives long: the collector need not look at it again and again.
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self.problem:
                self.problem = problem
                traceback.print_exc()
        if not self._tried.done():
            self._tried.set_result(None)
        return self.server is not None

    def describe(self, wait_s: float) -> dict[str, Any]:
        """What the server knows of itself; until it has started, how that goes."""
        concurrent.futures.wait([self._tried], timeout=wait_s)
        if self.problem:
            return {"state": "failed", "problem": self.problem, "pid": os.getpid()}
        if self.server is None:
            return {"state": "starting", "pid": os.getpid()}
        described: dict[str, Any] = self.run(_call(self.server.status))
        rows = self.run(_call(lambda: self.server.view.to_rows()))
        return {"state": "up", "pid": os.getpid(), "view": rows, **described}

    def run(self, work: Coroutine[Any, Any, Any], timeout_s: float = DOOR_S) -> Any:
        """Run a coroutine in the server's loop and wait for it, bounded. Raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def handle(self, request: bytes, role: str) -> bytes:
        """The Ray door: the payload of one frame in, the payload of its answer out."""
        call, kind, *fields = msgpack.unpackb(request, raw=False, use_list=True)
        ended: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        caller = _Caller(role, ended)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._hand_over, caller, call, kind, fields)
        else:
            caller.reply(call, Refused.KIND, (int(Code.NOT_READY), "the member has closed"))
        return ended.result(DOOR_S)

    def _hand_over(self, caller: _Caller, call: int, kind: int, fields: list[Any]) -> None:
        if self.server is None:
            caller.reply(call, Refused.KIND, (int(Code.NOT_READY), "the member is starting"))
            return
        try:
            self.server.handle(caller, call, kind, fields)
        except Exception as error:
            caller.fail(error)

    def close(self) -> None:
        """Close the server and end the thread, bounded in time; once is enough."""
        if not self._thread.is_alive():
            return
        if self.server is not None:
            self.run(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)


class _Caller:
    """Who asks by the Ray door; the reply ends its future."""

    def __init__(self, role: str, ended: concurrent.futures.Future[bytes]) -> None:
        self.role = role
        self._ended = ended

    def reply(self, call: int, kind: int, fields: Sequence[Any]) -> None:
        """Deliver the reply."""
        if not self._ended.done():
            self._ended.set_result(msgpack.packb((call, kind, *fields)))

    def fail(self, error: Exception) -> None:
        """The message could not be handled."""
        if not self._ended.done():
            self._ended.set_exception(error)


async def _call(function: Callable[[], Any]) -> Any:
    return function()
