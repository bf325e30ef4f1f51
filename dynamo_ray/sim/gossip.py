"""Views that travel in the simulator: the twin of what server/member.py does with them.

A host that learns something shows it to everybody whom it can reach, and once in a while to one
drawn by chance, so that nothing hangs on one message (DESIGN rule 11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_ray.core.membership import View
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.values import value
from dynamo_ray.sim.network import Network, Peer
from dynamo_ray.sim.world import SECOND, World

if TYPE_CHECKING:
    from dynamo_ray.sim.nodes import StorageNode

GOSSIP_US = SECOND
TELL_S = 1.0


@value
class Tell:
    """What the sender knows; answered by Told."""

    view: View


@value
class Told:
    """What the one that was told knows, and by that learnt."""

    view: View


class Gossiper(Peer):
    """A host that has a placement and keeps it up to date; `gossips` False where nothing changes.

    `directory` is every node there is: an address that is known can be reached.
    """

    gossips = False
    placement: Placement

    def __init__(self, world: World, network: Network, name: str) -> None:
        super().__init__(world, network, name)
        self.directory: dict[bytes, StorageNode] = {}
        self._drawn = world.stream("gossip")

    def on_placement(self, is_other_ring: bool) -> None:
        """What is known has changed."""
        raise NotImplementedError

    def on_told(self, node: bytes, view: View) -> None:
        """A node showed what it knows, and it was learnt."""

    @property
    def known(self) -> dict[bytes, StorageNode]:
        """The other nodes that this host knows of."""
        ids = {member.node for member in self.placement.ring.members}
        return {i: n for i, n in self.directory.items() if i in ids and n is not self}

    def learn(self, view: View) -> None:
        """Merge what came from elsewhere."""
        before = self.placement
        self.placement = before.learn(view)
        if self.placement is not before:
            self.on_placement(self.placement.ring is not before.ring)
            for node in self.known:
                self.tell(node)

    def tell(self, node: bytes) -> None:
        """Show a node what is known here, and learn what it knows."""

        def end(reply: object) -> None:
            if isinstance(reply, Told):
                self.learn(reply.view)
                self.on_told(node, reply.view)

        message = Tell(self.placement.view)
        self.ask(self.directory[node], message, TELL_S, end)

    def hear(self, src: Peer, call: int, message: Tell) -> None:
        """Somebody shows what it knows."""
        self.learn(message.view)
        self.answer(src, call, Told(self.placement.view))

    def begin_gossip(self) -> None:
        """Show it to somebody now and then."""
        if self.gossips:
            self.after(int(GOSSIP_US * self._drawn.random()), "gossip", self._gossip)

    def _gossip(self) -> None:
        known = sorted(self.known)
        if known:
            self.tell(self._drawn.choice(known))
        self.after(GOSSIP_US, "gossip", self._gossip)
