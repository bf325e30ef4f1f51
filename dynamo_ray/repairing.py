"""Letting the owners of a cluster compare their copies at once, and waiting until they did.

Every node is told to compare what it leads (core/rounds.py) and asked how far it has come until
nothing of that is left. A node that goes away meanwhile is not waited for; what it did not come to
is said, and is compared when it is back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from dynamo_ray.asking import Nodes
from dynamo_ray.core.kinds import REPAIR, REPAIRED, STATUS, STATUSED
from dynamo_ray.session import Session
from dynamo_ray.wire.keys import Credentials

POLL_S = 0.2
COUNTS = ("comparisons", "keys_received", "keys_sent", "bytes", "failed")

Moved = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class NodeRepair:
    """What one node did: comparisons that it led, what came to it and went out by them.

    `left_out` names owners that it could not reach; `silent`: it did not answer to the end.
    """

    name: str
    comparisons: int = 0
    keys_received: int = 0
    keys_sent: int = 0
    bytes: int = 0
    failed: int = 0
    left_out: tuple[str, ...] = ()
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Repaired:
    """A repair that has ended."""

    nodes: list[NodeRepair]

    @property
    def is_whole(self) -> bool:
        """True if every two owners were compared."""
        return not any(node.silent or node.failed or node.left_out for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """The repair as plain values."""
        return {"whole": self.is_whole, **asdict(self)}


async def repair(
    session: Session,
    credentials: Credentials,
    partition: int | None = None,
    moved: Moved = lambda left, total, keys: None,
) -> Repaired:
    """Compare all copies now, or those of one partition.

    `moved` hears how many comparisons are left, of how many, and how many keys were exchanged.
    """
    names = {member.node: member.name for member in session.placement().ring.members}
    nodes = Nodes(session, credentials)
    try:
        await nodes.reach(list(names))
        asked = -1 if partition is None else partition
        told = await asyncio.gather(*(_told(nodes, node, asked) for node in names))
        before = {node: one for node, one in zip(names, told, strict=True) if one is not None}
        after = await _until_done(nodes, before, moved)
    finally:
        nodes.close()
    done = [
        _done(names[n], before.get(n), after.get(n))
        for n in sorted(names, key=lambda node: names[node])
    ]
    return Repaired(done)


async def _until_done(
    nodes: Nodes, before: dict[bytes, dict[str, Any]], moved: Moved
) -> dict[bytes, dict[str, Any]]:
    """How each node stands once it has done what it was told; without those that went silent."""
    after = dict(before)
    total = sum(one["demanded"] for one in before.values())
    while True:
        left = sum(one["demanded"] for one in after.values())
        keys = sum(_moved_keys(after[node]) - _moved_keys(before[node]) for node in after)
        moved(left, total, keys)
        if not left:
            return after
        await asyncio.sleep(POLL_S)
        told = await asyncio.gather(*(_status(nodes, node) for node in after))
        after = {
            node: one
            for node, one in zip(after, told, strict=True)
            if one is not None and one["comparisons"] >= before[node]["comparisons"]
        }


async def _told(nodes: Nodes, node: bytes, partition: int) -> dict[str, Any] | None:
    answer = await nodes.ask(node, REPAIR, (partition,))
    return json.loads(answer[1][0]) if answer is not None and answer[0] == REPAIRED else None


async def _status(nodes: Nodes, node: bytes) -> dict[str, Any] | None:
    answer = await nodes.ask(node, STATUS, ())
    is_one = answer is not None and answer[0] == STATUSED
    return json.loads(answer[1][0])["repair"] if answer is not None and is_one else None


def _moved_keys(status: dict[str, Any]) -> int:
    return int(status["keys_received"] + status["keys_sent"])


def _done(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> NodeRepair:
    if before is None or after is None:
        return NodeRepair(name, silent=True)
    counts = {count: after[count] - before[count] for count in COUNTS}
    return NodeRepair(name, **counts, left_out=tuple(before["left_out"]))
