"""The Ray door from the client's side: the same messages as over the wire, by actor calls."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgpack
import ray

from dynamo_ray.actors.fleet import COORDINATOR, find, member_names
from dynamo_ray.core.membership import Fact
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.errors import ClusterNotFoundError
from dynamo_ray.wire.errors import Failure

CALL_S = 10.0
READ_S = 2.0


class RayChannel:
    """A Channel to a coordinator by Ray calls; a lost actor may have applied the request."""

    def __init__(self, handle: Any, find: Callable[[], Any]) -> None:
        self._handle = handle
        self._find = find
        self._last = 0
        self._reading_ms, self._heard_at = 0, 0.0
        self._waiting: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Once it is found. Ray does not tell in time whether an actor lives; ask and see."""
        return self._handle is not None

    def call(
        self,
        kind: int,
        fields: Sequence[Any],
        on_reply: Callable[[int, list[Any]], None],
        on_failure: Callable[[Failure], None],
        timeout_s: float | None = None,
    ) -> int:
        """One actor call; its end comes by exactly one of the two."""
        if self._handle is None:
            on_failure(Failure.UNSENT)
            return 0
        self._last += 1
        request = msgpack.packb((self._last, kind, *fields))
        self._spawn(self._call(request, on_reply, on_failure, timeout_s or CALL_S))
        return self._last

    def start(self) -> None:
        """Look for the actor, unless that is under way; in a thread, as Ray's GCS may be away."""
        if self._handle is None and not self._waiting:
            self._spawn(self._look_for_it())

    async def _look_for_it(self) -> None:
        with contextlib.suppress(ClusterNotFoundError, ray.exceptions.RayError, TimeoutError):
            handle = await asyncio.to_thread(self._find)
            await self._read_clock(handle)
            self._handle = handle

    async def _read_clock(self, handle: Any) -> None:
        reading = handle.reading.remote().future()
        self.take_reading(await asyncio.wait_for(asyncio.wrap_future(reading), READ_S))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def remote_expiry(self, timeout_ms: int) -> int:
        """The reading of the coordinator's clock so long from now; 0 until it was read."""
        if not self._reading_ms:
            return 0
        return self._reading_ms + int((time.monotonic() - self._heard_at) * 1000) + timeout_ms

    def take_reading(self, reading_ms: int) -> None:
        """What the coordinator's monotonic clock shows, read just now."""
        self._reading_ms, self._heard_at = reading_ms, time.monotonic()

    async def _call(
        self,
        request: bytes,
        on_reply: Callable[[int, list[Any]], None],
        on_failure: Callable[[Failure], None],
        timeout_s: float,
    ) -> None:
        try:
            answer = await asyncio.wait_for(
                asyncio.wrap_future(self._handle.handle.remote(request).future()), timeout_s
            )
        except TimeoutError:
            on_failure(Failure.TIMED_OUT)
        except ray.exceptions.RayError:
            on_failure(Failure.LOST)
        else:
            _, kind, *fields = msgpack.unpackb(answer, raw=False)
            if kind == Refused.KIND and fields[:1] == [Code.EXPIRED]:
                # It may have been started again on a machine with another clock.
                with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                    await self._read_clock(self._handle)
            on_reply(kind, fields)

    def listen(self) -> Callable[[], bool]:
        """Ray does not tell; the call's own end is waited for."""
        return lambda: True

    def set_address(self, address: tuple[str, int]) -> None:
        """Ray knows where it is, once it has been found."""
        self.start()

    def close(self) -> None:
        """Wait for nothing more."""
        for task in tuple(self._waiting):
            task.cancel()


def ray_channels(name: str) -> dict[str, Any]:
    """A channel to each coordinator of the cluster. Raises ClusterNotFoundError."""
    names = member_names(name, COORDINATOR)
    if not names:
        raise ClusterNotFoundError(f"no cluster {name!r} in this Ray cluster; start it first")
    finds = {one: partial(find, name, COORDINATOR, one) for one in names}
    handles = [look() for look in finds.values()]
    channels = {
        one: RayChannel(handle, look)
        for (one, look), handle in zip(finds.items(), handles, strict=True)
    }
    readings = [handle.reading.remote() for handle in handles]
    ray.wait(readings, num_returns=len(readings), timeout=READ_S)
    for channel, reading in zip(channels.values(), readings, strict=True):
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            channel.take_reading(ray.get(reading, timeout=0.1))
    return channels


def ray_channel(name: str, fact: Fact) -> RayChannel:
    """A channel to a coordinator that has come later; inside a loop."""
    channel = RayChannel(None, partial(find, name, COORDINATOR, fact.name))
    channel.start()
    return channel
