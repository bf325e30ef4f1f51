"""How a node that cannot prove its log complete becomes sure of its partitions again (rule 9).

After a power loss below `synced`, a failed fsync or a quarantine a node may have forgotten what it
acknowledged, so its copies do not count towards R. For each doubted partition it reads what the
other owners hold and merges it. A write that was acknowledged is held by W nodes, this one perhaps
among them, so N - W + 1 of the other owners cannot all have missed it; with that many compared the
partition is sure again. (Stand-ins bring what they keep by themselves.) Owners that do not answer
are asked again later: nothing here gives up, and nothing is proved by silence.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from dynamo_ray.core.kinds import COPIED, COPY
from dynamo_ray.core.messages import Code
from dynamo_ray.wire.errors import CallError

if TYPE_CHECKING:
    from dynamo_ray.server.node import NodeServer

PAGE_S = 5.0
PAUSE_S = 1.0
PAGE_WAIT_S = 0.01
PAGE_WAITS = 100
SAVE_EVERY = 32
_log = logging.getLogger("dynamo_ray.server")


async def prove(server: NodeServer) -> None:
    """Compare every doubted partition with enough other owners, and say which are sure again."""
    replica = server.node.replica
    sure = set(replica.doubted - replica.owned)
    try:
        for partition in sorted(replica.doubted & replica.owned):
            if await _is_compared(server, partition):
                sure.add(partition)
            if len(sure) >= SAVE_EVERY:
                await server.prove(frozenset(sure))
                sure.clear()
        if sure:
            await server.prove(frozenset(sure))
        if replica.doubted:
            await asyncio.sleep(PAUSE_S)
    finally:
        server.proving_ended()


async def _is_compared(server: NodeServer, partition: int) -> bool:
    """Merge what the other owners hold; True if enough of them gave all of it."""
    settings = server.settings
    others = [node for node in server.ring.owners(partition) if node != server.me]
    needed = min(settings.n - settings.w + 1, len(others))
    compared = 0
    for node in others:
        compared += await _is_copied(server, node, partition)
    return compared >= needed


async def _is_copied(server: NodeServer, node: bytes, partition: int) -> bool:
    """Merge all that one owner holds of a partition, page by page."""
    after, waits = b"", 0
    while True:
        peer = server.peers.get(node)
        if peer is None or peer.connection is None:
            return False
        try:
            kind, fields = await peer.connection.request(COPY, (partition, after), PAGE_S)
        except CallError:
            return False
        if kind != COPIED:
            # A key of the page is on its way to the log there. A busy one is so now and then, and
            # must not make the comparison start over.
            waits += 1
            if waits > PAGE_WAITS or fields[:1] != [Code.NOT_READY]:
                return False
            await asyncio.sleep(PAGE_WAIT_S)
            continue
        waits = 0
        keys, states, size, _ = fields
        if keys:
            server.take_in(keys, partition, states)
        if len(keys) < size:
            return True
        after = keys[-1]
