"""Letting the owners of a cluster compare their copies at once, and waiting until they did.

Every node is told to compare what it leads (core/rounds.py) and asked how far it has come until
nothing of that is left. A node that goes away meanwhile is not waited for; what it did not come to
is said, and is compared when it is back. Partitions that changed hands meanwhile have others to
compare them, who are told then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dynamo_ray.asking import Nodes
from dynamo_ray.core.kinds import REPAIR, REPAIRED, STATUS, STATUSED
from dynamo_ray.session import Session
from dynamo_ray.wire.keys import Credentials

POLL_S = 0.2
HEARD_S = 1.0  # by then every node has heard of what a node knows (core/gossip.py)
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
    nodes = Nodes(session, credentials)
    work = _Work(nodes, moved)
    try:
        await nodes.meet()
        wanted = [p for p in range(nodes.ring.partitions) if partition in (None, p)]
        told = [-1 if partition is None else partition]
        while told:
            ring = nodes.ring
            await work.do(told)
            await nodes.meet()
            told = [p for p in wanted if nodes.ring.owners(p) != ring.owners(p)]
            await asyncio.sleep(HEARD_S if told else 0)
    finally:
        nodes.close()
    return Repaired(work.done())


class _Work:
    """What all nodes have done so far, and where each began."""

    def __init__(self, nodes: Nodes, moved: Moved) -> None:
        self._nodes = nodes
        self._moved = moved
        self._names: dict[bytes, str] = {}
        self._before: dict[bytes, dict[str, Any]] = {}
        self._after: dict[bytes, dict[str, Any]] = {}
        self._left_out: dict[bytes, set[str]] = {}

    async def do(self, partitions: Sequence[int]) -> None:
        """Have all nodes compare what they lead of these, and wait until they did."""
        self._names = {member.node: member.name for member in self._nodes.ring.members}
        present = list(self._names)
        await self._nodes.reach(present)
        self._after = {}
        for partition in partitions:
            told = await asyncio.gather(*(_told(self._nodes, node, partition) for node in present))
            for node, one in zip(present, told, strict=True):
                if one is not None:
                    self._before.setdefault(node, one)
                    self._after[node] = one
                    self._left_out.setdefault(node, set()).update(one["left_out"])
                else:
                    self._after.pop(node, None)
        await self._until_done()

    def done(self) -> list[NodeRepair]:
        """What each node did, in the order of their names."""
        in_order = sorted(self._names, key=lambda node: self._names[node])
        return [self._done(node) for node in in_order]

    async def _until_done(self) -> None:
        """Until each has done what it was told; without those that went silent."""
        total = sum(one["demanded"] for one in self._after.values())
        while True:
            after, before = self._after, self._before
            left = sum(one["demanded"] for one in after.values())
            keys = sum(_moved_keys(after[node]) - _moved_keys(before[node]) for node in after)
            self._moved(left, total, keys)
            if not left:
                return
            await asyncio.sleep(POLL_S)
            told = await asyncio.gather(*(_status(self._nodes, node) for node in after))
            self._after = {
                node: one
                for node, one in zip(after, told, strict=True)
                if one is not None and one["comparisons"] >= before[node]["comparisons"]
            }

    def _done(self, node: bytes) -> NodeRepair:
        name, before, after = self._names[node], self._before.get(node), self._after.get(node)
        if before is None or after is None:
            return NodeRepair(name, silent=True)
        counts = {count: after[count] - before[count] for count in COUNTS}
        return NodeRepair(name, **counts, left_out=tuple(sorted(self._left_out[node])))


async def _told(nodes: Nodes, node: bytes, partition: int) -> dict[str, Any] | None:
    answer = await nodes.ask(node, REPAIR, (partition,))
    return json.loads(answer[1][0]) if answer is not None and answer[0] == REPAIRED else None


async def _status(nodes: Nodes, node: bytes) -> dict[str, Any] | None:
    answer = await nodes.ask(node, STATUS, ())
    is_one = answer is not None and answer[0] == STATUSED
    return json.loads(answer[1][0])["repair"] if answer is not None and is_one else None


def _moved_keys(status: dict[str, Any]) -> int:
    return int(status["keys_received"] + status["keys_sent"])
