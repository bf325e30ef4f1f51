"""Asking every member of a cluster how it is, over the wire and without Ray.

A survey reads the view from any member and then asks each member itself, so that it shows what each
one believes; who does not answer is shown as down.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dynamo_ray.client import AsyncClient
from dynamo_ray.core.charter import Charter, charter_from
from dynamo_ray.core.kinds import SCAN, SCANNED, STATUS, STATUSED
from dynamo_ray.core.membership import Fact
from dynamo_ray.core.ring import Ring
from dynamo_ray.errors import UnavailableError
from dynamo_ray.session import Session
from dynamo_ray.wire.errors import CallError, WireError
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import Credentials
from dynamo_ray.wire.options import Options

PAGE_KEYS = 500
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
    facts = list(session.view.facts.values())
    answers = await asyncio.gather(*(_ask(fact, credentials) for fact in facts))
    known = {fact.name: answer for fact, answer in zip(facts, answers, strict=True)}
    watchers = [answer for answer in answers if answer]
    nodes = [
        _node_status(member.name, member.zone, known.get(member.name), watchers)
        for member in charter.members
    ]
    coordinators = [
        {"name": f.name, "address": f"{f.host}:{f.port}", **(known.get(f.name) or {})}
        for f in session.view.coordinators()
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


async def scan(client: AsyncClient, credentials: Credentials) -> AsyncGenerator[list[bytes], None]:
    """Pages of the cluster's keys, partition by partition, each key once.

    Every node is asked, so a key that only one owner knows, or a stand-in keeps, is found. Raises
    UnavailableError where too few owners of a partition answer to be sure of all its keys.
    """
    session = client.session
    charter = charter_from(session.charter)
    ring = charter.ring()
    connections = await _connect_all(session, credentials)
    try:
        for partition in range(ring.partitions):
            keys = await _keys_of(partition, charter, ring, connections)
            for at in range(0, len(keys), PAGE_KEYS):
                yield keys[at : at + PAGE_KEYS]
    finally:
        for connection in connections.values():
            connection.close()


async def _connect_all(session: Session, credentials: Credentials) -> dict[bytes, Any]:
    connections: dict[bytes, Any] = {}
    for node, fact in session.view.nodes().items():
        try:
            connections[node] = await connect(fact.host, fact.port, credentials)
        except WireError:
            continue
    return connections


async def _keys_of(
    partition: int, charter: Charter, ring: Ring, connections: dict[bytes, Any]
) -> list[bytes]:
    """All keys of a partition: what its owners hold, and what others keep for them.

    A write that was acknowledged by owners is at W of them, so N - W + 1 answers of owners cannot
    all have missed it; with fewer nothing is said rather than a part.
    """
    keys: set[bytes] = set()
    settings, answered = charter.settings, 0
    for place, node in enumerate(ring.preference(partition)):
        if await _has_told(connections.get(node), partition, keys):
            answered += place < settings.n
    needed = settings.n - settings.w + 1
    if answered < needed:
        text = f"{answered} owners of partition {partition} answer and {needed} are needed"
        raise UnavailableError(needed, answered, text)
    return sorted(keys)


async def _has_told(connection: Any, partition: int, keys: set[bytes]) -> bool:
    """Add a node's keys of a partition, page by page; True if it gave all of them."""
    after = b""
    while connection is not None:
        try:
            kind, fields = await connection.request(SCAN, (partition, after), 5.0)
        except CallError:
            return False
        if kind != SCANNED:
            return False
        page, size = fields
        keys.update(page)
        if len(page) < size:
            return True
        after = page[-1]
    return False
