"""The wire: authenticated stream connections that carry framed messages between processes.

It knows how to say and hear a message [call, kind, *fields], who is at the other end and whether he
can be heard; it does not know what any message means. frames, keys, handshake and calls do no I/O;
connections, greeting, listener and peers are the asyncio shells around them.
"""

from dynamo_ray.wire.calls import OnFailure, OnReply
from dynamo_ray.wire.connections import PING, Connection
from dynamo_ray.wire.errors import (
    CallError,
    Failure,
    FrameError,
    FrameFault,
    PortInUseError,
    RefusalCode,
    RefusedError,
    TokenError,
    UnreachableError,
    WireError,
)
from dynamo_ray.wire.frames import MAX_FRAME_BYTES, FrameReader, pack
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.handshake import Identity, Welcome
from dynamo_ray.wire.keys import (
    CLIENT,
    PEER,
    Credentials,
    client_credentials,
    client_key,
    client_token,
    peer_credentials,
    peer_key,
)
from dynamo_ray.wire.listener import Door, Listener, serve
from dynamo_ray.wire.options import Handler, Options
from dynamo_ray.wire.peers import Backoff, Hooks, Peer

__all__ = [
    "CLIENT",
    "MAX_FRAME_BYTES",
    "PEER",
    "PING",
    "Backoff",
    "CallError",
    "Connection",
    "Credentials",
    "Door",
    "Failure",
    "FrameError",
    "FrameFault",
    "FrameReader",
    "Handler",
    "Hooks",
    "Identity",
    "Listener",
    "OnFailure",
    "OnReply",
    "Options",
    "Peer",
    "PortInUseError",
    "RefusalCode",
    "RefusedError",
    "TokenError",
    "UnreachableError",
    "Welcome",
    "WireError",
    "client_credentials",
    "client_key",
    "client_token",
    "connect",
    "pack",
    "peer_credentials",
    "peer_key",
    "serve",
]
