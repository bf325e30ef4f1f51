"""The least that a quorum request can cost, measured in one run beside what people use instead.

The floors (bare.py) do the hops and bytes of the store and nothing else; the peers (peers.py) are
the naive stores on Ray and Redis. The wire floor runs twice, each in actors of its own: what
differs between the two is noise. `python benchmarks/floor.py` prints the table in under three
minutes; `main(extra=[…])` measures any other contestant in the same rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `python benchmarks/floor.py` has only its own folder

import ray  # noqa: E402
import uvloop  # noqa: E402

from benchmarks import bare, peers, report, workloads  # noqa: E402

BASELINE = bare.WireFloor().name


@contextlib.contextmanager
def own_ray() -> Iterator[None]:
    """A local Ray of this run alone, gone at the end with its files."""
    # Ray runs workers at nice 15; clients and Redis run at 0. Equal for all, on a shared machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    folder = tempfile.mkdtemp(dir="/tmp")  # short: Ray puts socket paths of 100 bytes below it
    try:
        ray.init(
            address="local",
            _temp_dir=folder,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level=logging.ERROR,
            num_cpus=2,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def floors_and_peers() -> list[workloads.Contestant]:
    return [
        bare.WireFloor(),
        bare.WireFloor("wire floor again"),
        bare.RayFloor(),
        peers.OneDictActor(),
        peers.ThreeDictActors(),
        peers.Redis(),
        peers.RedisPipelined(),
    ]


async def start_all(
    contestants: Sequence[workloads.Contestant],
    space: workloads.Keyspace,
    closing: contextlib.AsyncExitStack,
) -> tuple[list[workloads.Contestant], list[str]]:
    """Those that run here, loaded; and a word about each that does not."""
    started, skipped = [], []
    for contestant in contestants:
        try:
            await contestant.start()
        except workloads.Missing as missing:
            skipped.append(f"{contestant.name} skipped: {missing}")
            continue
        closing.push_async_callback(contestant.close)
        await workloads.load_and_check(contestant, space)
        started.append(contestant)
    return started, skipped


async def run(
    contestants: Sequence[workloads.Contestant], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[str]]:
    space = workloads.Keyspace(value_bytes=options.value_bytes)
    chosen = [w for w in workloads.WORKLOADS if _wanted(w.name, options.workload)]
    async with contextlib.AsyncExitStack() as closing:
        started, skipped = await start_all(contestants, space, closing)
        results = await workloads.compare(
            started, chosen, space, rounds=options.rounds, seconds=options.seconds, say=_say
        )
    lines = report.summarise(results, BASELINE)
    return report.ordered(lines, [w.name for w in chosen], [c.name for c in started]), skipped


def _wanted(name: str, parts: Sequence[str]) -> bool:
    """Whether a part of the name was asked for, or with `=` in front the whole of it."""
    return not parts or any(
        name == part[1:] if part.startswith("=") else part in name for part in parts
    )


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    names = ("ray", "uvloop", "msgpack", "redis", "hiredis")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the floors and the peers, side by side.")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="limit of a workload in a round (default 0.4)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        help="contestants so named (a part will do, or =NAME); repeatable",
    )
    parser.add_argument(
        "--workload",
        action="append",
        default=[],
        help="workloads so named (a part will do); repeatable",
    )
    parser.add_argument("--value-bytes", type=int, default=workloads.VALUE_BYTES)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every round there as well")
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, extra: Sequence[workloads.Contestant] = ()
) -> list[dict[str, Any]]:
    """Measure, print, save. `extra` are contestants of others: they join the same rounds."""
    options = options_of(argv)
    # The baseline always runs: without it there is nothing to be a ratio of.
    chosen = [
        contestant
        for contestant in [*floors_and_peers(), *extra]
        if contestant.name == BASELINE or _wanted(contestant.name, options.only)
    ]
    facts = machine()
    with own_ray():
        lines, skipped = uvloop.run(run(chosen, options))
    facts |= {"load_after": os.getloadavg()[0], "skipped": skipped}
    facts["settings"] = {name: str(value) for name, value in vars(options).items()}
    loads = f"load average {facts['load_before']:.1f} before, {facts['load_after']:.1f} after"
    report.show(lines, BASELINE, [f"{facts['cpus']} CPUs, {loads}", *skipped])
    if options.json:
        report.save(options.json, lines, facts)
    return lines


if __name__ == "__main__":
    main()
