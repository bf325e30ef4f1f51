"""What a seed chooses before its run begins: the cluster, its clients, and which faults are on.

Swarm testing: every seed draws its own subset of the faults and how strong they are, because a run
with everything on hides what a run with one thing on shows. Seven of ten worlds are small and hot
(one or two keys, few clients, few operations): that is where causality goes wrong soonest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from dynamo_ray.core.settings import Limits, Settings, Times
from dynamo_ray.sim.network import CALM, Weather
from dynamo_ray.sim.world import MILLISECOND

FAULTS = ("crash", "coordinator", "pause", "cut", "split", "full", "reset", "point")
# Only with the real storage, which has files to damage.
DISK_FAULTS = ("flip", "unreadable", "fsync", "wipe")
# How the members change: a seed draws how many of them.
CHANGES = ("join", "leave", "replace", "oust")
STYLES = ("mixed", "set", "cart", "blind", "concurrent")


@dataclass(frozen=True, slots=True)
class Plan:
    """One world. A test overrides what it wants to fix, by `dataclasses.replace`."""

    nodes: int = 3
    zones: int = 1
    coordinators: int = 2
    n: int = 3
    r: int = 2
    w: int = 2
    partitions: int = 4
    durability: str = "written"
    keys: int = 1
    styles: tuple[str, ...] = ("mixed",)
    clients: int = 2
    operations: int = 8
    think_us: int = 100 * MILLISECOND
    timeout_ms: int = 1000
    repeats: int = 1
    strict_share: float = 0.3
    odd_quorums: float = 0.2
    context_share: float = 0.5
    delete_share: float = 0.15
    many_share: float = 0.1
    ttl_share: float = 0.0
    weather: Weather = CALM
    skew_ms: int = 0
    append_us: int = 100
    sync_us: int = 2000
    faults: frozenset[str] = frozenset()
    fault_count: int = 4
    down_us: int = 1000 * MILLISECOND
    real_storage: bool = False
    hint_bytes: int = 1024 * 1024 * 1024
    sibling_bytes: int = 8 * 1024 * 1024
    suspect_s: float = 0.6
    tick_s: float = 0.1
    sync_s: float = 1.0
    timeout_max_s: float = 2.0
    linger_s: float = 2.0
    purge_s: float = 3600.0
    grace_s: float = 864_000.0
    repair_s: float = 600.0
    newcomers: int = 0

    @property
    def changes(self) -> bool:
        """True if nodes come and go within such a run."""
        return self.newcomers > 0 or bool(self.faults.intersection(CHANGES))

    @property
    def work_us(self) -> int:
        """How long a client needs at most, all of whose operations run out of time."""
        longest_ms = max(self.timeout_ms, int(self.timeout_max_s * 1000)) * (self.repeats + 1)
        return self.operations * (longest_ms * 1000 + self.think_us)

    @property
    def reaps(self) -> bool:
        """True if what is dead is reaped within such a run."""
        return self.grace_s < 60

    @property
    def repairs(self) -> bool:
        """True if owners compare their copies within such a run, so that nothing need be read."""
        return self.repair_s < 60

    def settings(self) -> Settings:
        """The settings of this world's cluster."""
        times = Times(
            timeout_s=self.timeout_ms / 1000,
            timeout_max_s=max(self.timeout_max_s, self.timeout_ms / 1000),
            suspect_s=self.suspect_s,
            tick_s=self.tick_s,
            sync_s=self.sync_s,
            linger_s=self.linger_s,
            purge_s=self.purge_s,
            grace_s=self.grace_s,
            repair_s=self.repair_s,
        )
        limits = Limits(
            hint_bytes=self.hint_bytes,
            sibling_bytes=self.sibling_bytes,
            value_bytes=min(1024 * 1024, self.sibling_bytes),
        )
        return Settings(
            n=self.n,
            r=self.r,
            w=self.w,
            partitions=self.partitions,
            durability=self.durability,
            limits=limits,
            times=times,
        )


def draw_plan(chance: Random) -> Plan:
    """The world of a seed."""
    small = chance.random() < 0.7
    n = chance.choice((1, 2, 3, 3, 3, 3, 4, 5))
    nodes = min(7, n + chance.choice((0, 0, 1, 1, 2, 3)))
    keys = chance.randint(1, 2) if small else chance.randint(2, 6)
    durability = chance.choice(("written", "written", "written", "synced", "synced", "memory"))
    faults = {name for name in FAULTS if chance.random() < 0.4}
    if chance.random() < (0.5 if durability == "synced" else 0.15):
        faults.add("power")  # below `synced` it may lose writes, and all other rules hold
    real_storage = chance.random() < 0.25
    if real_storage:
        faults.update(name for name in DISK_FAULTS if chance.random() < 0.35)
    plan = Plan(
        nodes=nodes,
        zones=chance.choice((1, 1, 2, 3)),
        coordinators=chance.choice((1, 2, 2, 3)),
        n=n,
        r=chance.randint(1, n),
        w=chance.randint(1, n),
        partitions=chance.choice((1, 2, 4, 8)),
        durability=durability,
        keys=keys,
        styles=tuple(chance.choice(STYLES) for _ in range(keys)),
        clients=chance.randint(2, 4),
        operations=chance.randint(5, 15) if small else chance.randint(10, 30),
        think_us=chance.choice((5, 20, 60, 150)) * MILLISECOND,
        timeout_ms=chance.choice((300, 700, 1000, 1500)),
        repeats=chance.randint(0, 2),
        strict_share=chance.choice((0.0, 0.3, 1.0)),
        odd_quorums=chance.choice((0.0, 0.3)),
        context_share=chance.choice((0.2, 0.5, 0.9)),
        delete_share=chance.choice((0.0, 0.15, 0.4)),
        many_share=chance.choice((0.0, 0.2)),
        ttl_share=chance.choice((0.0, 0.0, 0.2)),
        weather=draw_weather(chance),
        skew_ms=chance.choice((0, 50, 5_000, 3_600_000)),
        append_us=chance.choice((50, 500, 20_000)),
        sync_us=chance.choice((500, 5_000, 60_000)),
        faults=frozenset(faults),
        fault_count=chance.randint(2, 8),
        down_us=chance.choice((50, 400, 1500, 4000)) * MILLISECOND,
        real_storage=real_storage,
        hint_bytes=chance.choice((1, 400, 1024 * 1024, 1024 * 1024)),
        sibling_bytes=chance.choice((400, 1200, 8 * 1024 * 1024, 8 * 1024 * 1024)),
        suspect_s=chance.choice((0.3, 0.6, 1.5)),
        tick_s=chance.choice((0.1, 0.2)),
        sync_s=chance.choice((0.2, 1.0)),
    )
    if chance.random() < 0.25:
        plan = _reaping(plan, chance)
    if chance.random() < 0.25:
        plan = replace(plan, repair_s=chance.choice((0.2, 1.0, 4.0)))
    return _changing(plan, chance) if chance.random() < 0.25 else plan


def _changing(plan: Plan, chance: Random) -> Plan:
    """The same world, where nodes come and go."""
    changes = {name for name in CHANGES if chance.random() < 0.5} or {"join"}
    return replace(
        plan,
        newcomers=chance.randint(1, 3),
        faults=plan.faults | changes,
        fault_count=plan.fault_count + chance.randint(1, 4),
        operations=plan.operations * 2,
    )


def _reaping(plan: Plan, chance: Random) -> Plan:
    """The same world, where much is deleted and what is dead is let go of within the run."""
    return replace(
        plan,
        operations=plan.operations * 2,
        timeout_ms=300,
        timeout_max_s=0.3,
        linger_s=chance.choice((0.1, 0.3)),
        purge_s=chance.choice((0.05, 0.5)),
        grace_s=chance.choice((0.05, 0.5)),
        delete_share=chance.choice((0.3, 0.7)),
        ttl_share=chance.choice((0.0, 0.5)),
    )


def draw_weather(chance: Random) -> Weather:
    """How bad the links of a seed are; half of all worlds lose nothing."""
    return Weather(
        delay_us=chance.choice((100, 500, 3_000)),
        tail_us=chance.choice((50, 500, 5_000)),
        slow_share=chance.choice((0.0, 0.0, 0.05, 0.2)),
        slow_us=chance.choice((20, 200, 900)) * MILLISECOND,
        loss=chance.choice((0.0, 0.0, 0.02, 0.15)),
        repeat=chance.choice((0.0, 0.0, 0.05, 0.3)),
        kept_by_cut=chance.choice((0.0, 0.5, 1.0)),
    )
