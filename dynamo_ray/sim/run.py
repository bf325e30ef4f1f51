"""One seed, one run: a storm while the clients work, then calm, then the checkers.

    seed ─► plan, tape ─► storm (until every client is done) ─► mend all ─► hints home, doubts end
         ─► (owners compare their copies? they become equal by that alone)
         ─► every key is read with R = N ─► owners compared ─► verdicts, digest

The same seed is the same run, to the last event. A run that fails says so with its digest, the
verdicts' evidence and the command that repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamo_ray.core.ring import partition_of
from dynamo_ray.sim.checkers import Verdict, are_equal, check
from dynamo_ray.sim.clients import ClientHost
from dynamo_ray.sim.cluster import Cluster
from dynamo_ray.sim.faults import Fault, Storm, draw_tape
from dynamo_ray.sim.history import OK, History, Read
from dynamo_ray.sim.ladder import draw_ladder
from dynamo_ray.sim.plan import Plan, draw_plan
from dynamo_ray.sim.workloads import Workload, draw_keys
from dynamo_ray.sim.world import SECOND, World

STORM_S_MAX = 120
CALM_S_MAX = 30


@dataclass(frozen=True, slots=True)
class Result:
    """What a run was and what was found."""

    seed: int
    digest: str
    verdicts: tuple[Verdict, ...]
    ladder: str
    events: int
    virtual_seconds: float
    writes: int
    acknowledged: int
    faults: tuple[str, ...]
    plan: Plan

    @property
    def ok(self) -> bool:
        """True if no checker found anything."""
        return all(verdict.ok for verdict in self.verdicts)

    def report(self) -> str:
        """The run in words: one line if all is well, else all there is to know."""
        head = (
            f"seed {self.seed}: {'ok' if self.ok else 'FAILED'}, digest {self.digest}, "
            f"{self.events} events in {self.virtual_seconds:.1f} virtual seconds, "
            f"{self.acknowledged} of {self.writes} writes acknowledged"
        )
        if self.ok:
            return head
        lines = [head, f"  {self.plan}"]
        lines += [f"  fault: {fault}" for fault in self.faults]
        for verdict in self.verdicts:
            lines += [f"  {verdict.checker}: {text}" for text in verdict.evidence]
        if self.ladder:
            lines += ["", self.ladder]
        lines += ["", f"repeat it with: dynamo-ray sim run --seed {self.seed}"]
        return "\n".join(lines)


class Run:
    """A run in its steps, for tests that want to look in between."""

    def __init__(
        self,
        seed: int,
        plan: Plan | None = None,
        tape: Sequence[Fault] | None = None,
        trace: bool = False,
    ) -> None:
        self.seed = seed
        self.world = World(seed)
        chance = self.world.stream("settings")
        self.plan = plan if plan is not None else draw_plan(chance)
        self.tape = (
            draw_tape(self.plan, self.world.stream("crash")) if tape is None else tuple(tape)
        )
        self.cluster = Cluster(self.world, self.plan)
        self.history: History = self.cluster.history
        if trace:
            self.cluster.network.trace = []
        self.keys = draw_keys(self.plan, chance)
        self.workload = Workload(self.cluster, self.keys)
        self.storm: Storm
        self.reader = ClientHost(self.world, self.cluster.network, "reader", self.history)
        self.reader.coordinators = self.cluster.coordinators
        self.reader.timeout_ms = 1500

    def begin(self) -> None:
        """Start the cluster and let it settle for a moment, then begin the storm."""
        self.cluster.start()
        self.world.run_until(200_000)
        self.storm = Storm(self.cluster, self.tape)

    def work(self) -> None:
        """Every client does all its work."""
        clients = self.cluster.clients
        for client in clients:
            client.work = self.workload.next
            client.start()
        limit = self.world.now + STORM_S_MAX * SECOND + self.plan.work_us
        done = self.world.run_until(limit, lambda: not any(client.busy for client in clients))
        if not done:
            self.history.breach("calm", self.world.now, "a client never came to its end")

    def calm(self) -> None:
        """Mend everything, wait until hints are home and doubts are gone, read all with R = N.

        Where owners compare their copies, the wait is for these to be equal before anybody reads.
        """
        self.storm.end()
        quiet = self._until_quiet()
        self._settle(self.plan.suspect_s + 4 * self.plan.tick_s)
        quiet = self._until_quiet() and quiet
        if self.plan.reaps:
            times = self.cluster.settings.times
            self._settle(times.grace_s + times.message_s + 1)
        if self.plan.repairs:
            self.world.run_until(self.world.now + CALM_S_MAX * SECOND, self._is_converged)
            self.history.unread = self._held()
        reads = [Read("reader", key, self.plan.n, False, 0) for key in self.keys]
        ended: list[bool] = []
        self.reader.get(reads, lambda: ended.append(True))
        self.world.run_until(self.world.now + 5 * SECOND, lambda: bool(ended))
        self._settle(0.2)
        quiet = self._until_quiet() and quiet
        if self.plan.repairs:
            # A read that meets a reap gives back what the others let go of; so it is reaped again.
            self.world.run_until(self.world.now + CALM_S_MAX * SECOND, self._is_converged)
        answered = all(read.outcome == OK and not read.degraded for read in reads)
        self.history.calm = quiet and answered
        self._collect()

    def result(self, ladder: bool = False) -> Result:
        """The verdicts, and the picture of the hot key if it is asked for."""
        verdicts = check(self.history)
        picture = ""
        if ladder and self.cluster.network.trace is not None:
            hosts = [*self.cluster.clients, *self.cluster.coordinators, *self.cluster.nodes]
            picture = draw_ladder(
                self.cluster.network.trace,
                [host.name for host in hosts],
                self.keys[0],
                [(at, f"{fault.kind} {fault.host}") for at, fault in self.storm.happened],
            )
        return Result(
            self.seed,
            self.world.digest,
            verdicts,
            picture,
            self.world.events,
            self.world.now / SECOND,
            len(self.history.writes),
            sum(write.outcome == OK for write in self.history.writes),
            tuple(f"{at / SECOND:.6f} s {fault}" for at, fault in self.storm.happened),
            self.plan,
        )

    def _until_quiet(self) -> bool:
        limit = self.world.now + CALM_S_MAX * SECOND
        return self.cluster.is_quiet() or self.world.run_until(limit, self.cluster.is_quiet)

    def _settle(self, seconds: float) -> None:
        self.world.run_until(self.world.now + int(seconds * SECOND))

    def _is_converged(self) -> bool:
        """True once no work is left, and the owners of every key hold the same."""
        held = self._held()
        are_all = (are_equal(of, self.cluster.owners(key)) for key, of in held.items())
        return self.cluster.is_quiet() and all(are_all)

    def _held(self) -> dict[bytes, dict[str, bytes]]:
        """What every node holds of every key now."""
        found: dict[bytes, dict[str, bytes]] = {}
        for key in self.keys:
            partition = partition_of(key, self.plan.partitions)
            there = [node for node in self.cluster.nodes if not node.ended]
            of = {node.name: node.replica.maps[partition].get(key) for node in there}
            found[key] = {name: state for name, state in of.items() if state is not None}
        return found

    def _collect(self) -> None:
        """What every node holds of every key now, and whether its log says the same."""
        self.history.finals = self._held()
        for key in self.keys:
            self.history.owners[key] = self.cluster.owners(key)
            for node in self.cluster.nodes:
                if node.ended:
                    continue
                if self.history.finals[key].get(node.name) != node.logged.get(key):
                    text = f"{node.name} holds another state of {key!r} than its log"
                    self.history.breach("log", self.world.now, text)


def run_seed(
    seed: int,
    plan: Plan | None = None,
    tape: Sequence[Fault] | None = None,
    ladder: bool = True,
    **changes: Any,
) -> Result:
    """Run one seed; a run that fails is repeated with its messages written down, for the ladder."""
    if changes:
        plan = replace(plan or draw_plan(World(seed).stream("settings")), **changes)
    result = _run(seed, plan, tape, False)
    if result.ok or not ladder:
        return result
    return _run(seed, plan, tape, True)


def _run(seed: int, plan: Plan | None, tape: Sequence[Fault] | None, trace: bool) -> Result:
    run = Run(seed, plan, tape, trace)
    run.begin()
    run.work()
    run.calm()
    return run.result(ladder=trace)
