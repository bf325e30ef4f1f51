"""Client-driven coordination: the coordinator's server in the client's own process (paper §6.4).

One hop less, and no coordinator to lose; the client must hold the cluster's secret.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.encoding import to_fields
from dynamo_ray.core.kinds import STATUS, VIEW, WHERE
from dynamo_ray.core.membership import View
from dynamo_ray.server.coordinator import CoordinatorServer
from dynamo_ray.server.member import monotonic_ms
from dynamo_ray.wire.errors import Failure

READY_S = 5.0


class EmbeddedChannel:
    """A Channel to the coordinator in this process."""

    def __init__(self, server: CoordinatorServer) -> None:
        self._server = server
        self._last = 0

    @property
    def connected(self) -> bool:
        """Always: it is here."""
        return True

    def call(
        self,
        kind: int,
        fields: Sequence[Any],
        on_reply: Callable[[int, list[Any]], None],
        on_failure: Callable[[Failure], None],
        timeout_s: float | None = None,
    ) -> int:
        """Hand the request over; the reply comes by `on_reply`."""
        self._last += 1
        if kind in (VIEW, STATUS, WHERE):
            self._server.handle(_Caller(on_reply), self._last, kind, list(fields))
        else:
            self._server.submit(
                kind, fields, lambda reply: on_reply(reply.KIND, list(to_fields(reply)))
            )
        return self._last

    def remote_expiry(self, timeout_ms: int) -> int:
        """The reading of the clock, which is our own, so long from now."""
        return monotonic_ms() + timeout_ms

    def listen(self) -> Callable[[], bool]:
        """It lives as long as this process."""
        return lambda: True

    def set_address(self, address: tuple[str, int]) -> None:
        """It is here, wherever others are."""

    def close(self) -> None:
        """Hang up on the storage nodes."""
        asyncio.get_running_loop().create_task(self._server.close())


class _Caller:
    """The asking side of a message that needs no connection."""

    role = "client"

    def __init__(self, on_reply: Callable[[int, list[Any]], None]) -> None:
        self._on_reply = on_reply

    def reply(self, call: int, kind: int, fields: Sequence[Any]) -> None:
        """Deliver the reply."""
        self._on_reply(kind, list(fields))


async def embedded_channel(charter: Charter, secrets: list[bytes], view: View) -> EmbeddedChannel:
    """Start a coordinator here and wait, bounded, until it has reached the storage nodes.

    A node that is not reached yet looks like one that is away, so all of them are waited for as
    long as it takes to suspect one, and N of them longer.
    """
    server = CoordinatorServer(charter, secrets, os.urandom(8), view)
    server.start_without_door()
    await server.reach_nodes(charter.settings.times.suspect_s)
    await server.reach_nodes(READY_S, at_least=charter.settings.n)
    return EmbeddedChannel(server)
