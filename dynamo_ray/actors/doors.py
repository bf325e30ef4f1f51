"""The Ray door from the client's side: the same messages as over the wire, by actor calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import ray

from dynamo_ray.actors.fleet import COORDINATOR, find, member_names
from dynamo_ray.errors import ClusterNotFoundError
from dynamo_ray.wire.errors import Failure

CALL_S = 10.0


class RayChannel:
    """A Channel to a coordinator by Ray calls; a lost actor may have applied the request."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._last = 0
        self._waiting: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Ray does not tell in time whether an actor lives; ask and see."""
        return True

    def call(
        self,
        kind: int,
        fields: Sequence[Any],
        on_reply: Callable[[int, list[Any]], None],
        on_failure: Callable[[Failure], None],
        timeout_s: float | None = None,
    ) -> int:
        """One actor call; its end comes by exactly one of the two."""
        self._last += 1
        request = msgpack.packb((self._last, kind, *fields))
        task = asyncio.get_running_loop().create_task(
            self._call(request, on_reply, on_failure, timeout_s or CALL_S)
        )
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return self._last

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
            on_reply(kind, fields)

    def listen(self) -> Callable[[], bool]:
        """Ray does not tell; the call's own end is waited for."""
        return lambda: True

    def close(self) -> None:
        """Wait for nothing more."""
        for task in tuple(self._waiting):
            task.cancel()


def ray_channels(name: str) -> dict[str, Any]:
    """A channel to each coordinator of the cluster. Raises ClusterNotFoundError."""
    names = member_names(name, COORDINATOR)
    if not names:
        raise ClusterNotFoundError(f"no cluster {name!r} in this Ray cluster; start it first")
    return {one: RayChannel(find(name, COORDINATOR, one)) for one in names}
