"""Views that travel in the simulator: the twin of server/gossiping.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_ray.core.gossip import FAN_OUT, Digests, Gossip, Known, News
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
class Heard:
    """The answer to News."""


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

    def on_told(self, node: bytes, view: View | None) -> None:
        """An exchange with a node has ended: it knows this by now, or did not answer (None)."""

    @property
    def known(self) -> dict[bytes, StorageNode]:
        """The other nodes that this host knows of."""
        ids = {member.node for member in self.placement.ring.members}
        return {i: n for i, n in self.directory.items() if i in ids and n is not self}

    def learn(self, view: View) -> None:
        """Merge what came from elsewhere, and pass on what is new."""
        before = self.placement
        self.placement = before.learn(view)
        if self.placement is not before:
            self.on_placement(self.placement.ring is not before.ring)
            self._gossip.on_view(self.placement.view)
            news, known = self._gossip.take_news(), sorted(self.known)
            if news is not None:
                for node in self._drawn.sample(known, min(FAN_OUT, len(known))):
                    self.ask(self.directory[node], news, TELL_S, lambda reply: None)

    def exchange(self, node: bytes) -> None:
        """Learn what a node knows, and have it learn what is known here."""
        shown = self.placement.view

        def on_known(reply: object) -> None:
            if not isinstance(reply, Known):
                return self.on_told(node, None)
            self.learn(reply.view)
            lack = self._gossip.on_known(reply)
            if lack is None:
                self.on_told(node, shown)
            else:
                self.ask(self.directory[node], lack, TELL_S, on_heard)

        def on_heard(reply: object) -> None:
            self.on_told(node, shown if isinstance(reply, Heard) else None)

        self.ask(self.directory[node], self._gossip.digests, TELL_S, on_known)

    def hear(self, src: Peer, call: int, message: News | Digests) -> None:
        """Somebody tells news, or shows what it knows."""
        if isinstance(message, News):
            self.learn(message.view)
            self.answer(src, call, Heard())
        else:
            self.answer(src, call, self._gossip.on_digests(message))

    def begin_gossip(self) -> None:
        """With what is known at the start; exchange it with somebody now and then."""
        self._gossip = Gossip(self.placement.view)
        if self.gossips:
            self.after(int(GOSSIP_US * self._drawn.random()), "gossip", self._exchange_with_one)

    def _exchange_with_one(self) -> None:
        known = sorted(self.known)
        if known:
            self.exchange(self._drawn.choice(known))
        self.after(GOSSIP_US, "gossip", self._exchange_with_one)
