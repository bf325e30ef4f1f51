"""A whole cluster in one world: nodes, coordinators and clients, as a plan says."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.context import ContextKeys
from dynamo_ray.core.membership import View
from dynamo_ray.core.requests import Desk
from dynamo_ray.core.ring import Member, partition_of
from dynamo_ray.core.slots import placed
from dynamo_ray.sim.clients import ClientHost
from dynamo_ray.sim.coordinators import CoordinatorHost
from dynamo_ray.sim.history import History, Terms, Write
from dynamo_ray.sim.journal import Journal, ListJournal, StoreJournal
from dynamo_ray.sim.network import CALM, Network, Peer
from dynamo_ray.sim.nodes import StorageNode
from dynamo_ray.sim.operator import Operator
from dynamo_ray.sim.plan import Plan
from dynamo_ray.sim.world import MILLISECOND, SECOND, World

CLUSTER_ID = b"simulated cluster"[:16]
SECRET = b"simulated secret, not a secret at all"


class Cluster:
    """All hosts of a world, by name: n1 … are nodes, c1 … coordinators, client1 … clients."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world, self.plan = world, plan
        self.network = Network(world, plan.weather)
        self.settings = plan.settings()
        terms = Terms(plan.n, plan.r, plan.w, plan.durability, skew_ms=plan.skew_ms)
        self.history = History(terms)
        everybody = [self._node(i) for i in range(plan.nodes + plan.newcomers)]
        self.nodes, self.newcomers = everybody[: plan.nodes], everybody[plan.nodes :]
        founders = tuple(Member(node.id, node.name, node.zone) for node in self.nodes)
        self.placement = placed(Charter(CLUSTER_ID, "sim", self.settings, founders), View())
        desk = Desk(self.placement.ring, self.settings, ContextKeys(CLUSTER_ID, [SECRET]))
        self.coordinators = [
            CoordinatorHost(world, self.network, f"c{i + 1}", desk, self.placement)
            for i in range(plan.coordinators)
        ]
        directory = {node.id: node for node in everybody}
        for host in (*everybody, *self.coordinators):
            host.directory, host.gossips = directory, plan.changes
            host.placement = self.placement
        self.operator = Operator(self)
        self.clients = [self._client(f"client{i + 1}") for i in range(plan.clients)]
        members: list[StorageNode | CoordinatorHost] = [*self.nodes, *self.coordinators]
        self.members = {member.name: member for member in members}
        self._set_clocks()

    def start(self) -> None:
        """Start the nodes, then the coordinators."""
        for node in self.newcomers:
            node.up = False
        for node in self.nodes:
            node.begin(self.placement, self.settings, self.history)
        for coordinator in self.coordinators:
            coordinator.start()

    def owners(self, key: bytes) -> tuple[str, ...]:
        """The names of a key's owners, in the order in which they are asked to mint."""
        return self.order(key)[: self.plan.n]

    def order(self, key: bytes) -> tuple[str, ...]:
        """The names of a key's owners, then of the other nodes in the order of standing in."""
        placement = self.placement
        for node in self.nodes if self.plan.changes else ():
            if not node.ended:
                placement = placement.learn(node.placement.view)
        names = {node.id: node.name for node in self.nodes}
        partition = partition_of(key, self.plan.partitions)
        return tuple(names[node] for node in placement.ring.preference(partition))

    def mend_all(self) -> None:
        """Everything is up and reachable, and the links are good."""
        self.network.weather = CALM
        self.network.heal_all()
        for member in self.members.values():
            if isinstance(member, StorageNode) and member.ended:
                continue
            if member.paused:
                member.resume()
            if isinstance(member, StorageNode):
                member.journal.full = False
                if member.up and member.journal.is_damaged:
                    member.stop()  # what is damaged is found at a start, and must be mended
            if not member.up:
                member.start()

    def break_connections(self, host: Peer) -> Callable[[], None]:
        """Every connection of a host breaks, and is made again; nobody dies."""
        for other in self.world.hosts.values():
            if other is not host and isinstance(other, Peer) and other.up:
                delay = self.network.delay_us()
                other.after(delay, "connection lost", other.connection_lost, host)
                if host.up:
                    host.after(delay, "connection lost", host.connection_lost, other)
        return lambda: None

    def is_quiet(self) -> bool:
        """True once nothing is under way, no hint is left, and no partition is in doubt."""
        there = [node for node in self.nodes if not node.ended]
        return (
            not any(c.machine.in_flight for c in self.coordinators)
            and not any(len(n.replica.hints) or n.replica.in_doubt or n.is_busy for n in there)
            and self.operator.is_done
        )

    def _node(self, i: int) -> StorageNode:
        chance = self.world.stream("ids")
        name, node_id = f"n{i + 1}", chance.randbytes(8)
        journal = self._journal(name, node_id)
        node = StorageNode(self.world, self.network, name, node_id, journal)
        node.append_us, node.sync_us = self.plan.append_us, self.plan.sync_us
        node.takes_snapshots = self.plan.real_storage
        node.zone = f"z{i % self.plan.zones}" if self.plan.zones > 1 else ""
        return node

    def _journal(self, name: str, node_id: bytes) -> Journal:
        plan, chance = self.plan, self.world.stream(f"journal {name}")
        if not plan.real_storage:
            return ListJournal(chance, plan.partitions, plan.durability)
        journal = StoreJournal(node_id, name, chance, plan.partitions, plan.durability)
        journal.on_difference = lambda text: self.history.breach("storage", self.world.now, text)
        return journal

    def _client(self, name: str) -> ClientHost:
        client = ClientHost(self.world, self.network, name, self.history)
        client.coordinators = self.coordinators
        client.on_acknowledged = self._acknowledged
        client.think_us = self.plan.think_us
        client.timeout_ms = self.plan.timeout_ms
        client.repeats = self.plan.repeats
        return client

    def _acknowledged(self, write: Write) -> None:
        there = [node.logged.get(write.key) for node in self.nodes if not node.ousted]
        self.history.on_acknowledged_at_ousted(write, self.world.now, there)
        # A machine may lose, between its answer and the client's, what it acknowledged.
        if self.plan.durability != "memory" and not self.history.forgot(write):
            states = [node.logged.get(write.key) for node in self.nodes]
            self.history.on_acknowledged(write, self.world.now, states)

    def _set_clocks(self) -> None:
        chance = self.world.stream("clocks")
        for host in self.world.hosts.values():
            host.offset_us = chance.randint(1, 1_000_000) * MILLISECOND + SECOND
            host.skew_ms = chance.randint(-self.plan.skew_ms, self.plan.skew_ms)
