"""Connections of one command to the storage nodes of a cluster, and single questions over them.

Who cannot be reached is left alone for a while and then tried again, so that a node that is away
for a moment is missing for that moment only.

A command that asks all nodes begins by meeting them: each is asked whom it knows, so that one that
joined a moment ago is asked as well. Later it learns from whoever refuses a question because the
ring has changed (core/following.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dynamo_ray.core.kinds import VIEW, VIEWED
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.slots import Placement
from dynamo_ray.session import Session
from dynamo_ray.wire.connections import Connection
from dynamo_ray.wire.errors import CallError, WireError
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import Credentials

ANSWER_S = 5.0
AGAIN_S = 5.0


class Nodes:
    """The storage nodes that can be reached, by their ids."""

    def __init__(self, session: Session, credentials: Credentials) -> None:
        self._session = session
        self._credentials = credentials
        self._connections: dict[bytes, Connection] = {}
        self._reaching = asyncio.Lock()
        self._not_before: dict[bytes, float] = {}
        self._placement = session.placement()

    @property
    def placement(self) -> Placement:
        """Who owns what, as far as anybody has told so far."""
        self._placement = self._placement.learn(self._session.view)
        return self._placement

    @property
    def ring(self) -> Ring:
        """The ring of that."""
        return self.placement.ring

    async def meet(self) -> None:
        """Reach every member that a member knows, and learn what each of them knows."""
        met: set[bytes] = set()
        while new := [one.node for one in self.ring.members if one.node not in met]:
            met.update(new)
            await self.reach(new)
            await self.learn(new)

    async def learn(self, nodes: Sequence[bytes]) -> None:
        """Know what these nodes know of members and ring; of who does not answer, nothing."""
        answers = await asyncio.gather(*(self.ask(node, VIEW, ()) for node in nodes))
        for answer in answers:
            if answer is not None and answer[0] == VIEWED:
                self._session.learn(answer[1])

    async def reach(self, nodes: Sequence[bytes]) -> None:
        """Connect to those that are not connected, unless that was tried a moment ago."""
        async with self._reaching:  # whoever asks for something else meanwhile waits for it, too
            now = asyncio.get_running_loop().time()
            away = [node for node in nodes if node not in self._connections]
            due = [node for node in away if self._not_before.get(node, now) <= now]
            self._not_before |= dict.fromkeys(due, now + AGAIN_S)
            await asyncio.gather(*(self._connect(node) for node in due))

    async def ask(
        self, node: bytes, kind: int, fields: Sequence[Any]
    ) -> tuple[int, list[Any]] | None:
        """A node's answer: kind and fields. None if it gives none, and then it must be reached."""
        connection = self._connections.get(node)
        if connection is None:
            return None
        try:
            return await connection.request(kind, tuple(fields), ANSWER_S)
        except CallError:
            self._hang_up(node)
            return None

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections.values():
            connection.close()

    async def _connect(self, node: bytes) -> None:
        fact = self._session.view.nodes().get(node)
        if fact is None:
            return
        try:
            connection = await connect(fact.host, fact.port, self._credentials)
        except WireError:
            return  # it is missing then, and whoever asks says so
        self._connections[node] = connection

    def _hang_up(self, node: bytes) -> None:
        connection = self._connections.pop(node, None)
        if connection is not None:
            connection.close()


def is_other_ring(kind: int, fields: Sequence[Any]) -> bool:
    """True if an answer says that the question was asked under another ring than the node knows."""
    return kind == Refused.KIND and bool(fields) and fields[0] == Code.OTHER_EPOCH
