"""From the options `--cluster`, `--address` and `--token` to a client. Needs no Ray where a profile
or an address says where the cluster is; only a name without a profile is looked up in Ray.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .exits import CommandError, Exit
from .options import Target

if TYPE_CHECKING:
    from dynamo_ray.client import AsyncClient
    from dynamo_ray.config import Profile
    from dynamo_ray.core.charter import Charter

CLUSTER_VARIABLE, TOKEN_VARIABLE = "DYNAMO_RAY_CLUSTER", "DYNAMO_RAY_TOKEN"


class Way(NamedTuple):
    """Where to connect. A token is only ever handed to the cluster; nothing here prints it."""

    name: str | None
    addresses: list[str]
    token: str

    def __repr__(self) -> str:
        return f"Way({self.name!r}, {self.addresses!r})"


class Connection(NamedTuple):
    """A client, and the credentials to ask members one by one."""

    client: AsyncClient
    credentials: Any


def charter_of(connection: Connection) -> Charter:
    """What the cluster that was connected to is founded on."""
    from dynamo_ray.core.charter import charter_from

    return charter_from(connection.client.session.charter)


def way_to(target: Target) -> Way:
    """Where the cluster that the options mean is. Raises CommandError."""
    token = target.token or os.environ.get(TOKEN_VARIABLE)
    if target.address:
        return Way(target.cluster, target.address.split(","), token or _token_for(target))
    name = name_of(target)
    profile = _profile(name)
    if profile is None:
        return _through_ray(name)
    return Way(name, list(profile.addresses), token or profile.token)


def name_of(target: Target) -> str:
    """The cluster's name: as given, from the environment, or the only one known here."""
    from dynamo_ray.config import list_profiles

    given = target.cluster or os.environ.get(CLUSTER_VARIABLE)
    if given:
        return given
    known = list_profiles()
    if not known:
        raise CommandError(
            Exit.CANNOT_CONNECT,
            "no cluster is known here; `dynamo-ray start` begins one, "
            "--address and --token reach one elsewhere",
        )
    if len(known) > 1:
        raise CommandError(Exit.USAGE, f"which cluster? --cluster is one of {', '.join(known)}")
    return known[0]


@asynccontextmanager
async def connected(target: Target, members_only: bool = False) -> AsyncIterator[Connection]:
    """A client for the length of a command. Raises CommandError or a DynamoError.

    `members_only`: the members are asked one by one, and no coordinator is needed.
    """
    from dynamo_ray.connecting import Way as Whole
    from dynamo_ray.connecting import credentials_of, open_async

    way = way_to(target)
    credentials = credentials_of(way.token)
    whole = Whole(address=",".join(way.addresses), token=way.token)
    client = await open_async(whole, members_only)
    try:
        yield Connection(client, credentials)
    finally:
        await client.close(0.2)


def _profile(name: str) -> Profile | None:
    from dynamo_ray.config import load_profile

    return load_profile(name)


def _token_for(target: Target) -> str:
    """The token for an address: that of the named cluster, or of the one that has this address."""
    from dynamo_ray.config import list_profiles

    for name in [target.cluster] if target.cluster else list_profiles():
        profile = _profile(name)
        if profile and (target.cluster or target.address in profile.addresses):
            return profile.token
    raise CommandError(
        Exit.CANNOT_CONNECT,
        f"connecting to {target.address} needs the cluster's token: set {TOKEN_VARIABLE}",
    )


def _through_ray(name: str) -> Way:
    if "RAY_ADDRESS" not in os.environ:
        raise CommandError(
            Exit.CANNOT_CONNECT,
            f"no cluster {name!r} is known here; `dynamo-ray start {name}` begins it, --address "
            "and --token reach one elsewhere, RAY_ADDRESS names the Ray cluster that it runs in",
        )
    from dynamo_ray.cluster import attach

    cluster = attach(name)
    return Way(name, list(cluster.addresses), cluster.token)
