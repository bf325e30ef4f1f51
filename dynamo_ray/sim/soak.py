"""Many seeds over several interpreters, some of them run twice to prove that a seed is one run.

Each worker is an interpreter of its own that says one line of JSON per seed. The second run of a
sampled seed is made under another PYTHONHASHSEED: a set whose order leaked into a decision shows at
once as another digest. There is no clock in here; who wants a rate hands one in.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynamo_ray.sim.run import run_seed

TWICE_EVERY = 20
WORK = "from dynamo_ray.sim.soak import work; work()"


class FailedSeed(NamedTuple):
    """A seed that failed, and its report: evidence, ladder, and the command that repeats it."""

    seed: int
    report: str


@dataclass(slots=True)
class Soak:
    """How far a soak is, and what it found."""

    seeds: int = 0
    events: int = 0
    writes: int = 0
    acknowledged: int = 0
    virtual_seconds: float = 0.0
    seconds: float = 0.0
    failed: list[FailedSeed] = field(default_factory=list)
    differed: list[int] = field(default_factory=list)
    repeated: int = 0
    deaths: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if no seed failed and every repeated one was the same run."""
        return not self.failed and not self.differed and not self.deaths

    def report(self) -> str:
        """What was run and found, in words."""
        rate = (
            f" in {self.seconds:.1f} s ({self.seeds / self.seconds:.1f}/s)" if self.seconds else ""
        )
        lines = [
            f"{self.seeds} seeds{rate}, {self.events} events, {self.virtual_seconds:.0f} virtual "
            f"seconds, {self.acknowledged} of {self.writes} writes acknowledged",
            f"{len(self.failed)} failed, {len(self.differed)} of {self.repeated} repeated differed",
        ]
        lines += [f"seed {seed} was another run the second time" for seed in self.differed]
        lines += [f"a worker ended early: {text}" for text in self.deaths]
        return "\n".join(lines + [failed.report for failed in self.failed])

    def take(self, row: dict[str, Any]) -> None:
        """One more seed was run."""
        self.seeds += 1
        self.events += row["events"]
        self.writes += row["writes"]
        self.acknowledged += row["acknowledged"]
        self.virtual_seconds += row["virtual_seconds"]
        if row["report"]:
            self.failed.append(FailedSeed(row["seed"], row["report"]))


def soak(
    seeds: Sequence[int],
    jobs: int = 2,
    on_progress: Callable[[Soak], None] | None = None,
    twice_every: int = TWICE_EVERY,
    clock: Callable[[], float] = lambda: 0.0,
) -> Soak:
    """Run the seeds over `jobs` interpreters; `on_progress` is told after each one."""
    began, found = clock(), Soak()
    shares = [share for share in (seeds[i::jobs] for i in range(jobs)) if len(share)]
    digests: dict[int, str] = {}
    for row in _rows(shares, 0, found):
        found.take(row)
        if twice_every and row["seed"] % twice_every == 0:
            digests[row["seed"]] = row["digest"]
        found.seconds = clock() - began
        if on_progress is not None:
            on_progress(found)
    found.repeated = len(digests)
    again = sorted(digests)
    shares = [share for share in (again[i::jobs] for i in range(jobs)) if share]
    second = {row["seed"]: row["digest"] for row in _rows(shares, 1, found)}
    found.differed = [seed for seed in again if second.get(seed) != digests[seed]]
    found.seconds = clock() - began
    return found


def work() -> None:
    """What a worker does: run the seeds that its argument names, one line of JSON each."""
    for seed in _seeds_in(sys.argv[1]):
        result = run_seed(seed)
        row = {
            "seed": seed,
            "digest": result.digest,
            "events": result.events,
            "writes": result.writes,
            "acknowledged": result.acknowledged,
            "virtual_seconds": result.virtual_seconds,
            "report": "" if result.ok else result.report(),
        }
        print(json.dumps(row), flush=True)


def _rows(shares: Sequence[Sequence[int]], hash_seed: int, found: Soak) -> Iterator[dict[str, Any]]:
    """The lines of all workers as they come."""
    workers = [_worker(share, hash_seed) for share in shares]
    try:
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
            while selector.get_map():
                for key, _ in selector.select():
                    line = key.data.stdout.readline()
                    if line:
                        yield json.loads(line)
                    else:
                        selector.unregister(key.fileobj)
                        if key.data.wait():
                            found.deaths.append(f"exit code {key.data.returncode}")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()


def _worker(share: Sequence[int], hash_seed: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", WORK, _named(share)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, bufsize=0)


def _named(seeds: Sequence[int]) -> str:
    if isinstance(seeds, range):
        return f"{seeds.start}:{seeds.stop}:{seeds.step}"
    return ",".join(map(str, seeds))


def _seeds_in(named: str) -> Sequence[int]:
    if ":" in named:
        return range(*map(int, named.split(":")))
    return [int(seed) for seed in named.split(",")]
