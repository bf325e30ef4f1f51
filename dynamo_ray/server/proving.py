"""The shell of a node's rebuilding (core/rebuild.py): pages over the wire, proofs to the disk.

To the node's machine it is one more asker: what a page brought is merged as if it had been sent
here, and the answer to that comes back when the log has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dynamo_ray.core.encoding import BadMessageError, from_fields, to_fields
from dynamo_ray.core.messages import Merged
from dynamo_ray.core.rebuild import Ask, Out, Prove, Rebuild, Take
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.upkeep import Copied
from dynamo_ray.wire.errors import Failure
from dynamo_ray.wire.keys import PEER

if TYPE_CHECKING:
    from dynamo_ray.server.node import NodeServer


class Proving:
    """Performs what one node's Rebuild asks for."""

    role = PEER

    def __init__(self, server: NodeServer) -> None:
        self._server = server
        self._machine = Rebuild(server.me, server.ring, server.settings.w)
        self._patience_s = server.settings.times.peer_s

    def on_tick(self, unreachable: frozenset[bytes], now: float) -> None:
        """What should be true now?"""
        node, replica = self._server.node, self._server.node.replica
        if replica.in_doubt:
            out = self._machine.on_tick(node.to_prove, replica.owned, unreachable, now)
            self._perform(out)

    def on_ring(self, ring: Ring) -> None:
        """Partitions have other owners."""
        self._machine.on_ring(ring)

    def reply(self, call: int, kind: int, fields: Sequence[Any]) -> None:
        """This node's own machine answers a merge; the call is its partition."""
        self._perform(self._machine.on_taken(call, kind == Merged.KIND))

    def _perform(self, out: list[Out]) -> None:
        for effect in out:
            if isinstance(effect, Ask):
                self._ask(effect)
            elif isinstance(effect, Take):
                self._server.take_in((self, effect.partition), effect.message)
            else:
                self._server.spawn(self._prove(effect))

    def _ask(self, effect: Ask) -> None:
        node, asked = effect.node, effect.message

        def on_reply(kind: int, fields: list[Any]) -> None:
            page = None
            with suppress(BadMessageError):
                page = from_fields(kind, fields)
            if isinstance(page, Copied):
                self._perform(self._machine.on_page(node, asked, page))
            else:
                self._perform(self._machine.on_failure(node, asked))

        def on_failure(failure: Failure | None) -> None:
            self._perform(self._machine.on_failure(node, asked))

        peer = self._server.peers.get(node)
        if peer is None or peer.connection is None:
            on_failure(None)
            return
        fields = (*to_fields(asked), effect.epoch)
        peer.connection.call(asked.KIND, fields, on_reply, on_failure, self._patience_s)

    async def _prove(self, effect: Prove) -> None:
        try:
            await self._server.prove(effect.partitions)
        finally:
            self._machine.on_proved()
