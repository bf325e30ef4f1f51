"""Start, attach to, look at and stop a cluster (DESIGN §8). The composition root of the package.

`start` founds a cluster, or starts an existing one again from its data directory: the directory of
a cluster holds its charter and secret, and one directory per storage node. Nothing central keeps a
cluster going afterwards; a Cluster object may be thrown away and attached again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from dynamo_ray.blocking import Client
from dynamo_ray.changing import Changing
from dynamo_ray.client import AsyncClient
from dynamo_ray.config import (
    Profile,
    check_name,
    home,
    load_profile,
    remove_profile,
    save_profile,
)
from dynamo_ray.connecting import Way, client_of, credentials_of, open_async
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.machines import Machine
from dynamo_ray.core.membership import merge_views, view_from
from dynamo_ray.core.pool import PoolError, Scaling, last_words, pool_of
from dynamo_ray.errors import (
    BadRequestError,
    ClusterExistsError,
    ClusterNotFoundError,
    DynamoError,
)
from dynamo_ray.founding import Founded, Said, agreed, check_host, found, nodes_away, undo
from dynamo_ray.survey import Status
from dynamo_ray.survey import status as survey_status
from dynamo_ray.sweep import scan as scan_keys

CHARTER_FILE = "CLUSTER.json"
_log = logging.getLogger("dynamo_ray.start")


class Cluster(Changing):
    """A running cluster, seen from inside its Ray cluster."""

    def __init__(
        self, charter: Charter, addresses: Sequence[str], token: str, data_dir: str = ""
    ) -> None:
        self.charter = charter
        self.name = charter.name
        self.addresses = list(addresses)
        self.token = token
        self.data_dir = data_dir
        self._owns_ray = False

    def connect(self, **options: Any) -> Client:
        """A client of this cluster; options as for `dynamo_ray.connect`."""
        from dynamo_ray.connecting import connect

        if options.keys() & {"coordination", "transport"}:
            return connect(self.name, **options)
        return connect(address=self.addresses, token=self.token, **options)

    def status(self) -> Status:
        """How every member says it is; bounded by about two seconds."""
        return status(self.addresses, self.token)

    def scan(self) -> Iterator[list[bytes]]:
        """Pages of all keys, deleted ones too, each key once. Raises UnavailableError."""
        return scan(self.addresses, self.token)

    def snapshot(
        self, timeout_s: float = 600.0, *, nodes: Sequence[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Let each storage node, or those named, take a snapshot now; by name what it wrote.

        `records`, `bytes`, `files`, `seconds` and more, or else the `problem`, in a sentence. One
        that is being taken already is waited for instead. After `timeout_s` the nodes go on, and
        nobody waits. Raises BadRequestError for a name that no node has.
        """
        from dynamo_ray.actors import fleet

        known = fleet.member_names(self.name, fleet.NODE)
        for name in nodes or ():
            if name not in known:
                raise BadRequestError(
                    f"cluster {self.name!r} has no node {name!r}; it has {', '.join(known)}"
                )
        if not 0 < timeout_s <= 86_400:
            raise BadRequestError(f"timeout_s is {timeout_s:g}; give 0 to 86400 seconds")
        return fleet.snapshot(self.name, known if nodes is None else nodes, timeout_s)

    def scale_coordinators(
        self, count: int, *, host: str | None = None, dry_run: bool = False
    ) -> Scaling:
        """Make the pool of coordinators as large as `count`, 1 to 64; what is started and ended.

        It is c1 to cN then: one of these that is gone for good is started, too. Who ends finishes
        what it has begun, for at most five seconds; clients go to the others, with the same put
        ids. New ones listen at `host`, by default where the others do; clients see a change within
        about five seconds. `dry_run` only plans.

        Raises BadRequestError for a count that cannot be, UnavailableError if one does not start.
        """
        from dynamo_ray.actors import fleet, pool

        with _said_in_words():
            pool_of(count)
        made = pool.plan(self.name, count)
        if dry_run:
            return made
        place = fleet.locate(self.name)
        if host is not None:
            _machines(host)  # refuses it where each machine has its own
        place = pool.scale(place, made, host or place.host)
        self.addresses = place.addresses
        profile = load_profile(self.name)
        if profile is not None and profile.cluster_id == self.charter.cluster_id.hex():
            save_profile(replace(profile, addresses=self.addresses))
        return made

    def kill_node(self, name: str) -> int:
        """SIGKILL a storage node's process, for drills; its pid. Ray starts it again in place."""
        for node in self.status().nodes:
            if node.name == name and node.pid:
                os.kill(node.pid, signal.SIGKILL)
                return node.pid
        raise BadRequestError(f"cluster {self.name!r} has no running node {name!r}")

    def stop(self) -> None:
        """Close every member and end its actor; the data stays. Bounded in time."""
        from dynamo_ray.actors import fleet

        members = [
            (role, name)
            for role in (fleet.COORDINATOR, fleet.NODE)
            for name in fleet.member_names(self.name, role)
        ]
        fleet.stop([fleet.find(self.name, role, name) for role, name in members])
        remove_profile(self.name)
        if self._owns_ray:
            self._owns_ray = False
            fleet.detach_ray()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {len(self.charter.members)} nodes)"


def start(
    name: str,
    *,
    nodes: int | None = None,
    n: int | None = None,
    r: int | None = None,
    w: int | None = None,
    coordinators: int = 2,
    data_dir: str | os.PathLike[str] | None = None,
    durability: str | None = None,
    partitions: int | None = None,
    zones: Sequence[str] = (),
    weights: Sequence[float] = (),
    host: str | None = None,
    exist_ok: bool = False,
    ray_address: str | None = None,
    limits: dict[str, Any] | None = None,
    times: dict[str, Any] | None = None,
) -> Cluster:
    """Found the cluster `name` and start it, or start it again from its data directory.

    `nodes` storage nodes (5) keep `n` copies (3) of each key; reads take `r` answers (2) and writes
    `w` (2). The i-th node is in `zones[i % len(zones)]` with weight `weights[i]`. A cluster keeps
    for life what it was founded with: for one that exists, leave that out or say the same. Uses the
    Ray that this process is connected to, or the one at `ray_address` or RAY_ADDRESS, or starts a
    local one. Members listen at `host` (127.0.0.1).

    Where Ray nodes have labels that name their machines (docs/machines.md) there is one node on
    each by default; its zone, and where it listens, are the machine's.

    Raises SettingsError, BadRequestError, ClusterExistsError (unless `exist_ok`),
    DataDirectoryError.
    """
    from dynamo_ray.actors import fleet, placement

    check_name(name)
    with _said_in_words():
        pool = pool_of(coordinators)
    given = {"n": n, "r": r, "w": w, "partitions": partitions, "durability": durability}
    settings: dict[str, Any] = {what: one for what, one in given.items() if one is not None}
    settings |= {"limits": limits or {}, "times": times or {}}
    said = Said(settings, nodes, zones, weights)
    folder = Path(data_dir) if data_dir is not None else home() / "data" / name
    if not _ray_is_there(ray_address):  # nothing can be running: refuse before a Ray is started
        agreed(folder, name, said)
        check_host(host or placement.LOOPBACK)
    owns_ray = _ensure_ray(ray_address)
    if fleet.member_names(name, fleet.NODE):
        if not exist_ok:
            raise ClusterExistsError(f"cluster {name!r} is running already; attach to it")
        cluster = attach(name)
        said.check(cluster.charter)
        return cluster
    there = _machines(host)
    founded = found(folder, name, replace(said, machines=there))
    try:
        cluster = _launch(founded, host or "", pool, there)
    except ClusterExistsError:
        if not exist_ok:
            raise
        cluster = attach(name)  # somebody else was faster
        said.check(cluster.charter)
    except BaseException:
        with contextlib.suppress(DynamoError):  # a machine cannot be asked: what is there stays
            undo(founded, placement.do_on)
        raise
    cluster._owns_ray = owns_ray
    return cluster


def attach(name: str, *, ray_address: str | None = None) -> Cluster:
    """The running cluster `name`, found through Ray. Raises ClusterNotFoundError."""
    from dynamo_ray.actors import fleet

    fleet.attach_ray(ray_address)
    place = fleet.locate(name)
    return Cluster(place.charter, place.addresses, place.token)


async def _status(way: Way, token: str) -> Status:
    client = await open_async(way, members_only=True)
    try:
        return await survey_status(client.session, credentials_of(token))
    finally:
        await client.close(0)


def status(addresses: Sequence[str], token: str) -> Status:
    """The status of the cluster at these addresses; needs no Ray."""
    way = Way(address=",".join(addresses), token=token)
    with ThreadPoolExecutor(1) as beside:  # a thread of its own: the caller may run a loop
        return beside.submit(asyncio.run, _status(way, token)).result()


def scan(addresses: Sequence[str], token: str) -> Iterator[list[bytes]]:
    """Pages of all keys of the cluster at these addresses; needs no Ray.

    Every key that W nodes acknowledged before it began is there; raises UnavailableError where W or
    more of the nodes do not answer, as one may be missing then.
    """
    way = Way(address=",".join(addresses), token=token)
    # A thread of its own, as the caller may run a loop; the Runner ends what is left in it.
    with ThreadPoolExecutor(1) as beside:
        runner = beside.submit(asyncio.Runner).result()
        try:
            client = beside.submit(runner.run, open_async(way)).result()
            pages = scan_keys(client.session, credentials_of(token))
            try:
                while (page := beside.submit(runner.run, _next(pages)).result()) is not None:
                    yield page
            finally:
                beside.submit(runner.run, _end_scan(pages, client)).result()
        finally:
            beside.submit(runner.close).result()


async def _next(pages: AsyncIterator[list[bytes]]) -> list[bytes] | None:
    return await anext(pages, None)


async def _end_scan(pages: AsyncGenerator[list[bytes], None], client: AsyncClient) -> None:
    await pages.aclose()
    await client.close(0)


def client_at(addresses: Sequence[str], token: str, **defaults: Any) -> Client:
    """A client of the cluster at these addresses; needs no Ray."""
    settled = tuple(sorted(defaults.items()))
    return client_of(Way(address=",".join(addresses), token=token, defaults=settled))


@contextmanager
def _said_in_words() -> Iterator[None]:
    """A pool that cannot be is a bad request."""
    try:
        yield
    except PoolError as error:
        raise BadRequestError(str(error)) from error


def _ray_is_there(ray_address: str | None) -> bool:
    """True if `start` will use a Ray that runs already."""
    from dynamo_ray.actors import fleet

    return fleet.is_attached() or bool(ray_address) or "RAY_ADDRESS" in os.environ


def _ensure_ray(ray_address: str | None) -> bool:
    """Connect to Ray, or start a local one for this process; True if that was started here."""
    from dynamo_ray.actors import fleet
    from dynamo_ray.actors.local_ray import start_here

    if not _ray_is_there(ray_address):
        start_here()
        return True
    if not fleet.is_attached():
        fleet.attach_ray(ray_address)
    return False


def machines(ray_address: str) -> list[Machine]:
    """The machines of a Ray cluster that may hold data, if it has labels that name them."""
    from dynamo_ray.actors import fleet, placement

    fleet.attach_ray(ray_address)
    return placement.machines()


def _machines(host: str | None) -> list[Machine]:
    from dynamo_ray.actors import placement

    there = placement.machines()
    if there and host is not None:
        raise BadRequestError(
            f"members listen at their machines' own addresses, not at {host}; leave host out"
        )
    return there


def _launch(founded: Founded, host: str, names: Sequence[str], there: Sequence[Machine]) -> Cluster:
    """Start the nodes, and then the coordinators of these names."""
    from dynamo_ray.actors import fleet, placement, pool

    charter, folder, name = founded.charter, founded.folder.absolute(), founded.charter.name
    homes = [machine.name for machine in there] or [""]
    known = founded.placement(homes, placement.do_on)
    away = nodes_away(known, there, fleet.ray_address())
    founding: dict[str, Any] = {
        "charter": charter.to_dict(),
        "secrets": founded.secrets,
        "view": known.view.to_rows(),
        "first_start": founded.is_new,
    }
    nodes: dict[str, Any] = {}
    coordinators: list[Any] = []
    try:
        for m in known.ring.members:
            where, row = placement.pinned(m.machine), fleet.row_of(m)
            given = where, founding, row, str(folder / m.name), host
            nodes[m.name] = fleet.create(name, fleet.NODE, m.name, *given)
            if m.name in away:
                _log.warning("%s starts when its machine %s is there", m.name, m.machine)
        present = {one: handle for one, handle in nodes.items() if one not in away}
        described = fleet.wait_until_up(present)
        views = [view_from(one["view"]) for one in described.values()]
        # The nodes may remember coordinators of an earlier start, and of a larger pool.
        view = last_words(reduce(merge_views, views), names, time.time_ns() // 1_000_000)
        fleet.teach(list(present.values()), view.to_rows())
        place = fleet.Place(charter, view, founded.secrets)
        coordinators, view = pool.begin(place, names, host)
        fleet.teach([*present.values(), *coordinators], view.to_rows())
    except BaseException:
        fleet.stop([*nodes.values(), *coordinators])
        raise
    place = fleet.Place(charter, view, founded.secrets)
    cluster = Cluster(charter, place.addresses, place.token, str(folder))
    _write_profile(cluster)
    return cluster


def _write_profile(cluster: Cluster) -> None:
    from dynamo_ray.actors import fleet

    save_profile(
        Profile(
            cluster.name,
            cluster.charter.cluster_id.hex(),
            cluster.addresses,
            cluster.token,
            cluster.data_dir,
            fleet.ray_address(),
        )
    )


__all__ = [
    "Cluster",
    "ClusterNotFoundError",
    "attach",
    "client_at",
    "scan",
    "start",
    "status",
]
