"""One drill: clients work, something is broken and heals, and then everything is judged.

    load ──2 s──► act ──lasts_s──► heal ──1 s──► load ends ─► settled? ─► the checkers

`Drilled` says what came out: how many requests failed, the longest time in which a client had no
answer, when somebody suspected the victims, how long after healing no hint was left and all copies
were equal, and what the checkers found.
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

import dynamo_ray
from dynamo_ray.core.kinds import STATUS
from dynamo_ray.errors import DynamoError
from dynamo_ray.sim.checkers import Verdict
from dynamo_ray.sim.history import FAILED, OK, UNKNOWN, History, Read, Write
from tests.chaos.clusters import ROOT, Hurt, environment
from tests.chaos.judging import joined, judged
from tests.chaos.recording import Recorder, now_us
from tests.client.contract import Awaited, fresh

BEFORE_S, AFTER_S = 2.0, 1.0
SETTLE_S = 60.0
WATCH_S = 0.02
JOIN_S = 20.0
SECOND = 1_000_000


@dataclass
class Drilled:
    """What came out of a drill. Counts are of sloppy requests unless they say strict."""

    fault: str
    puts: int = 0
    puts_failed: int = 0
    puts_unknown: int = 0
    gets: int = 0
    gets_failed: int = 0
    strict_failed: int = 0
    longest_gap_s: float = 0.0
    p99_before_ms: float = 0.0
    p99_after_ms: float | None = None
    """Of what was asked for a second after the fault or later, and before it healed."""
    lasted_s: float = 0.0
    """From the fault until it was healed, or until Ray had started again what was killed."""
    detected_s: float | None = None
    settled_s: float | None = None
    lost: int = 0
    found: dict[str, list[str]] = field(default_factory=dict)
    """What checkers found, by checker; a drill that ends well has none."""
    errors: list[str] = field(default_factory=list)
    """What the first clients that failed were told, and when: seconds after the fault."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Load:
    """Clients of three kinds in a thread of their own, and somebody who watches the detectors."""

    def __init__(self, hurt: Hurt, place: str = "") -> None:
        self.recorder = Recorder(fresh("chaos"), place=place)
        self.suspected: list[tuple[int, frozenset[str]]] = []
        self._hurt = hurt
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        assert self._ready.wait(JOIN_S), "the clients did not connect"
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.going = False
        self._thread.join(JOIN_S)
        assert not self._thread.is_alive(), "the clients did not come to an end"
        if self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        try:
            uvloop.run(self._work())
        except BaseException as problem:
            self._problem = problem
            self._ready.set()

    async def _work(self) -> None:
        hurt, recorder = self._hurt, self.recorder
        watching = await hurt.client(timeout_s=0.3)
        by_address, by_itself = await hurt.client(), await hurt.client_by_itself()
        where = {"address": hurt.addresses, "token": hurt.token}
        blocking = await asyncio.to_thread(dynamo_ray.connect, **where)
        self._ready.set()
        try:
            await asyncio.gather(
                recorder.run(by_address, "address"),
                recorder.run(Awaited(blocking), "blocking", own=1, strict=0),
                recorder.run(by_itself, "itself", own=1),
                self._watch(watching),
            )
        finally:
            await asyncio.to_thread(blocking.close)
            for one in (watching, by_address, by_itself):
                await one.close()

    async def _watch(self, client: Any) -> None:
        while self.recorder.going:
            try:
                (told,) = await client.ask(STATUS, ())
                self.suspected.append((now_us(), frozenset(told["suspected"])))
            except DynamoError:
                pass  # a coordinator is the victim
            await asyncio.sleep(WATCH_S)


class Outside:
    """Clients in another process; `history` once it has ended. Its sets are those of `place`."""

    def __init__(self, hurt: Hurt, home: Path, how: str) -> None:
        env = environment(hurt.ray, home)
        env |= {"CHAOS_ADDRESSES": ",".join(hurt.addresses), "CHAOS_TOKEN": hurt.token}
        self.history = History()
        self.place = fresh("both")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.outside", how, hurt.name, self.place],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            self.kill()
            raise AssertionError("the clients of the other process did not connect")

    def close(self) -> None:
        """Let them come to an end, and take what they wrote down."""
        try:
            told, _ = self.process.communicate(timeout=JOIN_S)
            self.history = pickle.loads(told)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def drill(
    hurt: Hurt,
    fault: str,
    act: Callable[[], Any] = lambda: None,
    heal: Callable[[], Any] = lambda: None,
    lasts_s: float = 3.0,
    victims: Collection[str] = (),
    outside: Outside | None = None,
    settles: bool = True,
) -> Drilled:
    """Do it; asserts nothing. `settles`: all nodes are expected to be there in the end."""
    with (
        Load(hurt, outside.place if outside else "") as load,
        closing(outside) if outside else nullcontext(),
    ):
        time.sleep(BEFORE_S)
        began = now_us()
        try:
            act()
            time.sleep(lasts_s)
        finally:
            heal()
        healed = now_us()
        time.sleep(AFTER_S)
    history = joined([load.recorder.history, *([outside.history] if outside else [])])
    drilled = counted(fault, history, began, healed)
    drilled.lasted_s = round((healed - began) / SECOND, 1)
    told = ((at - began) / SECOND for at, _ in load.recorder.errors)
    texts = (text for _, text in load.recorder.errors)
    drilled.errors = [f"{at:.2f} s: {text}" for at, text in zip(told, texts, strict=True)][:20]
    drilled.detected_s = _detected(load.suspected, began, victims)
    if settles:
        settled = asyncio.run(settle(hurt, history))
        drilled.settled_s = round((settled - healed) / SECOND, 1) if settled else None
    else:
        asyncio.run(take_finals(hurt, history))
    verdicts = judged(history)
    drilled.lost = len(verdicts["nothing_lost"].evidence)
    drilled.found = found_by(verdicts, () if settles else ("copies_equal",))
    return drilled


def found_by(verdicts: dict[str, Verdict], apart: Collection[str] = ()) -> dict[str, list[str]]:
    """What the checkers found, but those apart."""
    wrong = {name: one for name, one in verdicts.items() if not one.ok and name not in apart}
    return {name: list(one.evidence[:5]) for name, one in wrong.items()}


async def settle(hurt: Hurt, history: History) -> int:
    """Wait until no hint is left and all copies are equal; when that was, or 0.

    What a coordinator that was killed did not pass on has no hint; it is read, and so repaired.
    """
    keys = {write.key for write in history.writes}
    deadline = time.monotonic() + SETTLE_S
    client = await hurt.client(timeout_s=5.0)
    try:
        while time.monotonic() < deadline:
            if await asyncio.to_thread(hurt.is_whole):
                now = now_us()
                await take_finals(hurt, history)
                if all(_are_equal(hurt, key, history) for key in keys):
                    return now
                await client.get_many(keys, r=hurt.charter.settings.n)
            await asyncio.sleep(0.1)
    finally:
        await client.close()
    history.calm = False
    return 0


def _are_equal(hurt: Hurt, key: bytes, history: History) -> bool:
    copies = history.finals[key]
    return set(copies) in (set(), set(hurt.owners(key))) and len(set(copies.values())) <= 1


async def take_finals(hurt: Hurt, history: History) -> None:
    """What all nodes hold now, for the checkers."""
    keys = {write.key for write in history.writes}
    history.finals = await hurt.copies(keys)
    history.owners = {key: hurt.owners(key) for key in keys}


# ---- counting


def counted(fault: str, history: History, began: int, healed: int) -> Drilled:
    """The figures of a history, from `began` on."""
    drilled = Drilled(fault)
    sloppy: list[Write | Read] = []
    for one in (*history.writes, *history.reads):
        if one.ended < began:
            continue
        if one.strict:
            drilled.strict_failed += one.outcome != OK
        else:
            sloppy.append(one)
    outcomes = Counter((isinstance(one, Write), one.outcome) for one in sloppy)
    drilled.puts = sum(count for (is_put, _), count in outcomes.items() if is_put)
    drilled.gets = sum(count for (is_put, _), count in outcomes.items() if not is_put)
    drilled.puts_failed, drilled.puts_unknown = outcomes[True, FAILED], outcomes[True, UNKNOWN]
    drilled.gets_failed = drilled.gets - outcomes[False, OK]
    drilled.longest_gap_s = _longest_gap_s(sloppy, began)
    all_of = [one for one in (*history.writes, *history.reads) if not one.strict]
    drilled.p99_before_ms = _p99_ms(one for one in all_of if one.ended < began) or 0.0
    late = (one for one in all_of if began + SECOND < one.invoked and one.ended < healed)
    drilled.p99_after_ms = _p99_ms(late)
    return drilled


def _longest_gap_s(operations: list[Write | Read], began: int) -> float:
    """The longest time, since the fault, in which a worker had no answer that was ok."""
    ends = defaultdict(lambda: [began])
    for one in sorted(operations, key=lambda one: one.ended):
        ends[one.client]
        if one.outcome == OK:
            ends[one.client].append(one.ended)
    last = max((one.ended for one in operations), default=began)
    gaps = [
        b - a for times in ends.values() for a, b in zip(times, [*times[1:], last], strict=True)
    ]
    return round(max(gaps, default=0) / SECOND, 2)


def _p99_ms(operations: Iterator[Write | Read]) -> float | None:
    took = sorted(one.ended - one.invoked for one in operations)
    return round(took[len(took) * 99 // 100] / 1000, 1) if len(took) >= 100 else None


def _detected(
    suspected: list[tuple[int, frozenset[str]]], began: int, victims: Collection[str]
) -> float | None:
    """Seconds until a coordinator suspected one of the victims; None if none did."""
    for at, names in suspected:
        if at >= began and names & set(victims):
            return round((at - began) / SECOND, 2)
    return None
