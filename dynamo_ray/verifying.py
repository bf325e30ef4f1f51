"""Reading all copies of a cluster and telling where they differ, over the wire and without Ray.

    per partition: every owner's branches ─► the same? done ─► buckets that differ ─► their keys
                   ─► keys that differ ─► a moment later ─► those that differ still

It reads the owners' Merkle trees (core/merkle.py), and keys only where these differ. A write under
way differs for a moment, so what differs is looked at twice, and more often while the partition is
on its way to another node: that takes no writes for a moment, and gets them as hints. Owners are
asked under the epoch of the owners; a partition that changes hands meanwhile is begun again. What
is found is of one set of owners, and nothing is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dynamo_ray.asking import Nodes, is_other_ring
from dynamo_ray.core.encoding import BadMessageError, from_fields, to_fields
from dynamo_ray.core.following import Following
from dynamo_ray.core.handover import CLOSED_MS_MAX
from dynamo_ray.core.merkle import BUCKETS_A_BRANCH, WIDTH, bucket_of, differing
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.slots import Placement
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
LOOKS_ON_THE_WAY = 2 + CLOSED_MS_MAX // 1000
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


class _Look:
    """One look at a partition's owners, as far as they are its owners by this placement."""

    def __init__(self, nodes: Nodes, placement: Placement, partition: int) -> None:
        ring = placement.ring
        self.owners = ring.owners(partition)
        self.epoch = ring.epoch_of(partition)
        self.parted: set[bytes] = set()
        self.unread: list[str] = []
        self.doubted: list[str] = []
        self.difference: Difference | None = None
        self._names = {member.node: member.name for member in ring.members}
        self._nodes, self._partition = nodes, partition
        slots = range(partition * ring.copies, (partition + 1) * ring.copies)
        is_on_its_way = not placement.under_way.keys().isdisjoint(slots)
        self._looks = LOOKS_ON_THE_WAY if is_on_its_way else 1

    async def run(self) -> None:
        """Compare the owners' copies; if any has `parted` from the others nothing of it counts."""
        owners = self.owners
        await self._nodes.reach(owners)
        answers = await asyncio.gather(*(self._branches(node) for node in owners))
        told = {n: one for n, one in zip(owners, answers, strict=True) if one is not None}
        self._note(self.unread, [n for n in owners if n not in told])
        self._note(self.doubted, [n for n, one in told.items() if not one.complete])
        branches = _unlike([one.branches for one in told.values()])
        differing: dict[bytes, dict[bytes, bytes]] = {}
        if branches:
            buckets = await self._buckets(list(told), branches)
            differing = await self._keys_that_differ(list(told), buckets)
        for _ in range(self._looks):
            if differing and not self.parted:
                await asyncio.sleep(SETTLE_S)
                again = set(map(bucket_of, differing))
                found = await self._keys_that_differ(list(told), again)
                differing = {key: held for key, held in found.items() if key in differing}
        if differing:
            self.difference = self._told(list(told), differing)

    def _told(self, nodes: list[bytes], differing: dict[bytes, dict[bytes, bytes]]) -> Difference:
        lacking = {
            self._names[node]: sum(node not in held for held in differing.values())
            for node in nodes
        }
        names, examples = [self._names[node] for node in nodes], sorted(differing)[:EXAMPLES]
        return Difference(self._partition, names, len(differing), lacking, examples)

    def _note(self, where: list[str], nodes: Iterable[bytes]) -> None:
        where += [name for node in nodes if (name := self._names[node]) not in where]

    async def _ask(self, node: bytes, message: Compare | Descend | Enumerate) -> Any:
        """The answer as a message; None for none, or for one that cannot be read."""
        fields = (0, self.epoch, *to_fields(message))
        answer = await self._nodes.ask(node, message.KIND, fields)
        if answer is not None and is_other_ring(*answer):
            self.parted.add(node)
        try:
            return None if answer is None else from_fields(*answer)
        except BadMessageError:
            return None

    async def _branches(self, node: bytes) -> Compared | None:
        """A node's branches; it may have to hash its tree first."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while True:
            reply = await self._ask(node, Compare(self._partition, b""))
            if isinstance(reply, Refused) and reply.code == Code.NOT_READY:
                if loop.time() < until:
                    await asyncio.sleep(POLL_S)
                    continue
            is_it = isinstance(reply, Compared) and len(reply.branches) == WIDTH
            return reply if is_it else None

    async def _buckets(self, nodes: Sequence[bytes], branches: Sequence[int]) -> set[int]:
        """The buckets under these branches that differ."""
        message = Descend(self._partition, branches)
        replies = await asyncio.gather(*(self._ask(node, message) for node in nodes))
        size, told = len(branches) * WIDTH, []
        for node, reply in zip(nodes, replies, strict=True):
            if isinstance(reply, Descended) and len(reply.buckets) == size:
                told.append(reply.buckets)
            else:
                self._note(self.unread, [node])
        step = BUCKETS_A_BRANCH
        return {branches[row // step] * step + row % step for row in _unlike(told)}

    async def _keys_that_differ(
        self, nodes: Sequence[bytes], buckets: Iterable[int]
    ) -> dict[bytes, dict[bytes, bytes]]:
        """Of the keys in these buckets those that differ: who holds it, with which digest."""
        wanted = sorted(buckets)
        listed = await asyncio.gather(*(self._keys(node, wanted) for node in nodes))
        told = {node: of for node, of in zip(nodes, listed, strict=True) if of is not None}
        self._note(self.unread, [node for node in nodes if node not in told])
        found: dict[bytes, dict[bytes, bytes]] = {}
        for node, of in told.items():
            for key, known in of.items():
                found.setdefault(key, {})[node] = known
        return {
            key: held
            for key, held in found.items()
            if len(held) < len(told) or len(set(held.values())) > 1
        }

    async def _keys(self, node: bytes, buckets: Sequence[int]) -> Digests | None:
        """All keys that a node has in these buckets, with their digests, page by page."""
        held: Digests = {}
        after = b""
        while True:
            page = await self._ask(node, Enumerate(self._partition, buckets, after))
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
    nodes = Nodes(session, credentials)
    turns = asyncio.Semaphore(AT_ONCE)
    looks: dict[int, _Look] = {}

    async def one(partition: int) -> None:
        async with turns:
            looks[partition] = await _looked_at(nodes, partition)
        moved(len(looks), len(wanted))

    try:
        await nodes.meet()
        wanted = range(nodes.ring.partitions) if partitions is None else partitions
        await asyncio.gather(*(one(partition) for partition in wanted))
    finally:
        nodes.close()
    in_order = sorted(looks.items())
    return Verified(
        len(wanted),
        [look.difference for _, look in in_order if look.difference is not None],
        {partition: look.unread for partition, look in in_order if look.unread},
        {partition: look.doubted for partition, look in in_order if look.doubted},
    )


async def _looked_at(nodes: Nodes, partition: int) -> _Look:
    """A look at whoever owns the partition from its beginning to its end, if there is one."""
    following = Following()
    while True:
        look = _Look(nodes, nodes.placement, partition)
        await look.run()
        pause_s = following.pause_s(look.epoch) if look.parted else None
        if pause_s is None:
            return look
        await asyncio.sleep(pause_s)
        await nodes.learn(sorted(look.parted))


def _unlike(rows: Sequence[bytes]) -> list[int]:
    """Where rows of digests are not all the same."""
    found = {at for row in rows[1:] for at in differing(rows[0], row)}
    return sorted(found)
