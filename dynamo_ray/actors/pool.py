"""Coordinators come and go by Ray: a cluster's first ones, and those of a pool that is scaled.

    plan ─► end what a broken-off command left ─► start ─► everybody learns ─► end ─► last words

Who comes is known before anybody goes. Who goes says its own last word; of one that did not answer,
and was killed, the last word is said for it when Ray has no actor of that name any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import ray

from dynamo_ray.actors import fleet
from dynamo_ray.actors.fleet import COORDINATOR, NODE, Place
from dynamo_ray.actors.placement import machines, preferred
from dynamo_ray.core.membership import View, merge_views, view_from
from dynamo_ray.core.pool import Scaling, last_words, scaling
from dynamo_ray.errors import ClusterNotFoundError
from dynamo_ray.server.member import wall_ms

ANSWER_S = 3.0
LEAVE_S = 5.0
GONE_S = 10.0
GONE_POLL_S = 0.05
SILENT = "silent"

_log = logging.getLogger("dynamo_ray.pool")


def begin(place: Place, names: Sequence[str], host: str) -> tuple[list[Any], View]:
    """Start coordinators and wait until they are up: their actors, and what they all know.

    They listen at `host`; on several machines in turn, at the addresses of these.

    Raises ClusterExistsError or UnavailableError; none of them is left running then.
    """
    founding: dict[str, Any] = {
        "charter": place.charter.to_dict(),
        "secrets": place.secrets,
        "view": place.view.to_rows(),
    }
    handles: dict[str, Any] = {}
    try:
        there = machines()
        for name in names:
            where = preferred(int(name[1:]) - 1, there)
            given = where, founding, name, "" if there else host
            handles[name] = fleet.create(place.charter.name, COORDINATOR, name, *given)
        described = fleet.wait_until_up(handles)
    except BaseException:
        fleet.stop(list(handles.values()))
        raise
    for name in names:
        _log.info("%s is up at %s", name, described[name]["address"])
    return list(handles.values()), _merged(place.view, described.values())


def plan(cluster: str, count: int) -> Scaling:
    """What makes the pool as large as that; asks each who is there, for a moment."""
    names = fleet.member_names(cluster, COORDINATOR)
    described = _described(_found(cluster, COORDINATOR, names))
    states = {name: described.get(name, {}).get("state", SILENT) for name in names}
    return scaling(count, states)


def scale(place: Place, made: Scaling, host: str) -> Place:
    """Carry the plan out; where the cluster is now. Bounded in time. Raises as `begin`."""
    cluster, view = place.charter.name, place.view
    _end(cluster, [name for name in made.ends if name in made.starts])
    if made.starts:
        _, view = begin(place, made.starts, host)
        fleet.teach(list(_everybody(cluster).values()), view.to_rows())
    spoken_ms = wall_ms()  # by a run that begins after this, a last word is contradicted
    _end(cluster, [name for name in made.ends if name not in made.starts])
    everybody = _everybody(cluster)
    view = last_words(_merged(view, _described(everybody).values()), made.wanted, spoken_ms)
    fleet.teach(list(everybody.values()), view.to_rows())
    return replace(place, view=view)


def _end(cluster: str, names: Collection[str]) -> None:
    """Let coordinators leave, end their actors for good, and wait until Ray has none of them."""
    handles = _found(cluster, COORDINATOR, names)
    leaving = {handle.leave.remote(LEAVE_S): name for name, handle in handles.items()}
    if leaving:
        ray.wait(list(leaving), num_returns=len(leaving), timeout=LEAVE_S + ANSWER_S)
    for answer, name in leaving.items():
        try:
            ray.get(answer, timeout=0)
            _log.info("%s has left", name)
        except (ray.exceptions.RayError, TimeoutError):
            _log.info("%s does not answer; it is ended as it is", name)
        ray.kill(handles[name], no_restart=True)
    deadline = time.monotonic() + GONE_S
    while {*names} & {*fleet.member_names(cluster, COORDINATOR)} and time.monotonic() < deadline:
        time.sleep(GONE_POLL_S)


def _everybody(cluster: str) -> dict[str, Any]:
    """The actors of all members by name."""
    found: dict[str, Any] = {}
    for role in (COORDINATOR, NODE):
        found |= _found(cluster, role, fleet.member_names(cluster, role))
    return found


def _found(cluster: str, role: str, names: Collection[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        try:
            found[name] = fleet.find(cluster, role, name)
        except ClusterNotFoundError:  # it ended just now
            continue
    return found


def _described(handles: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What those say of themselves who answer; bounded in time."""
    asked = {name: handle.describe.remote() for name, handle in handles.items()}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    described = {}
    for name, answer in asked.items():
        try:
            described[name] = dict(ray.get(answer, timeout=0))
        except (ray.exceptions.RayError, TimeoutError):
            continue
    return described


def _merged(view: View, described: Collection[dict[str, Any]]) -> View:
    for one in described:
        if "view" in one:
            view = merge_views(view, view_from(one["view"]))
    return view
