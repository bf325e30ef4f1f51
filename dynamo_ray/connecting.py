"""connect and connect_async: from a name or an address to a client. Attaches, never creates.

By address and token no Ray is needed. By name the cluster is found through Ray where this process
is connected to one (or RAY_ADDRESS names one), else through the profile that `start` left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dynamo_ray.blocking import Client
from dynamo_ray.channels import Channel, Opens
from dynamo_ray.client import AsyncClient
from dynamo_ray.errors import AuthenticationError, BadRequestError, ClusterNotFoundError
from dynamo_ray.resolvers import Resolver
from dynamo_ray.rows import answers, seconds
from dynamo_ray.session import Session
from dynamo_ray.wire.errors import TokenError
from dynamo_ray.wire.keys import Credentials, client_credentials
from dynamo_ray.wire.options import Options

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Way:
    """All that a connection needs; plain values, so that a client can be pickled."""

    name: str | None = None
    address: str | None = None
    token: str | None = field(default=None, repr=False)
    resolver: Resolver | None = None
    coordination: str = "server"
    transport: str = "wire"
    defaults: tuple[tuple[str, Any], ...] = ()


def connect(
    name: str | None = None,
    *,
    address: str | Sequence[str] | None = None,
    token: str | None = None,
    resolver: Resolver | None = None,
    coordination: str = "server",
    transport: str = "wire",
    **defaults: Any,
) -> Client:
    """A Client of the cluster `name`, or of the one at `address` ("host:port", or several).

    `resolver` makes `Found.value` total; `coordination="client"` runs the coordinator's code in
    this process (paper §6.4; needs the cluster's secret, so only by name inside Ray);
    `transport="ray"` goes through Ray calls. `defaults` are those of `with_options`: r, w, strict,
    timeout_s.

    Raises ClusterNotFoundError, AuthenticationError, BadRequestError.
    """
    return client_of(way_to(name, address, token, resolver, coordination, transport, defaults))


async def connect_async(
    name: str | None = None,
    *,
    address: str | Sequence[str] | None = None,
    token: str | None = None,
    resolver: Resolver | None = None,
    coordination: str = "server",
    transport: str = "wire",
    **defaults: Any,
) -> AsyncClient:
    """An AsyncClient for the running loop; otherwise as `connect`."""
    return await open_async(
        way_to(name, address, token, resolver, coordination, transport, defaults)
    )


def client_of(way: Way, lazily: bool = False) -> Client:
    """The synchronous client for a way. A pickled one comes back `lazily`: it connects when used.

    Ray holds a lock while it unpickles, and a name is looked up by a Ray call that needs it.
    """
    return Client(lambda: open_async(way), restore=(client_of, (way, True)), lazily=lazily)


async def open_async(way: Way, members_only: bool = False) -> AsyncClient:
    """Open a session for the way, and a client on it; `members_only`: no coordinator is needed."""
    session = await _session(way, members_only)
    client = AsyncClient(session, way.resolver).with_options(timeout_s=session.timeout_s)
    return client.with_options(**dict(way.defaults)) if way.defaults else client


def credentials_of(token: str) -> Credentials:
    """The credentials in a token. Raises AuthenticationError if the text is none."""
    try:
        return client_credentials(token)
    except TokenError as error:
        raise AuthenticationError(f"{error}; give the cluster's token (Cluster.token)") from error


def parse_address(text: str) -> tuple[str, int]:
    """`host:port` as a pair. Raises BadRequestError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise BadRequestError(f"{text!r} is no address; write it as host:port")
    return host.strip("[]"), int(port)


def way_to(
    name: str | None,
    address: str | Sequence[str] | None,
    token: str | None,
    resolver: Resolver | None,
    coordination: str,
    transport: str,
    defaults: dict[str, Any],
) -> Way:
    """What `connect` was given, checked. Raises BadRequestError, AuthenticationError, TypeError."""
    if (name is None) == (address is None):
        raise BadRequestError("connect needs either a cluster's name or address=...")
    if address is not None and token is None:
        raise AuthenticationError(
            "connect(address=...) needs token=..., the cluster's (Cluster.token)"
        )
    if coordination not in ("server", "client") or transport not in ("wire", "ray"):
        raise BadRequestError("coordination is server or client, transport is wire or ray")
    if address is not None and (coordination, transport) != ("server", "wire"):
        raise BadRequestError("coordination='client' and transport='ray' need a name, inside Ray")
    unknown = defaults.keys() - {"r", "w", "strict", "timeout_s"}
    if unknown:
        raise TypeError(f"connect() got an unexpected keyword argument {min(unknown)!r}")
    for option, value in defaults.items():
        if value is not None and option in ("r", "w"):
            answers(option, value)
        elif value is not None and option == "timeout_s":
            seconds(value)
    joined = address if isinstance(address, str) or address is None else ",".join(address)
    settled = tuple(sorted(defaults.items()))
    return Way(name, joined, token, resolver, coordination, transport, settled)


async def _session(way: Way, members_only: bool) -> Session:
    if way.address is None:
        way = located(way)
    seeds = [parse_address(one) for one in (way.address or "").split(",") if one]
    if not seeds:
        raise ClusterNotFoundError(f"cluster {way.name!r} has no address; is it running?")
    channels, opens = await _channels(way)
    options = Options(interval_s=0.5, missed_pings=10)
    session = Session(seeds, credentials_of(way.token or ""), channels, options, opens)
    # Who asks for little time does not wait long for a cluster that is not there either.
    asked_s = dict(way.defaults).get("timeout_s")
    await session.open(min(CONNECT_S, asked_s or CONNECT_S), members_only)
    return session


def located(way: Way) -> Way:
    """Where the named cluster is: through Ray if there is one, else by its profile."""
    from dynamo_ray.config import load_profile

    name = way.name or ""
    if way.coordination == "server" and way.transport == "wire" and not ray_in_use():
        profile = load_profile(name)
        if profile is None:
            raise ClusterNotFoundError(
                f"no cluster {name!r} is known here; start it, or connect by address and token"
            )
        return replace(way, address=",".join(profile.addresses), token=profile.token)
    from dynamo_ray.actors.fleet import locate

    place = locate(name)
    return replace(way, address=",".join(place.addresses), token=place.token)


def ray_in_use() -> bool:
    """True if this process is connected to Ray, or the environment names a Ray cluster."""
    import os
    import sys

    ray = sys.modules.get("ray")
    return bool(ray is not None and ray.is_initialized()) or "RAY_ADDRESS" in os.environ


async def _channels(way: Way) -> tuple[dict[str, Channel] | None, Opens | None]:
    """The special ways to coordinators, and to those that come later; None for the wire's."""
    name = way.name or ""
    if way.transport == "ray":
        from dynamo_ray.actors.doors import ray_channel, ray_channels

        return ray_channels(name), partial(ray_channel, name)
    if way.coordination == "client":
        from dynamo_ray.actors.fleet import locate
        from dynamo_ray.server.embedded import embedded_channel

        place = locate(name)
        return {"here": await embedded_channel(place.charter, place.secrets, place.view)}, None
    return None, None
