"""Reading all copies of a cluster and telling where they differ, over the wire and without Ray.

    per partition: every owner's branches ─► the same? done ─► buckets that differ ─► their keys
                   ─► keys that differ ─► a moment later ─► those that differ still

It reads the owners' Merkle trees (core/merkle.py), and keys only where these differ. A write under
way differs for a moment, so what differs is looked at twice. Nothing is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dynamo_ray.asking import Nodes
from dynamo_ray.core.encoding import BadMessageError, from_fields, to_fields
from dynamo_ray.core.merkle import BUCKETS_A_BRANCH, WIDTH, bucket_of, differing
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.upkeep import (
    Compare,
    Compared,
    Descend,
    Descended,
    Enumerate,
    Enumerated,
)
from dynamo_ray.session import Session
from dynamo_ray.wire.keys import Credentials

AT_ONCE = 4
SETTLE_S = 1.0
POLL_S = 0.1
PATIENCE_S = 60.0
EXAMPLES = 20

Digests = dict[bytes, bytes]
Moved = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """A partition whose owners hold different copies: how many keys, and some of them.

    `lacking` says per owner how many of these keys it does not hold at all.
    """

    partition: int
    owners: list[str]
    keys: int
    lacking: dict[str, int]
    examples: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared and what differs. `unread`: partition -> owners that did not answer.

    `doubted`: partition -> owners that cannot prove that they hold all they acknowledged.
    """

    partitions: int
    differences: list[Difference]
    unread: dict[int, list[str]]
    doubted: dict[int, list[str]]

    @property
    def are_equal(self) -> bool:
        """True if every owner was read and no copies differ."""
        return not self.differences and not self.unread

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain values."""
        return {"equal": self.are_equal, **asdict(self)}


class _Verification:
    """One command's: asks the owners of one partition after the other, a few at a time."""

    def __init__(self, session: Session, credentials: Credentials) -> None:
        self.ring = session.placement().ring
        self.names = {member.node: member.name for member in self.ring.members}
        self.nodes = Nodes(session, credentials)
        self.differences: list[Difference] = []
        self.unread: dict[int, list[str]] = {}
        self.doubted: dict[int, list[str]] = {}

    async def look_at(self, partition: int) -> None:
        """Compare the owners' copies of a partition."""
        owners = self.ring.owners(partition)
        await self.nodes.reach(owners)
        answers = await asyncio.gather(*(self._branches(node, partition) for node in owners))
        told = {n: one for n, one in zip(owners, answers, strict=True) if one is not None}
        self._note(self.unread, partition, [n for n in owners if n not in told])
        self._note(self.doubted, partition, [n for n, one in told.items() if not one.complete])
        branches = _unlike([one.branches for one in told.values()])
        if not branches:
            return
        buckets = await self._buckets(partition, list(told), branches)
        first = await self._keys_that_differ(partition, list(told), buckets)
        if not first:
            return
        await asyncio.sleep(SETTLE_S)
        again = await self._keys_that_differ(partition, list(told), set(map(bucket_of, first)))
        still = {key: held for key, held in again.items() if key in first}
        if still:
            lacking = {
                self.names[node]: sum(node not in held for held in still.values()) for node in told
            }
            examples = sorted(still)[:EXAMPLES]
            names = [self.names[node] for node in told]
            self.differences.append(Difference(partition, names, len(still), lacking, examples))

    def _note(self, where: dict[int, list[str]], partition: int, nodes: Sequence[bytes]) -> None:
        if nodes:
            where.setdefault(partition, [])
            known = where[partition]
            known += [self.names[node] for node in nodes if self.names[node] not in known]

    async def _ask(self, node: bytes, message: Compare | Descend | Enumerate) -> Any:
        """The answer as a message; None for none, or for one that cannot be read."""
        fields = (0, self.ring.epoch_of(message.partition), *to_fields(message))
        answer = await self.nodes.ask(node, message.KIND, fields)
        try:
            return None if answer is None else from_fields(*answer)
        except BadMessageError:
            return None

    async def _branches(self, node: bytes, partition: int) -> Compared | None:
        """A node's branches; it may have to hash its tree first."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while True:
            reply = await self._ask(node, Compare(partition, b""))
            if isinstance(reply, Refused) and reply.code == Code.NOT_READY:
                if loop.time() < until:
                    await asyncio.sleep(POLL_S)
                    continue
            is_it = isinstance(reply, Compared) and len(reply.branches) == WIDTH
            return reply if is_it else None

    async def _buckets(
        self, partition: int, nodes: Sequence[bytes], branches: Sequence[int]
    ) -> set[int]:
        """The buckets under these branches that differ."""
        message = Descend(partition, branches)
        replies = await asyncio.gather(*(self._ask(node, message) for node in nodes))
        size = len(branches) * WIDTH
        told = [one for one in replies if isinstance(one, Descended) and len(one.buckets) == size]
        rows = _unlike([one.buckets for one in told])
        step = BUCKETS_A_BRANCH
        return {branches[row // step] * step + row % step for row in rows}

    async def _keys_that_differ(
        self, partition: int, nodes: Sequence[bytes], buckets: Iterable[int]
    ) -> dict[bytes, dict[bytes, bytes]]:
        """Of the keys in these buckets those that differ: who holds it, with which digest."""
        wanted = sorted(buckets)
        listed = await asyncio.gather(*(self._keys(node, partition, wanted) for node in nodes))
        told = {node: of for node, of in zip(nodes, listed, strict=True) if of is not None}
        self._note(self.unread, partition, [node for node in nodes if node not in told])
        found: dict[bytes, dict[bytes, bytes]] = {}
        for node, of in told.items():
            for key, known in of.items():
                found.setdefault(key, {})[node] = known
        return {
            key: held
            for key, held in found.items()
            if len(held) < len(told) or len(set(held.values())) > 1
        }

    async def _keys(self, node: bytes, partition: int, buckets: Sequence[int]) -> Digests | None:
        """All keys that a node has in these buckets, with their digests, page by page."""
        held: Digests = {}
        after = b""
        while True:
            page = await self._ask(node, Enumerate(partition, buckets, after))
            if not isinstance(page, Enumerated) or (not page.last and not page.keys):
                return None
            if page.keys and page.keys[0] <= after:
                return None
            held.update(zip(page.keys, page.digests, strict=False))
            if page.last:
                return held
            after = page.keys[-1]


async def verify(
    session: Session,
    credentials: Credentials,
    partitions: Sequence[int] | None = None,
    moved: Moved = lambda done, of: None,
) -> Verified:
    """Compare the copies of these partitions, or of all; `moved` hears how far it has come."""
    at = _Verification(session, credentials)
    wanted = range(at.ring.partitions) if partitions is None else partitions
    turns = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(partition: int) -> None:
        nonlocal done
        async with turns:
            await at.look_at(partition)
        done += 1
        moved(done, len(wanted))

    try:
        await asyncio.gather(*(one(partition) for partition in wanted))
    finally:
        at.nodes.close()
    differences = sorted(at.differences, key=lambda one: one.partition)
    return Verified(len(wanted), differences, at.unread, at.doubted)


def _unlike(rows: Sequence[bytes]) -> list[int]:
    """Where rows of digests are not all the same."""
    found = {at for row in rows[1:] for at in differing(rows[0], row)}
    return sorted(found)
