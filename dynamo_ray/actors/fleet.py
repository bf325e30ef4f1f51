"""A cluster's actors in Ray: named, created, found, stopped.

All are detached, in one namespace, named `CLUSTER/ROLE/MEMBER`, restarted for ever where
`placement` says, and never retried by Ray (a Ray call that failed may still run later). They ask
for no CPU, so that a laptop runs a cluster. Every wait for Ray is bounded; what Ray says about
authentication is said in words.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import ray

from dynamo_ray.actors.local_ray import own_handlers
from dynamo_ray.actors.members import NAMESPACE, CoordinatorActor, NodeActor
from dynamo_ray.actors.placement import pinned
from dynamo_ray.core.charter import Charter, charter_from
from dynamo_ray.core.membership import View, merge_views, view_from
from dynamo_ray.core.pool import serving
from dynamo_ray.core.ring import Member
from dynamo_ray.errors import (
    AuthenticationError,
    ClusterExistsError,
    ClusterNotFoundError,
    UnavailableError,
)
from dynamo_ray.server.recovering import in_words
from dynamo_ray.wire.keys import client_token

NODE, COORDINATOR = "node", "coordinator"
UNDER_WAY = ("starting", "recovering")
ASK_S = 15.0
# Without any sign of progress; a node that reads its data back gives some.
START_S = 60.0
ASK_AGAIN_S = 2.0
PROBE_S = 5.0
_log = logging.getLogger("dynamo_ray.start")
_CLASSES = {NODE: NodeActor, COORDINATOR: CoordinatorActor}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cluster is, for somebody inside its Ray cluster."""

    charter: Charter
    view: View
    secrets: list[bytes] = field(repr=False)

    @property
    def token(self) -> str:
        """The client's token."""
        return client_token(self.secrets[0])

    @property
    def host(self) -> str:
        """Where its members listen: its first coordinator, or else its first node."""
        return [*serving(self.view), *self.view.nodes().values()][0].host

    @property
    def addresses(self) -> list[str]:
        """Where members listen, coordinators first."""
        facts = [*serving(self.view), *self.view.nodes().values()]
        return [f"{fact.host}:{fact.port}" for fact in facts]


def actor_name(cluster: str, role: str, name: str) -> str:
    """The name that Ray knows a member by."""
    return f"{cluster}/{role}/{name}"


def create(cluster: str, role: str, name: str, where: dict[str, Any], *args: Any) -> Any:
    """Create a member's actor; it starts by itself and tells how by `describe`.

    `where` are the options by which Ray places it.
    Raises ClusterExistsError if Ray has one of that name.
    """
    options = {
        "name": actor_name(cluster, role, name),
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": 64,
        "enable_task_events": False,
        **where,
    }
    try:
        return ray.remote(_CLASSES[role]).options(**options).remote(*args)
    except ValueError as error:
        if "already" not in str(error):
            raise
        raise ClusterExistsError(
            f"{role} {name!r} of cluster {cluster!r} is there already, or was just started by"
            " somebody else; attach to the cluster"
        ) from error


def find(cluster: str, role: str, name: str) -> Any:
    """The handle of a member's actor. Raises ClusterNotFoundError."""
    try:
        return ray.get_actor(actor_name(cluster, role, name), namespace=NAMESPACE)
    except ValueError as error:
        raise ClusterNotFoundError(f"cluster {cluster!r} has no {role} {name!r} in Ray") from error


def member_names(cluster: str, role: str) -> list[str]:
    """The names of a cluster's members of one role that Ray knows, sorted."""
    attach_ray()
    prefix = f"{cluster}/{role}/"
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        one["name"].removeprefix(prefix)
        for one in named
        if one["namespace"] == NAMESPACE and one["name"].startswith(prefix)
    )


def locate(cluster: str) -> Place:
    """Ask the cluster's actors, one after another, where it is. Raises ClusterNotFoundError."""
    for role in (COORDINATOR, NODE):
        for name in member_names(cluster, role):
            with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                handle = find(cluster, role, name)
                told = ray.get(handle.introduce.remote(), timeout=ASK_S)
                charter = charter_from(told["charter"])
                return Place(charter, view_from(told["view"]), told["secrets"])
    raise ClusterNotFoundError(
        f"no cluster {cluster!r} answers in the Ray cluster at "
        f"{ray_address()}; start it, or check RAY_ADDRESS"
    )


def survey(cluster: str) -> tuple[Place, dict[str, dict[str, Any]]]:
    """What all members that answer know together, and each node's description by its name."""
    place = locate(cluster)
    names = member_names(cluster, NODE)
    asked = {find(cluster, NODE, name).describe.remote(): name for name in names}
    described: dict[str, dict[str, Any]] = {name: {"state": "down"} for name in names}
    for answer in ray.wait(list(asked), num_returns=len(asked), timeout=ASK_AGAIN_S)[0]:
        with contextlib.suppress(ray.exceptions.RayError):
            described[asked[answer]] = ray.get(answer)
    view = view_from(together({"": {"view": place.view.to_rows()}, **described}))
    return replace(place, view=view), described


def together(described: dict[str, dict[str, Any]]) -> list[Any]:
    """What members that were described know together, as rows."""
    views = [view_from(one["view"]) for one in described.values() if "view" in one]
    return reduce(merge_views, views, View()).to_rows()


def handles(cluster: str) -> list[Any]:
    """The handles of all members."""
    return [
        find(cluster, role, name)
        for role in (NODE, COORDINATOR)
        for name in member_names(cluster, role)
    ]


def join(place: Place, member: Member, data_dir: str, rows: list[Any]) -> None:
    """Start a node that the charter does not know. Raises UnavailableError."""
    cluster = place.charter.name
    founding = {
        "charter": place.charter.to_dict(),
        "secrets": place.secrets,
        "view": rows,
        "first_start": False,  # it can prove nothing yet of what it will own
    }
    hosts = [fact.host for fact in place.view.nodes().values()]
    host = "" if member.machine else max(sorted(set(hosts)), key=hosts.count)
    given = pinned(member.machine), founding, row_of(member), data_dir, host
    handle = create(cluster, NODE, member.name, *given)
    try:
        wait_until_up({member.name: handle})
    except BaseException:
        stop([handle])
        raise


def weigh(cluster: str, node: str, weight: float) -> None:
    """Let a node say that it has another weight. Raises UnavailableError if it does not answer."""
    try:
        ray.get(find(cluster, NODE, node).weigh.remote(weight), timeout=ASK_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise UnavailableError(1, 0, f"node {node!r} does not answer") from error


def end(cluster: str, node: str) -> None:
    """End a node's process for good, if there is one."""
    with contextlib.suppress(ClusterNotFoundError):
        stop([find(cluster, NODE, node)])


def row_of(member: Member) -> list[Any]:
    return [member.node, member.name, member.zone, member.weight, member.machine]


def wait_until_up(handles: dict[str, Any], timeout_s: float = START_S) -> dict[str, dict[str, Any]]:
    """The members' descriptions once all have started. Raises UnavailableError with the reasons.

    Nodes that read their data back are waited for as long as they get on with it, and it is logged.
    """
    described: dict[str, dict[str, Any]] = {name: {"state": "no process yet"} for name in handles}
    asked = {handle.describe.remote(ASK_AGAIN_S): name for name, handle in handles.items()}
    deadline = time.monotonic() + timeout_s + ASK_S
    while asked and time.monotonic() < deadline:
        for answer in ray.wait(list(asked), timeout=ASK_AGAIN_S)[0]:
            name = asked.pop(answer)
            before, described[name] = described[name], _answer(answer, len(handles))
            if described[name]["state"] not in UNDER_WAY:
                continue
            asked[handles[name].describe.remote(ASK_AGAIN_S)] = name
            if has_got_on(before, described[name]):
                deadline = time.monotonic() + timeout_s
                _log.info("%s", in_words(name, described[name]["recovery"]))
    failed = {n: d.get("problem", d["state"]) for n, d in described.items() if d["state"] != "up"}
    if failed:
        reasons = "; ".join(f"{name}: {why}" for name, why in sorted(failed.items()))
        raise UnavailableError(len(handles), len(handles) - len(failed), reasons)
    return described


def has_got_on(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """True if a node has read more of its data back than it had."""
    read = "recovery" in after and after["recovery"]["bytes"]
    return bool(read) and read != before.get("recovery", {}).get("bytes")


def _answer(answer: Any, members: int) -> dict[str, Any]:
    try:
        return dict(ray.get(answer))
    except ray.exceptions.RayError as error:
        raise UnavailableError(members, 0, f"the actors did not start: {error}") from error


def snapshot(cluster: str, names: Sequence[str], timeout_s: float) -> dict[str, dict[str, Any]]:
    """Let nodes take a snapshot each; what each wrote, or its `problem`. Bounded in time."""
    there = set(member_names(cluster, NODE))
    taken = {n: {"problem": "it has no process"} for n in names if n not in there}
    asked = {n: find(cluster, NODE, n).snapshot.remote(timeout_s) for n in names if n in there}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s + ASK_AGAIN_S)
    for name, answer in asked.items():
        try:
            taken[name] = ray.get(answer, timeout=0)
        except TimeoutError:
            taken[name] = {"problem": f"it did not answer within {timeout_s:g} s"}
        except ray.exceptions.RayError as error:
            taken[name] = {"problem": f"it does not answer ({type(error).__name__})"}
    return taken


def teach(handles: list[Any], rows: list[Any]) -> None:
    """Give members the facts that others told; what they learn they tell the nodes."""
    told = [handle.learn.remote(rows) for handle in handles]
    ray.wait(told, num_returns=len(told), timeout=ASK_S)


def stop(handles: list[Any]) -> None:
    """Close the members in order, then end their actors for good; bounded in time."""
    closing = [handle.stop.remote() for handle in handles]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=ASK_S)
    for handle in handles:
        ray.kill(handle, no_restart=True)


def is_attached() -> bool:
    """True if this process is connected to a Ray cluster."""
    return bool(ray.is_initialized())


def ray_address() -> str:
    """The address of the Ray cluster that this process is connected to."""
    return str(ray.get_runtime_context().gcs_address)


def detach_ray() -> None:
    """Leave the Ray cluster; one that was started for this process ends."""
    ray.shutdown()


def attach_ray(address: str | None = None) -> bool:
    """Make sure that this process is connected to a Ray cluster; True if it was connected here.

    Never guesses a cluster: the address must be given or in RAY_ADDRESS. Raises AuthenticationError
    and ClusterNotFoundError with what to do.
    """
    if ray.is_initialized():
        return False
    wanted = address or os.environ.get("RAY_ADDRESS")
    if not wanted:
        raise ClusterNotFoundError(
            "this process is not connected to Ray; call ray.init, or set RAY_ADDRESS"
        )
    _probe(wanted)
    try:
        with own_handlers():
            ray.init(
                address=wanted,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        if "uthentication" in str(error) or "oken" in str(error):
            raise AuthenticationError(_AUTH.format(wanted)) from error
        raise ClusterNotFoundError(
            f"no Ray cluster answers at {wanted}; if it does run, it may ask for a token: "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        ) from error
    return True


def _probe(address: str) -> None:
    """Raise ClusterNotFoundError if nobody listens there: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return  # "auto" and the like
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterNotFoundError(
            f"no Ray cluster answers at {address} ({error}); check the address"
        ) from error


_AUTH = (
    "the Ray cluster at {} refused this process's token; set RAY_AUTH_MODE=token and "
    "RAY_AUTH_TOKEN_PATH to the cluster's token file"
)
