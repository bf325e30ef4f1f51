"""The shell of a node's rebuilding in the simulator: the twin of the one in the node server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_ray.core.messages import Merged
from dynamo_ray.core.rebuild import Ask, Out, Rebuild, Take
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.upkeep import Copied

if TYPE_CHECKING:
    from dynamo_ray.sim.nodes import StorageNode


class Rebuilding:
    """Performs what one run of a node's Rebuild asks for."""

    def __init__(self, node: StorageNode) -> None:
        self._node = node
        self._machine = Rebuild(node.id, node.placement.ring, node.settings.w)

    def on_ring(self, ring: Ring) -> None:
        """Partitions have other owners."""
        self._machine.on_ring(ring)

    def on_tick(self) -> None:
        """What should be true now?"""
        node, replica = self._node, self._node.replica
        if replica.in_doubt:
            suspected = node.detector.suspected
            out = self._machine.on_tick(node.node.to_prove, replica.owned, suspected, node.mono_s)
            self._perform(out)

    def on_taken(self, partition: int, answer: Any) -> None:
        """The node's own machine answered a merge."""
        self._perform(self._machine.on_taken(partition, isinstance(answer, Merged)))

    def _perform(self, out: list[Out]) -> None:
        node = self._node
        for effect in out:
            if isinstance(effect, Ask):
                self._ask(effect)
            elif isinstance(effect, Take):
                node.take_in(effect.partition, effect.message)
            else:
                node.prove(effect.partitions)
                self._machine.on_proved()

    def _ask(self, effect: Ask) -> None:
        """Ask a peer; its end comes once: its answer, a failure, or the time limit."""
        node, asked = self._node, effect.message

        def end(reply: Any) -> None:
            if isinstance(reply, Copied):
                self._perform(self._machine.on_page(effect.node, asked, reply))
            else:
                self._perform(self._machine.on_failure(effect.node, asked))

        peer, time_limit_s = node.directory[effect.node], node.settings.times.peer_s
        node.ask(peer, asked, time_limit_s, end, effect.epoch)
