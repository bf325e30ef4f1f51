"""Who lets nodes come and go in the simulator: commands, given to whichever node is up (§4.8.1).

    join       a new node starts, says that it is there, and gets its share
    leave      a node that is to go owns nothing any more, and then is removed
    replace    a node is gone for good; a new one takes its place

What has to move is planned again and again, from what one node drawn by chance knows at the moment,
until nothing has to. So commands meet views that are old, and plans that others made before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_ray.core.membership import View
from dynamo_ray.core.plan import moves_due
from dynamo_ray.sim.nodes import StorageNode
from dynamo_ray.sim.world import SECOND

if TYPE_CHECKING:
    from dynamo_ray.sim.cluster import Cluster

LOOK_US = SECOND // 3


class Operator:
    """Commands that are under way; each is true in the end, whatever happens meanwhile."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._chance = cluster.world.stream("operator")
        self._leaving: list[StorageNode] = []
        self._is_looking = False
        self._stamps = 0

    @property
    def is_done(self) -> bool:
        """True if all came that should, all went that should, and nothing has to move."""
        if not self._is_looking:
            return True
        up = self._up()
        there = [*up, *self._cluster.coordinators]
        rings = {host.placement.ring.epoch for host in there}
        quiet = all(node.node.handover.is_idle for node in up)
        return not self._leaving and len(rings) == 1 and quiet and not moves_due(up[0].placement)

    def join(self, node: StorageNode, instead_of: StorageNode | None = None) -> bool:
        """A new node starts; False if there is nobody to tell it of the others.

        Whose place it takes is not asked: whoever gives the command takes that one for dead.
        """
        up = [one for one in self._up() if one is not instead_of and one.is_known]
        if not up:
            return False
        cluster = self._cluster
        placement = cluster.placement.learn(self._chance.choice(up).placement.view)
        if instead_of is not None:
            placement = placement.learn(View(ends={instead_of.id: node.id}))
        node.journal.join()
        cluster.nodes.append(node)
        cluster.members[node.name] = node
        node.begin(placement, cluster.settings, cluster.history)
        self._look_later()
        return True

    def leave(self, node: StorageNode) -> bool:
        """A node is to go; False if too few would be left, or it is going already."""
        staying = [one for one in self._cluster.nodes if one.counts and one.weight > 0]
        if len(staying) <= self._cluster.plan.n or node.weight == 0 or node.ended or not node.up:
            return False
        node.weight = 0.0
        if node.is_known:
            node.say()
        self._leaving.append(node)
        self._look_later()
        return True

    def _up(self) -> list[StorageNode]:
        nodes = self._cluster.nodes
        return [node for node in nodes if node.up and not node.paused and not node.ended]

    def _look_later(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._cluster.world.plan(LOOK_US, None, "look", self._look)

    def _look(self) -> None:
        """Do what is due now, by somebody who is up."""
        self._remove_empty()
        up = self._up()
        if up:
            node = self._chance.choice(up)
            if node.counts:
                self._teach(node)
            moves = moves_due(node.placement)
            if moves:
                self._stamps += 1
                stamp = self._cluster.world.now.to_bytes(8, "big") + bytes([self._stamps % 256])
                node.learn(node.placement.with_wishes(sorted(moves.items()), stamp))
        self._cluster.world.plan(LOOK_US, None, "look", self._look)

    def _teach(self, node: StorageNode) -> None:
        """Who knows only nodes that have gone, or whose place others have, hears of this one.

        By itself it could not find anybody: a coordinator that started again, or a node that was
        ousted. A command teaches the coordinators of a real cluster, and ends that node, by Ray.
        """
        cluster = self._cluster
        ousted = [one for one in cluster.nodes if one.ousted and not one.ended]
        for host in (*cluster.coordinators, *ousted):
            is_lost = not any(known.counts for known in host.known.values())
            if host.up and not host.paused and is_lost:
                host.learn(node.placement.view)

    def _remove_empty(self) -> None:
        """Who is to go and has nothing left is removed, by its own word."""
        for node in list(self._leaving):
            if node.ended:
                self._leaving.remove(node)
            elif node.up and not node.paused and node.has_nothing_left:
                self._leaving.remove(node)
                node.learn(View(ends={node.id: b""}))
