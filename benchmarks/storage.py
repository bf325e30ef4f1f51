"""What a node's storage costs: memory, writes, snapshots, recovery, durability. No Ray.

    python benchmarks/storage.py                      # all parts, in about ten minutes
    python benchmarks/storage.py --part recovery --rounds 9 --json run.json

Parts: memory, writes, snapshot, recovery, durability, holds. Rounds are interleaved, and what is
compared has a twin that differs in nothing ("again"): a difference as small as the twin's is none.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import pyarrow as pa  # noqa: E402
import uvloop  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import report, workloads  # noqa: E402
from benchmarks.alone import Alone, load, resident_bytes  # noqa: E402
from benchmarks.floor import machine  # noqa: E402
from benchmarks.report import Round, number  # noqa: E402
from benchmarks.workloads import Keyspace, Workload  # noqa: E402
from dynamo_ray.core.messages import Mint, Persist  # noqa: E402
from dynamo_ray.core.replica import Replica  # noqa: E402
from dynamo_ray.core.ring import partition_of  # noqa: E402
from dynamo_ray.core.settings import Settings  # noqa: E402
from dynamo_ray.server.snapshots import SLICE_KEYS, slice_of  # noqa: E402
from dynamo_ray.storage.codec import Columns  # noqa: E402
from dynamo_ray.storage.disk import RealDisk  # noqa: E402
from dynamo_ray.storage.ownership import Opening  # noqa: E402
from dynamo_ray.storage.store import Store  # noqa: E402

PARTITIONS, VALUE_BYTES, KEY_BYTES = 256, 100, 16
LEVELS = ("memory", "written", "synced")
QUIET, AGAIN, BUSY = "quiet", "quiet again", "beside a snapshot"
Rows = list[dict[str, Any]]


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def in_a_process(function: Callable[..., Any], *given: Any) -> Any:
    """Call it in a fresh process: memory is what that uses, and no other part has been there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder for the time being."""
    folder = tempfile.mkdtemp(prefix="drs", dir="/tmp")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- records as a node makes them


def opened(folder: Path) -> Store:
    """A node's store, not read back yet."""
    me = b"N" * 8
    opening = Opening(b"C" * 16, me, me, "n1", PARTITIONS, "written", "boot", 1_000, True)
    return Store.open(RealDisk(folder), opening)


def minted(replica: Replica, count: int, group: int, first: int = 0) -> Iterator[Persist]:
    """New keys up to the `count`th, minted in groups, as what the log is to be given."""
    for at in range(first, count, group):
        keys = [b"key-%012d" % n for n in range(at, min(count, at + group))]
        places = [partition_of(key, PARTITIONS) for key in keys]
        values = [os.urandom(VALUE_BYTES) for _ in keys]
        nothing: list[Any] = [None] * len(keys)
        ids = [os.urandom(16) for _ in keys]
        zeros = [0] * len(keys)
        effects = replica.on_mint(None, Mint(keys, places, values, nothing, ids, zeros), 1_000)
        yield from (effect for effect in effects if isinstance(effect, Persist))
        replica.on_persisted(replica.queue.last)


def new_replica() -> Replica:
    """A replica that owns everything and holds nothing."""
    owned = frozenset(range(PARTITIONS))
    replica = Replica(b"N" * 8, Settings(), [{} for _ in owned], owned)
    replica.on_incarnation(b"i" * 14)
    return replica


def fill(folder: Path, count: int, *, group: int, held: float, keeps_log: bool = True) -> None:
    """A node's directory: so many records in groups, that share of them first and in a snapshot.

    `keeps_log`: the log that the snapshot holds is still there, as it is for two minutes.
    """
    store, replica = opened(folder), new_replica()
    store.recover()
    store.new_incarnation(1_000, b"r" * 8)
    one = None
    for one in minted(replica, int(count * held), group):
        store.append_columns(Columns(one.partitions, one.keys, one.states, one.hints))
    if one is not None:
        _snapshot(store, replica)
    if one is not None and not keeps_log:
        store.append_columns(Columns(one.partitions, one.keys, one.states, one.hints))
        store.cut_log()
    for one in minted(replica, count, group, first=int(count * held)):
        store.append_columns(Columns(one.partitions, one.keys, one.states, one.hints))
    store.close()


def _snapshot(store: Store, replica: Replica) -> None:
    taking = store.begin_snapshot()
    for partition, of in enumerate(replica.maps):
        keys = list(of)
        parts = (keys[at : at + SLICE_KEYS] for at in range(0, len(keys), SLICE_KEYS))
        taking.write_columns(partition, (slice_of(replica, partition, part)[0] for part in parts))
    taking.finish()
    store.cut_log()


# ---- memory


def memory(options: argparse.Namespace) -> Rows:
    """Bytes per key beyond the key's and the value's own, after puts and after a recovery."""
    with a_folder() as folder:
        by_puts = in_a_process(_memory_of_puts, options.keys)
        in_a_process(_fill_for_memory, folder, options.keys)
        by_recovery = in_a_process(_memory_of_recovery, folder)
    return [
        {"what": what, "keys": options.keys, **found}
        for what, found in (("after puts", by_puts), ("after a recovery", by_recovery))
    ]


def _fill_for_memory(folder: Path, count: int) -> None:
    fill(folder, count, group=1000, held=1.0, keeps_log=False)


def _memory_of_puts(count: int) -> dict[str, float]:
    before, replica = _settled(), new_replica()
    for _ in minted(replica, count, 1000):
        pass
    return _per_key(replica.maps, _settled() - before)


def _memory_of_recovery(folder: Path) -> dict[str, float]:
    store = opened(folder)
    before = _settled()
    maps = store.recover().maps
    return _per_key(maps, _settled() - before)


def _settled() -> int:
    gc.collect()
    return resident_bytes()


def _per_key(maps: list[dict[bytes, bytes]], resident: int) -> dict[str, float]:
    """What a key costs: all of it, and of what it is made."""
    count = sum(map(len, maps))
    payload = KEY_BYTES + VALUE_BYTES
    of_dicts = sum(map(sys.getsizeof, maps)) / count
    of_keys = sum(sys.getsizeof(key) for of in maps for key in of) / count
    of_states = sum(sys.getsizeof(state) for of in maps for state in of.values()) / count
    heads = sum(len(state) for of in maps for state in of.values()) / count - VALUE_BYTES
    return {
        "resident_overhead": resident / count - payload,
        "counted_overhead": of_dicts + of_keys + of_states - payload,
        "dict_entry": of_dicts,
        "key_object": of_keys - KEY_BYTES,
        "state_object": of_states - VALUE_BYTES - heads,
        "state_head": heads,
        "dicts_tracked_by_gc": sum(map(gc.is_tracked, maps)),
    }


# ---- bytes written


async def writes(options: argparse.Namespace) -> Rows:
    """Bytes that the log and a snapshot write per byte of value put, by level and way of putting.

    `blocks`: bytes of the pages that went to the disk, as the kernel counts them.
    """
    rows: Rows = []
    for level in LEVELS:
        node = Alone(level, level)
        await node.start()
        try:
            for verb, in_flight, calls in (
                ("put", 1, 2000),
                ("put", 64, 8000),
                ("put_many", 1, 40),
            ):
                space = Keyspace(seed=calls)
                before = await node.ask("status")
                call = workloads.call_of(node, verb, space)
                await workloads.closed_loop(call, in_flight, calls, 60.0)
                await asyncio.sleep(1.5)  # the periodic fsync
                after = await node.ask("status")
                work = Workload(verb, in_flight, calls, 0)
                values = calls * work.keys_per_call * VALUE_BYTES
                taken = await node.ask("snapshot")
                held = after["keys"] * VALUE_BYTES
                rows.append(
                    {
                        "level": level,
                        "what": work.name,
                        "log": (after["log_bytes"] - before["log_bytes"]) / values,
                        "blocks": (after["blocks"] - before["blocks"]) / values,
                        "snapshot": taken["bytes"] / held,
                    }
                )
        finally:
            await node.close()
    return rows


# ---- a snapshot beside the foreground

BESIDE = (
    Workload("put", 1, 4_000, 50),
    Workload("get", 8, 8_000, 50),
    Workload("put", 64, 16_000, 100),
)


async def snapshot(options: argparse.Namespace) -> tuple[Rows, list[dict[str, Any]]]:
    """How fast one is taken, and what it does to requests meanwhile."""
    space = Keyspace(keys=options.snapshot_keys)
    results: dict[tuple[str, str], list[Round]] = {}
    taken: list[dict[str, Any]] = []
    node = Alone("node")
    await node.start()
    try:
        await load(node, space)
        gc.freeze()
        taken.append({"beside": "nothing", **await node.ask("snapshot")})
        for turn in range(options.rounds):
            _say(f"snapshot: round {turn + 1} of {options.rounds}")
            for work in BESIDE:
                states = [QUIET, AGAIN, BUSY]
                for state in [*states[turn % 3 :], *states[: turn % 3]]:
                    one, wrote = await _beside(node, work, space, state, options.seconds)
                    results.setdefault((work.name, state), []).append(one)
                    taken += [{"beside": work.name, **wrote}] if wrote else []
    finally:
        await node.close()
    lines = report.summarise(results, QUIET)
    ordered = report.ordered(lines, [w.name for w in BESIDE], [QUIET, AGAIN, BUSY])
    return [
        _snapshot_row(taken, name) for name in dict.fromkeys(t["beside"] for t in taken)
    ], ordered


async def _beside(
    node: Alone, work: Workload, space: Keyspace, state: str, seconds: float
) -> tuple[Round, dict[str, Any] | None]:
    """One closed loop, and whether a snapshot is being taken all the while."""
    call = workloads.call_of(node, work.verb, space)
    await workloads.closed_loop(call, work.in_flight, work.warm_up, seconds)
    taking = asyncio.ensure_future(node.ask("snapshot")) if state == BUSY else None
    if taking is not None:
        await asyncio.sleep(0.05)
    latencies, elapsed = await workloads.closed_loop(call, work.in_flight, work.calls, seconds)
    if taking is not None and taking.done():
        raise AssertionError("the snapshot was over before the loop: give more --snapshot-keys")
    wrote = await taking if taking is not None else None
    await asyncio.sleep(workloads.SETTLE_S)
    return Round(tuple(latencies), elapsed), wrote


def _snapshot_row(taken: Sequence[dict[str, Any]], beside: str) -> dict[str, Any]:
    ours = [one for one in taken if one["beside"] == beside]
    return {
        "beside": beside,
        "records": ours[0]["records"],
        "seconds": median(one["seconds"] for one in ours),
        "records_per_s": median(one["records"] / one["seconds"] for one in ours),
        "mb_per_s": median(one["bytes"] / one["seconds"] for one in ours) / 1e6,
        "hold_ms": median(one["hold_ms"] for one in ours),
    }


# ---- recovery

KINDS = {
    "log of single puts": {"group": 1, "held": 0.0},
    "log of groups of 64": {"group": 64, "held": 0.0},
    "snapshot": {"group": 1000, "held": 1.0, "keeps_log": False},
    "snapshot, and the log it holds": {"group": 64, "held": 1.0},
    "half snapshot, half log of 64": {"group": 64, "held": 0.5, "keeps_log": False},
}
FLOOR = "floor: the snapshot by plain pyarrow"


def recovery(options: argparse.Namespace) -> Rows:
    """Records per second of CPU time; the floor is plain pyarrow, lists and dicts, unchecked."""
    with a_folder() as folder:
        for kind, how in KINDS.items():
            _say(f"recovery: writing {kind}")
            in_a_process(_fill_kind, folder / kind, options.recovery_keys, how)
        return list(in_a_process(_recovery, folder, options.recovery_keys, options.rounds))


def _fill_kind(folder: Path, count: int, how: dict[str, Any]) -> None:
    fill(folder, count, **how)


def _recovery(folder: Path, count: int, rounds: int) -> Rows:
    found: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds):
        _say(f"recovery: round {turn + 1} of {rounds}")
        for kind in KINDS:
            found.setdefault(kind, []).append(_timed(count, lambda: _recovered(folder / kind)))  # noqa: B023
            if kind == "snapshot":
                for name in (FLOOR, FLOOR + ", again"):
                    took = _timed(count, lambda: _by_pyarrow(folder / "snapshot"))
                    found.setdefault(name, []).append(took)
    return [
        {
            "what": what,
            "records_per_cpu_s": median(count / cpu for cpu, _ in times),
            "records_per_s": median(count / wall for _, wall in times),
            "of_floor": median(
                base / cpu for (cpu, _), (base, _) in zip(times, found[FLOOR], strict=True)
            ),
        }
        for what, times in found.items()
    ]


def _timed(count: int, act: Callable[[], int]) -> tuple[float, float]:
    gc.collect()
    cpu, wall = process_time(), perf_counter()
    held = act()
    took = process_time() - cpu, perf_counter() - wall
    assert held == count, f"{held} of {count} are there"
    return took


def _recovered(folder: Path) -> int:
    store = opened(folder)
    found = store.recover(lambda key, before, after: None)
    store._disk.close()
    return sum(map(len, found.maps))


def _by_pyarrow(folder: Path) -> int:
    maps = []
    for path in sorted(folder.glob("snap-*/*.arrow")):
        with pa.ipc.open_file(path) as file:
            batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        keys = [key for batch in batches for key in batch.column(1).to_pylist()]
        states = [state for batch in batches for state in batch.column(2).to_pylist()]
        maps.append(dict(zip(keys, states, strict=True)))
    return sum(map(len, maps))


# ---- durability levels

DURABLE = (Workload("put", 1, 1_000, 50), Workload("put", 64, 8_000, 200))


async def durability(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A put at each level, for one writer and for 64; the baseline is `written`."""
    nodes = [Alone(level, level) for level in LEVELS]
    nodes.append(Alone("written, again", "written"))
    space = Keyspace()
    try:
        for node in nodes:
            await node.start()
            await load(node, space)
        results = await workloads.compare(
            nodes, DURABLE, space, rounds=options.rounds, seconds=options.seconds, say=_say
        )
    finally:
        for node in nodes:
            await node.close()
    lines = report.summarise(results, "written")
    return report.ordered(lines, [w.name for w in DURABLE], [node.name for node in nodes])


# ---- holds


def holds(options: argparse.Namespace) -> Rows:
    """How long a snapshot's looks hold the loop, by keys in one partition; no other work beside."""
    return list(in_a_process(_holds, options.rounds))


def _holds(rounds: int) -> Rows:
    rows: Rows = []
    for count in (4_000, 60_000, 250_000, 1_000_000):
        of = {b"key-%012d" % n: os.urandom(200) for n in range(count)}
        replica = Replica(b"N" * 8, Settings(partitions=1), [of], frozenset())
        listing, slices = [], []
        for _ in range(rounds):
            began = perf_counter()
            keys = list(of)
            listing.append(perf_counter() - began)
            for at in range(0, min(count, 200 * SLICE_KEYS), SLICE_KEYS):
                began = perf_counter()
                slice_of(replica, 0, keys[at : at + SLICE_KEYS])
                slices.append(perf_counter() - began)
        rows.append(
            {
                "keys in one partition": count,
                "list_ms": median(listing) * 1000,
                "slice_ms": median(slices) * 1000,
                "slice_p99_ms": (report.percentile(slices, 990) or max(slices)) * 1000,
            }
        )
    return rows


# ---- the page


def plain_table(title: str, rows: Rows) -> Table:
    """Rows of one shape as a table."""
    page = Table(title=title, title_justify="left")
    for at, name in enumerate(rows[0]):
        page.add_column(name.replace("_", " "), justify="right" if at else "left")
    for row in rows:
        page.add_row(*[one if isinstance(one, str) else number(float(one)) for one in row.values()])
    return page


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure what a node's storage costs.")
    parts = ("memory", "writes", "snapshot", "recovery", "durability", "holds")
    parser.add_argument("--part", action="append", choices=parts, help="repeatable; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="limit of a closed loop (1)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="for memory (1,000,000)")
    parser.add_argument("--recovery-keys", type=int, default=200_000)
    parser.add_argument("--snapshot-keys", type=int, default=200_000)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all of it there as well")
    options = parser.parse_args(argv)
    options.part = options.part or list(parts)
    return options


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, save."""
    options = options_of(argv)
    facts: dict[str, Any] = {**machine(), "settings": {k: str(v) for k, v in vars(options).items()}}
    console = Console(width=report.TABLE_WIDTH)
    for part in options.part:
        _say(f"{part} …")
        work = globals()[part](options)
        found = uvloop.run(work) if asyncio.iscoroutine(work) else work
        plain, lines = found if isinstance(found, tuple) else (found, [])
        if part == "durability":
            plain, lines = [], found
        facts[part] = {"rows": plain, "lines": lines}
        if plain:
            console.print(plain_table(part, plain))
        if lines:
            console.print(report.table(lines, "written" if part == "durability" else QUIET))
    facts["load_after"] = os.getloadavg()[0]
    console.print(
        f"{facts['cpus']} CPUs, load {facts['load_before']:.1f} … {facts['load_after']:.1f}"
    )
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return facts


if __name__ == "__main__":
    main()
