"""Clients that work, and a watch over the members, while something happens to machines."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.conftest import Machines
from tests.cluster.hosts import ROOT

LASTS_S = 12.0
READ_S = 60.0

Said = dict[str, Any]


def wait(condition: Callable[[], Any], timeout_s: float, what: str, each_s: float = 0.5) -> float:
    """Wait until it is true; how long that took in seconds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + timeout_s, f"{what} did not come in {timeout_s:g} s"
        time.sleep(each_s)
    return time.monotonic() - begun


def profile(carts: Machines, host: str) -> None:
    """Let clients on that host find the cluster."""
    known = carts.head.folder / "home/.dynamo_ray/clusters/carts.json"
    there = carts.hosts[host].folder / "home/.dynamo_ray/clusters"
    there.mkdir(parents=True, exist_ok=True)
    (there / "carts.json").write_text(known.read_text())


# ---- load


def under_load(
    carts: Machines, act: Callable[[], Any], host: str = "head", **load: float
) -> dict[str, Any]:
    """What a client on that host was told while it happened."""
    [told] = all_under_load(carts, act, host, **load)
    return told


def all_under_load(
    carts: Machines,
    act: Callable[[], Any],
    *hosts: str,
    lasts_s: float = LASTS_S,
    workers: int = 1,
    size: int = 0,
) -> list[dict[str, Any]]:
    """The same for clients on several hosts: so long, `workers` at a time, values so large."""
    words = f"load {lasts_s} {time.monotonic_ns()} {workers} {size}"
    clients = [begun(carts, words, host) for host in hosts]
    try:
        for client in clients:
            is_ready(client)
        time.sleep(1.0)
        act()
        told = [json.loads(c.communicate(timeout=lasts_s + READ_S)[0]) for c in clients]
    finally:
        for client in clients:
            end(client)
    print([summary(one) for one in told])
    return told


def summary(told: dict[str, Any]) -> dict[str, Any]:
    """In few words."""
    short = {**told, "lost": len(told["lost"]), "p99_ms": p99s(told["took"])}
    del short["took"]
    return short


def p99s(took: list[list[float]], since: float = 0.0, until: float = math.inf) -> list[float]:
    """Of puts and of gets that began in that time: what 99 of 100 stayed within, in ms."""
    took = [one for one in took if since <= one[0] < until]
    columns = (sorted(column) for column in list(zip(*took, strict=True))[1:])
    return [round(1000 * column[len(column) * 99 // 100], 1) for column in columns]


# ---- watching


class Watched:
    """What members said of each other; `seen` once the watch has ended."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str, Said]] = []

    def first(self, since: float, condition: Callable[[dict[str, Said]], bool]) -> float | None:
        """How long after `since` it was first true of what all had said last; None if never."""
        last: dict[str, Said] = {}
        for at, member, said in self.seen:
            if at > since and condition(last):
                return 0.0
            last[member] = said
            if at > since and condition(last):
                return round(at - since, 1)
        return 0.0 if condition(last) else None

    def suspicions(self, since: float) -> list[tuple[float, str, str, float]]:
        """From `since` on: after how many seconds, who suspected whom, and for how long.

        One that did not end lasts to the last word of anybody.
        """
        begun: dict[tuple[str, str], float] = {}
        found = []
        for at, member, said in self.seen:
            for who, whom in list(begun):
                if who == member and whom not in said["suspected"]:
                    found.append((begun.pop((who, whom)), at, who, whom))
            for whom in said["suspected"]:
                begun.setdefault((member, whom), at)
        found += [(at, self.seen[-1][0], who, whom) for (who, whom), at in begun.items()]
        return [
            (round(at - since, 1), who, whom, round(end - at, 1))
            for at, end, who, whom in sorted(found)
            if at >= since
        ]


@contextmanager
def watched(carts: Machines, host: str = "head") -> Iterator[Watched]:
    """Watch all members meanwhile, from that host."""
    found, watch = Watched(), begun(carts, "watch", host)
    try:
        is_ready(watch)
        yield found
        found.seen = json.loads(watch.communicate(timeout=READ_S)[0])
    finally:
        end(watch)


def all_connected(last: dict[str, Said]) -> bool:
    """True if each member is connected to all nodes and suspects none."""
    nodes = {name for name in last if name.startswith("n")}
    return all(
        {member, *said["connected"]} >= nodes and not said["suspected"]
        for member, said in last.items()
    )


def no_hints(last: dict[str, Said]) -> bool:
    """True if no member keeps a copy for another."""
    return not any(said["hints"] for said in last.values())


# ---- programs of ours on hosts


def begun(carts: Machines, words: str, host: str) -> subprocess.Popen[str]:
    """`python -m tests.cluster.WORDS` on that host."""
    command = carts.hosts[host].command(f"cd {ROOT} && exec python -m tests.cluster.{words}")
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def is_ready(program: subprocess.Popen[str]) -> None:
    """Wait until it says so."""
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"


def end(program: subprocess.Popen[str]) -> None:
    """It has ended, or is ended now."""
    program.kill()
    program.communicate()
