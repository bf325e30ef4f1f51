"""What is measured, and how: keys, values, the workloads, and the rounds that compare contestants.

A contestant is anything with the six calls below. A workload is a closed loop: so many calls in
flight, a fixed number of calls, and a time limit for those who are slow. The machine is shared and
noisy, so contestants take turns within every workload of every round, each round starts with
another one, and whatever is reported is a median over rounds (report.py).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from benchmarks.report import Round

KEYS = 10_000
KEYS_PER_CALL = 1_000
VALUE_BYTES = 100

# Stragglers (the third copy) and garbage of one contestant must not run on the next one's clock.
SETTLE_S = 0.02


class Missing(Exception):
    """A contestant cannot be started here, and the message says what to install."""


class Contestant(Protocol):
    """A store, or the floor of one. `start` may raise Missing; `close` leaves no process behind."""

    name: str
    # Set before each workload: how many calls will be outstanding. Some clients have a blocking
    # door that is faster for one call at a time and an asynchronous one that is faster for many.
    in_flight: int
    # What it takes part in; nearly always VERBS.
    verbs: Sequence[str]

    async def start(self) -> None: ...
    async def put(self, key: bytes, value: bytes) -> object: ...
    async def get(self, key: bytes) -> bytes | None: ...
    async def put_many(self, mapping: Mapping[bytes, bytes]) -> object: ...

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values in the order of the keys."""

    async def close(self) -> None: ...


VERBS = ("put", "get", "put_many", "get_many")


@dataclass(frozen=True)
class Workload:
    """One closed loop: `calls` in each round, after `warm_up` calls that are not measured."""

    verb: str
    in_flight: int
    calls: int
    warm_up: int

    @property
    def keys_per_call(self) -> int:
        return KEYS_PER_CALL if self.verb.endswith("_many") else 1

    @property
    def name(self) -> str:
        if self.keys_per_call > 1:
            return f"{self.verb}, {self.keys_per_call:,} keys"
        return f"{self.verb}, " + (
            f"{self.in_flight} in flight" if self.in_flight > 1 else "one at a time"
        )


# Counts that the wire floor does in about a third of a second. 2,000 calls carry a p99.9.
WORKLOADS = (
    Workload("put", 1, 2_000, 100),
    Workload("get", 1, 2_000, 100),
    Workload("put", 8, 4_000, 200),
    Workload("get", 8, 4_000, 200),
    Workload("put", 64, 8_000, 500),
    Workload("get", 64, 8_000, 500),
    Workload("put_many", 1, 250, 10),
    Workload("get_many", 1, 250, 10),
)


class Keyspace:
    """16-byte keys, random values, and batches of both, all made before any clock runs."""

    def __init__(self, seed: int = 7, keys: int = KEYS, value_bytes: int = VALUE_BYTES) -> None:
        chance = random.Random(seed)
        self.keys = [b"key-%012d" % number for number in range(keys)]
        chance.shuffle(self.keys)
        self.values = [chance.randbytes(value_bytes) for _ in range(keys)]
        self.batches = [
            dict(zip(self.keys[at : at + KEYS_PER_CALL], self.values[at:], strict=False))
            for at in range(0, keys, KEYS_PER_CALL)
        ]
        self.key_batches = [list(batch) for batch in self.batches]


def call_of(
    contestant: Contestant, verb: str, space: Keyspace
) -> Callable[[int], Awaitable[object]]:
    """The n-th call of a workload. Puts rotate the values, so that no put repeats what is there."""
    keys, values, size = space.keys, space.values, len(space.keys)
    batches, key_batches = space.batches, space.key_batches
    if verb == "put":
        put = contestant.put
        return lambda n: put(keys[n % size], values[(n + n // size) % size])
    if verb == "get":
        get = contestant.get
        return lambda n: get(keys[n % size])
    if verb == "put_many":
        put_many = contestant.put_many
        return lambda n: put_many(batches[n % len(batches)])
    get_many = contestant.get_many
    return lambda n: get_many(key_batches[n % len(key_batches)])


async def closed_loop(
    call: Callable[[int], Awaitable[object]], in_flight: int, calls: int, seconds: float
) -> tuple[list[float], float]:
    """`in_flight` loops share one count; none begins a call after the limit. Latencies, elapsed."""
    latencies: list[float] = []
    numbers = itertools.count()
    started = perf_counter()

    async def one_loop() -> None:
        for number in numbers:
            begun = perf_counter()
            if number >= calls or begun - started > seconds:
                return
            await call(number)
            latencies.append(perf_counter() - begun)

    if in_flight == 1:
        await one_loop()
    else:
        await asyncio.gather(*(one_loop() for _ in range(in_flight)))
    return latencies, perf_counter() - started


async def measure(
    contestant: Contestant, workload: Workload, space: Keyspace, seconds: float
) -> Round:
    contestant.in_flight = workload.in_flight
    call = call_of(contestant, workload.verb, space)
    await closed_loop(call, workload.in_flight, workload.warm_up, seconds / 4)
    gc.collect()
    latencies, elapsed = await closed_loop(call, workload.in_flight, workload.calls, seconds)
    await asyncio.sleep(SETTLE_S)
    return Round(tuple(latencies), elapsed, workload.keys_per_call)


async def load_and_check(contestant: Contestant, space: Keyspace) -> None:
    """Fill it, and see that it is a store at all: what was put comes back, by every verb it has."""
    contestant.in_flight = 1
    for batch in space.batches:
        await contestant.put_many(batch)
    if "put" in contestant.verbs:
        probe = space.values[0][::-1]
        await contestant.put(space.keys[0], probe)
        _same(contestant, await contestant.get(space.keys[0]), probe)
        await contestant.put(space.keys[0], space.values[0])
    for batch in space.batches:
        _same(contestant, list(await contestant.get_many(list(batch))), list(batch.values()))


def _same(contestant: Contestant, found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{contestant.name} does not give back what was put")


async def compare(
    contestants: Sequence[Contestant],
    workloads: Sequence[Workload],
    space: Keyspace,
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> dict[tuple[str, str], list[Round]]:
    """The interleaved rounds: (workload, contestant) → one Round each. Expects them loaded."""
    results: dict[tuple[str, str], list[Round]] = {}
    gc.freeze()  # the keyspace is not to be scanned again in the middle of a measurement
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        turn = number % len(contestants)
        for workload in workloads:
            for contestant in [*contestants[turn:], *contestants[:turn]]:
                if workload.verb in contestant.verbs:
                    taken = await measure(contestant, workload, space, seconds)
                    results.setdefault((workload.name, contestant.name), []).append(taken)
    return results


def shortened(workloads: Sequence[Workload], share: float) -> list[Workload]:
    """The same workloads with fewer calls, for a quick look."""
    return [replace(w, calls=max(w.in_flight, int(w.calls * share))) for w in workloads]
