"""Faults: a seed draws a tape of them, a directed test writes one, and one function performs each.

A fault happens at a time, or at a *crash point*: right after the n-th event of a kind at a host
("after the second Mint at n1"). Crash points find in seconds what random times find in hours. Every
fault ends after a while by itself, and the calm ends what is left.

    crash, power    a node's process, or its machine, stops and comes back
    coordinator     a coordinator's process stops and comes back
    pause           a node handles nothing, its clocks go on, then all of it, late
    cut, split      one direction of one link; a node from everybody, both directions
    full            the disk takes nothing, or so much more and then nothing
    flip            bits of the log or of a snapshot change, under a running node or a stopped one
    unreadable      a start finds files that give errors, or less than they hold
    fsync           the next fsync fails: the node ends, starts again, and doubts what it holds
    wipe            the node comes back with an empty disk
    reset           connections to a node break, nobody dies
    join, leave,    a new node comes, a node hands all it has over and goes, one is gone for good
    replace         and another takes its place (core/slots.py); for these nothing is mended
    oust            as replace, by mistake: the node works on until it hears of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from dynamo_ray.sim.cluster import Cluster
from dynamo_ray.sim.coordinators import CoordinatorHost
from dynamo_ray.sim.journal import StoreJournal
from dynamo_ray.sim.network import Peer
from dynamo_ray.sim.nodes import StorageNode
from dynamo_ray.sim.plan import DISK_FAULTS, Plan
from dynamo_ray.sim.world import MILLISECOND

POINTS = (
    ("n", ("Mint", "Merge", "appended", "synced", "Merged", "Fetch", "incarnation")),
    ("c", ("Minted", "Merged", "ClientPut", "Fetched")),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to which host, when, for how long. `after` is (host, kind of event, count).

    `other` is the other end of a cut, or what the paths of the files begin with that are damaged.
    """

    kind: str
    host: str
    at_us: int = 0
    for_us: int = 500 * MILLISECOND
    other: str = ""
    after: tuple[str, str, int] | None = None


def draw_tape(plan: Plan, chance: Random) -> tuple[Fault, ...]:
    """The faults of a seed, within the time in which its clients work."""
    kinds = sorted(plan.faults)
    if not kinds:
        return ()
    span_us = plan.operations * plan.think_us * 2
    # Fewer disks than W are damaged in a run (one, with W = 1): what W nodes hold is whole at one.
    numbers = range(1, plan.nodes + 1)
    bad_disks = [f"n{i}" for i in chance.sample(numbers, max(1, plan.w - 1))]
    return tuple(
        _draw(plan, chance, chance.choice(kinds), span_us, bad_disks)
        for _ in range(plan.fault_count)
    )


def _draw(plan: Plan, chance: Random, kind: str, span_us: int, bad_disks: Sequence[str]) -> Fault:
    node = f"n{chance.randint(1, plan.nodes)}"
    coordinator = f"c{chance.randint(1, plan.coordinators)}"
    at_us, for_us = chance.randint(0, span_us), int(plan.down_us * (0.2 + chance.random() * 1.6))
    after = None
    if kind == "point":
        here = plan.faults & {"power", "full", *DISK_FAULTS}
        kind = chance.choice(sorted(here | {"crash", "pause", "coordinator"}))
        letter, kinds = chance.choice(POINTS)
        host = node if letter == "n" else coordinator
        after = (host, chance.choice(kinds), chance.randint(1, 6))
    if kind in DISK_FAULTS or kind in ("replace", "oust"):
        node = chance.choice(bad_disks)
    host = coordinator if kind == "coordinator" else node
    if kind == "cut":
        names = [f"n{i + 1}" for i in range(plan.nodes)] + [
            f"c{i + 1}" for i in range(plan.coordinators)
        ]
        other = chance.choice([name for name in names if name != node])
        host, other = (node, other) if chance.random() < 0.5 else (other, node)
        return Fault(kind, host, at_us, for_us, other)
    return Fault(kind, host, at_us, for_us, "", after)


class Storm:
    """Performs a tape on a cluster; `end` stops it, so that the calm stays calm."""

    def __init__(self, cluster: Cluster, tape: Iterable[Fault]) -> None:
        self.cluster = cluster
        self.happened: list[tuple[int, Fault]] = []
        self._over = False
        self._points: dict[tuple[str, str], list[tuple[int, Fault]]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        for fault in tape:
            if fault.after is None:
                cluster.world.plan(fault.at_us, None, fault.kind, self._begin, (fault,))
            else:
                host, kind, count = fault.after
                self._points.setdefault((host, kind), []).append((count, fault))
        if self._points:
            cluster.world.on_event = self._on_event

    def end(self) -> None:
        """No fault begins any more, and all that is broken is mended."""
        self._over = True
        self.cluster.world.on_event = None
        self.cluster.mend_all()

    def _on_event(self, host: str, kind: str) -> None:
        points = self._points.get((host, kind))
        if points is None:
            return
        count = self._counts[host, kind] = self._counts.get((host, kind), 0) + 1
        for due, fault in points:
            if due == count:
                self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        if self._over:
            return
        mend = perform(self.cluster, fault)
        if mend is not None:
            self.happened.append((self.cluster.world.now, fault))
            self.cluster.world.plan(fault.for_us, None, "mend", self._mend, (mend,))

    def _mend(self, mend: Callable[[], None]) -> None:
        if not self._over:
            mend()


def perform(cluster: Cluster, fault: Fault) -> Callable[[], None] | None:
    """Break something; the function that mends it, or None if it was broken already."""
    if fault.kind == "join":
        return _join(cluster)
    host = cluster.members[fault.host]
    if isinstance(host, StorageNode) and host.ended:
        return None
    if fault.kind == "leave":
        assert isinstance(host, StorageNode), host.name
        return _nothing if cluster.operator.leave(host) else None
    if fault.kind == "replace":
        return _replace(cluster, host)
    if fault.kind == "oust":
        return _oust(cluster, host)
    if fault.kind in ("crash", "power", "coordinator"):
        return _stop(host, fault.kind == "power")
    if fault.kind == "pause":
        return _pause(host)
    if fault.kind == "full":
        return _fill(host)
    if fault.kind in DISK_FAULTS:
        return _damage(host, fault)
    if fault.kind == "reset":
        return cluster.break_connections(host)
    if fault.kind == "cut":
        return _cut(cluster, [(host, cluster.members[fault.other])])
    assert fault.kind == "split", fault
    others = [other for other in cluster.members.values() if other is not host]
    return _cut(cluster, [pair for other in others for pair in ((host, other), (other, host))])


def _nothing() -> None:
    """A change of members is not mended."""


def _join(cluster: Cluster) -> Callable[[], None] | None:
    if not cluster.newcomers or not cluster.operator.join(cluster.newcomers[0]):
        return None
    del cluster.newcomers[0]
    return _nothing


def _replace(cluster: Cluster, host: StorageNode | CoordinatorHost) -> Callable[[], None] | None:
    """The node is gone with all it had: as if its disk were, for good."""
    assert isinstance(host, StorageNode), host.name
    if not cluster.newcomers:
        return None
    before = host.kept
    if host.up:
        host.stop()
    if not cluster.operator.join(cluster.newcomers[0], instead_of=host):
        host.start()
        return None
    del cluster.newcomers[0]
    host.ended = True
    host.witness.tell_gone(before)
    return _nothing


def _oust(cluster: Cluster, host: StorageNode | CoordinatorHost) -> Callable[[], None] | None:
    """Another takes the place of a node that nobody who was asked could reach."""
    assert isinstance(host, StorageNode), host.name
    if not cluster.newcomers or not host.up:
        return None
    if not cluster.operator.join(cluster.newcomers[0], instead_of=host):
        return None
    del cluster.newcomers[0]
    host.ousted = True
    host.witness.tell_gone(host.kept)
    return _nothing


def _stop(host: StorageNode | CoordinatorHost, power_loss: bool) -> Callable[[], None] | None:
    if not host.up:
        return None
    if isinstance(host, StorageNode):
        host.stop(power_loss)
    else:
        host.stop()

    def mend() -> None:
        if not host.up and not (isinstance(host, StorageNode) and host.ended):
            host.start()

    return mend


def _pause(host: StorageNode | CoordinatorHost) -> Callable[[], None] | None:
    if not host.up or host.paused:
        return None
    host.paused, run = True, host.run

    def mend() -> None:
        if host.run == run:
            host.resume()

    return mend


def _fill(host: StorageNode | CoordinatorHost) -> Callable[[], None]:
    assert isinstance(host, StorageNode), host.name
    host.journal.full = True

    def mend() -> None:
        host.journal.full = False

    return mend


def _damage(host: StorageNode | CoordinatorHost, fault: Fault) -> Callable[[], None] | None:
    """To the disk of a node, which is stopped first where that shows only at a start."""
    assert isinstance(host, StorageNode) and isinstance(host.journal, StoreJournal), host.name
    mend = _stop(host, False) if fault.kind in ("unreadable", "wipe") else None
    host.journal.damage(fault.kind, fault.other)
    if fault.kind == "wipe":
        host.lose_view()
    return mend or (lambda: None)


def _cut(cluster: Cluster, pairs: Sequence[tuple[Peer, Peer]]) -> Callable[[], None]:
    for src, dst in pairs:
        cluster.network.cut(src, dst)

    def mend() -> None:
        for src, dst in pairs:
            cluster.network.heal(src, dst)

    return mend
