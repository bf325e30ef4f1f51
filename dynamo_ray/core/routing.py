"""Whom to ask now: the ring and who is suspected make a route (Dynamo §4.3, §4.6).

The ring says who owns a partition and changes with the membership. A route says who should be asked
for it at this moment, as one observer sees it; it is made for one operation and never changes.

    owners     the N nodes of the preference list's head, whether they can be reached or not
    spares     the nodes after them; the healthy ones stand in for owners that cannot be reached
    suspected  whoever this observer holds to be unreachable

`StandIns` deals out the spares of one operation: each at most once, to one owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from dynamo_ray.core.ring import NodeId, Ring
from dynamo_ray.core.values import value

Place = tuple[str, str]  # zone, machine


@value
class Route:
    """Owners and spares of a partition, each in the order in which they are to be asked.

    `places` says who may fail together; without it the order of the spares decides alone.
    """

    owners: tuple[NodeId, ...]
    spares: tuple[NodeId, ...]
    suspected: frozenset[NodeId] = frozenset()
    places: Mapping[NodeId, Place] = field(default_factory=dict, compare=False, repr=False)

    @property
    def healthy_owners(self) -> tuple[NodeId, ...]:
        """The owners that are not suspected."""
        return self._healthy(self.owners)

    @property
    def healthy_spares(self) -> tuple[NodeId, ...]:
        """The spares that are not suspected."""
        return self._healthy(self.spares)

    def _healthy(self, nodes: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        if not self.suspected:
            return nodes
        return tuple(node for node in nodes if node not in self.suspected)


def routes(ring: Ring, suspected: frozenset[NodeId] = frozenset()) -> tuple[Route, ...]:
    """Whom to ask, by route key: partitions that share one share their route."""
    copies, places = ring.copies, ring.places
    orders = ring.preferences
    return tuple(Route(order[:copies], order[copies:], suspected, places) for order in orders)


def minters(
    route: Route, strict: bool = False, slow: frozenset[NodeId] = frozenset()
) -> tuple[NodeId, ...]:
    """Who may mint, in the order of trying: healthy owners, healthy spares, suspected owners.

    Of the healthy owners the `slow` ones are asked last. Suspicion is one observer's guess, so
    suspected owners are tried in the end. Under a strict quorum a spare's copy counts for nothing,
    so no spare is tried.
    """
    spares = () if strict else route.healthy_spares
    healthy = route.healthy_owners
    if slow:
        healthy = tuple(sorted(healthy, key=slow.__contains__))
    if not route.suspected:
        return healthy + spares
    return healthy + spares + tuple(node for node in route.owners if node not in healthy)


class StandIns:
    """The spares of one operation, each to be used at most once, for one owner."""

    __slots__ = ("_replaced", "_route", "_used")

    def __init__(self, route: Route) -> None:
        self._route = route
        self._used: frozenset[NodeId] = frozenset()
        self._replaced: frozenset[NodeId] = frozenset()

    def use(self, node: NodeId) -> None:
        """A spare was put to use by the caller, to mint: it is no longer free."""
        self._used |= {node}

    def next_for(self, owner: NodeId) -> NodeId | None:
        """The healthy spare that should hold the owner's copy next, or None if none is left.

        It is the first in a zone, else on a machine, where no other copy is or was tried.
        """
        free = [node for node in self._route.healthy_spares if node not in self._used]
        if not free:
            return None
        self._replaced |= {owner}
        found = self._apart(free) if self._route.places else free[0]
        self._used |= {found}
        return found

    def _apart(self, free: list[NodeId]) -> NodeId:
        places = self._route.places
        others = self._used.union(self._route.healthy_owners) - self._replaced
        taken = {places[node] for node in others}
        zones = {zone for zone, _ in taken}
        return min(free, key=lambda node: (places[node][0] in zones, places[node] in taken))


def pair_stand_ins(
    route: Route, missing: Iterable[NodeId] | None = None
) -> tuple[tuple[NodeId, NodeId], ...]:
    """Which spare stands in for which missing owner, as (owner, spare), while spares last.

    Without `missing` it is for the suspected owners. The owners' order decides, not the argument's.
    """
    gone = route.suspected if missing is None else frozenset(missing)
    stand_ins = StandIns(route)
    pairs = ((owner, stand_ins.next_for(owner)) for owner in route.owners if owner in gone)
    return tuple((owner, spare) for owner, spare in pairs if spare is not None)
