"""The numbers of the wire, with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from dynamo_ray.wire.frames import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from dynamo_ray.wire.connections import Connection

# Called with the connection, the call (0: nobody waits for a reply), the kind and the fields.
Handler = Callable[["Connection", int, int, list[Any]], None]


def ignore(*_: object) -> None:
    """The hook of somebody who does not want to know."""


@dataclass(frozen=True)
class Options:
    """One set for all connections of a program; the defaults suit a cluster in one place."""

    max_frame_bytes: int = MAX_FRAME_BYTES  # the longest payload that this side reads
    max_in_flight: int = 1024  # calls without a reply, per connection
    max_out_bytes: int = 64 << 20  # that wait to be sent, per connection; one frame always may
    high_water_bytes: int = 1 << 20  # above this the transport asks for a pause
    stall_s: float = 30.0  # a connection that takes no byte for so long is given up
    connect_s: float = 2.0  # to reach an address and to be admitted there
    handshake_s: float = 5.0  # to become known, for whoever connects to us
    max_strangers: int = 256  # connections that have not become known yet
    max_connections: int = 4096
    interval_s: float = 1.0  # between two pings of a Peer
    missed_pings: int = 5  # so many without an answer, and a Peer tries a new connection
    backoff_first_s: float = 0.05
    backoff_most_s: float = 1.0
    ssl_accepting: SSLContext | None = None
    ssl_connecting: SSLContext | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not name.startswith("ssl") and not value > 0:
                raise ValueError(f"{name} must be more than 0, not {value!r}")


DEFAULTS = Options()
