"""Reading a whole cluster partition by partition, from all its nodes at once (core/sweep.py).

`Reader.states` gives keys with their whole states, `Reader.keys` the keys alone. Each partition is
read in pages over connections of their own, so memory is bounded by a page of each node. Nodes may
come and go meanwhile. What is promised is exact: see `Reader`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dynamo_ray.asking import Nodes, is_other_ring
from dynamo_ray.core.charter import charter_from
from dynamo_ray.core.kinds import COPIED, COPY, SCAN, SCANNED
from dynamo_ray.core.pages import leads_on
from dynamo_ray.core.ring import Member, by_name
from dynamo_ray.core.sweep import Ask, Learn, Page, Parted, Rows, Sweep, Swept
from dynamo_ray.errors import UnavailableError
from dynamo_ray.session import Session
from dynamo_ray.wire.keys import Credentials


class Reader:
    """Connections to all nodes of a cluster that can be reached.

    A partition that was read to its end held every write that was acknowledged before the reader
    was opened by more nodes than did not answer completely (a stand-in and the owner it stands in
    for count as one). A write is acknowledged at W nodes, so where W or more did not,
    UnavailableError is raised: something may be missing. Writes made meanwhile may or may not be
    there, and there is no snapshot across keys; but each state is a merge of what nodes held, never
    half of a write. All this holds while partitions change hands, too.
    """

    def __init__(self, session: Session, credentials: Credentials) -> None:
        self.charter = charter_from(session.charter)
        self.missing: set[bytes] = set()
        """The nodes that did not answer completely for every partition that was read."""
        self._nodes = Nodes(session, credentials)
        self._members: dict[bytes, Member] = {}

    @property
    def members(self) -> list[Member]:
        """The nodes that were read, or should have been, in the order of their names."""
        return sorted(self._members.values(), key=by_name)

    async def open(self) -> None:
        """Hear from every node whom it knows."""
        await self._nodes.meet()

    async def states(self, partition: int) -> AsyncGenerator[Rows, None]:
        """All keys of a partition with their states. Raises UnavailableError."""
        async for rows in self._read(COPY, partition):
            yield rows

    async def keys(self, partition: int) -> AsyncGenerator[Sequence[bytes], None]:
        """All keys of a partition, deleted ones too. Raises UnavailableError."""
        async for rows in self._read(SCAN, partition):
            yield rows.keys

    def close(self) -> None:
        """Hang up."""
        self._nodes.close()

    async def _read(self, kind: int, partition: int) -> AsyncGenerator[Rows, None]:
        machine = Sweep(*await self._placed(partition))
        effects = machine.start()
        while True:
            asks = []
            for effect in effects:
                if isinstance(effect, Ask):
                    asks.append(effect)
                elif isinstance(effect, Rows):
                    yield effect
                elif isinstance(effect, Swept):
                    self._judge(partition, effect)
                    return
                else:
                    await self._learn(effect)
                    effects = machine.on_ring(*await self._placed(partition))
                    break
            else:
                pages = await asyncio.gather(*(self._page(kind, partition, ask) for ask in asks))
                effects = machine.on_pages(
                    {ask.node: page for ask, page in zip(asks, pages, strict=True)}
                )

    async def _placed(self, partition: int) -> tuple[Sequence[bytes], Sequence[bytes], bytes]:
        """The stand-ins and owners of a partition as they are known now, and the owners' epoch."""
        ring = self._nodes.ring
        self._members |= {member.node: member for member in ring.members}
        nodes = ring.preference(partition)
        await self._nodes.reach(nodes)
        return nodes[ring.copies :], nodes[: ring.copies], ring.epoch_of(partition)

    async def _learn(self, effect: Learn) -> None:
        await asyncio.sleep(effect.after_s)
        await self._nodes.learn(effect.nodes)

    def _judge(self, partition: int, swept: Swept) -> None:
        self.missing |= swept.missing
        nodes, w = len(self._members), self.charter.settings.w
        if len(swept.missing) >= w:
            told, needed = nodes - len(swept.missing), nodes - w + 1
            text = (
                f"{told} of {nodes} nodes gave all they hold of partition {partition}, and with "
                f"fewer than {needed} a write that was acknowledged by {w} may be missing"
            )
            raise UnavailableError(needed, told, text)

    async def _page(self, kind: int, partition: int, ask: Ask) -> Page | Parted | None:
        """A node's next page; None if it gives none, and then it is not asked again."""
        epoch = () if ask.epoch is None else (ask.epoch,)
        answer = await self._nodes.ask(ask.node, kind, (partition, ask.after, *epoch))
        if answer is None:
            return None
        return Parted() if is_other_ring(*answer) else _page_of(*answer, ask.after)


@asynccontextmanager
async def reading(session: Session, credentials: Credentials) -> AsyncIterator[Reader]:
    """A Reader of the cluster that the session knows, for as long as it is needed."""
    reader = Reader(session, credentials)
    try:
        await reader.open()
        yield reader
    finally:
        reader.close()


async def scan(session: Session, credentials: Credentials) -> AsyncGenerator[list[bytes], None]:
    """Pages of the cluster's keys, partition by partition, each key once; raises as a Reader."""
    async with reading(session, credentials) as reader:
        for partition in range(reader.charter.settings.partitions):
            async for keys in reader.keys(partition):
                yield list(keys)


def _page_of(kind: int, fields: list[Any], after: bytes) -> Page | None:
    """The page in an answer; None if it is no page, or one that would not lead further."""
    try:
        if kind == COPIED:
            keys, states, size, complete = fields
        elif kind == SCANNED:
            keys, size, complete = fields
            states = [b""] * len(keys)
        else:
            return None
        last = len(keys) < size
        fits = len(states) == len(keys) and leads_on(after, keys) and (keys or last)
    except (TypeError, ValueError):
        return None
    return Page(keys, states, last, bool(complete)) if fits else None
