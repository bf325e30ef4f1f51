"""Asking every member of a cluster how it is, over the wire and without Ray.

A survey reads the view from any member and then asks each member itself, so that it shows what each
one believes; who does not answer is shown as down.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dynamo_ray.core.charter import charter_from
from dynamo_ray.core.kinds import STATUS, STATUSED
from dynamo_ray.core.membership import Fact
from dynamo_ray.core.pool import serving
from dynamo_ray.session import Session
from dynamo_ray.wire.errors import CallError, WireError
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import Credentials
from dynamo_ray.wire.options import Options

ASK_S = 1.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One storage node as it describes itself; `state` as in docs/operating.md."""

    name: str
    state: str
    zone: str = ""
    address: str = ""
    pid: int = 0
    incarnation: str = ""
    keys: int = 0
    bytes: int = 0
    hints: dict[str, int] = field(default_factory=dict)
    log_bytes: int = 0
    weight: float = 1.0
    owned: int = 0
    doubted: int = 0
    handover: dict[str, Any] = field(default_factory=dict)
    repair: dict[str, Any] = field(default_factory=dict)
    longest_hold_ms: float = 0.0
    recovery: dict[str, Any] = field(default_factory=dict)
    snapshot: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """A cluster as its members describe it."""

    name: str
    cluster_id: str
    n: int
    r: int
    w: int
    partitions: int
    durability: str
    nodes: list[NodeStatus]
    coordinators: list[dict[str, Any]]

    @property
    def healthy(self) -> bool:
        """True if every node is up and no hint is waiting."""
        return all(node.state == "up" and not node.hints for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """The status as plain values, for JSON."""
        return {"schema": "dynamo_ray.status/1", "healthy": self.healthy, **asdict(self)}


async def status(session: Session, credentials: Credentials) -> Status:
    """Ask every member; bounded by about two seconds."""
    charter = charter_from(session.charter)
    pool = serving(session.view)
    facts = [*session.view.nodes().values(), *pool]
    answers = await asyncio.gather(*(_ask(fact, credentials) for fact in facts))
    known = {fact.name: answer for fact, answer in zip(facts, answers, strict=True)}
    ring = session.placement().ring
    watchers = [answer for answer in answers if answer]
    nodes = [
        _node_status(member.name, member.zone, known.get(member.name), watchers)
        for member in sorted(ring.members, key=lambda member: numbered(member.name))
    ]
    coordinators = [
        {"name": f.name, "address": f"{f.host}:{f.port}", **(known.get(f.name) or {})} for f in pool
    ]
    for one in coordinators:
        one["state"] = (known.get(one["name"]) or {"state": "down"}).get("state", "up")
    settings = charter.settings
    return Status(
        charter.name,
        charter.cluster_id.hex(),
        settings.n,
        settings.r,
        settings.w,
        settings.partitions,
        settings.durability,
        nodes,
        coordinators,
    )


def numbered(name: str) -> tuple[str, int, str]:
    """An order of names in which n10 comes after n9."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0), name


def _node_status(
    name: str, zone: str, own: dict[str, Any] | None, watchers: Sequence[dict[str, Any]]
) -> NodeStatus:
    suspecting = sum(name in one.get("suspected", {}) for one in watchers)
    if own is None:
        return NodeStatus(name, "down", zone)
    state = own.get("state", "up")
    if state == "up" and suspecting:
        state = f"suspected by {suspecting}"
    fields = NodeStatus.__dataclass_fields__.keys() - {"name", "state", "zone"}
    return NodeStatus(name, state, zone, **{k: own[k] for k in fields if k in own})


async def _ask(fact: Fact, credentials: Credentials) -> dict[str, Any] | None:
    try:
        connection = await connect(
            fact.host, fact.port, credentials, options=Options(connect_s=ASK_S)
        )
    except WireError:
        return None
    try:
        kind, fields = await connection.request(STATUS, (), ASK_S)
        return dict(json.loads(fields[0])) if kind == STATUSED else None
    except CallError:
        # It took the connection, so it is there: stopped, or very busy.
        return {"state": "silent", "address": f"{fact.host}:{fact.port}"}
    finally:
        connection.close()
