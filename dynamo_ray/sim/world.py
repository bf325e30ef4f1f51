"""Virtual time: one agenda, hosts with clocks of their own, and chance that comes from one seed.

The simulator's shells are the twins of those in `server`: they perform the machines' effects and
turn the world into events, and hold no policy. Time is a whole number of microseconds and moves
only from event to event; ties are broken by the order of planning. Chance is split into named
streams, so that one more draw in the network does not shift what the disk does. The digest of all
events (time, host, number, kind) says whether two runs were the same run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Any

SECOND = 1_000_000
MILLISECOND = 1_000
EPOCH_MS = 1_700_000_000_000

Action = Callable[..., None]
Event = tuple[int, int, "Host | None", int, str, Action, tuple[Any, ...]]


class Host:
    """Something that runs, stops, starts again, and has clocks of its own."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.run = 1
        self.up = True
        self.paused = False
        self.offset_us = 0
        self.skew_ms = 0
        self.backlog: list[tuple[int, str, Action, tuple[Any, ...]]] = []
        world.hosts[name] = self

    @property
    def mono_us(self) -> int:
        """The host's monotonic clock; its zero is its own."""
        return self.world.now + self.offset_us

    @property
    def mono_s(self) -> float:
        """The host's monotonic clock in seconds, as the machines take it."""
        return self.mono_us / SECOND

    @property
    def mono_ms(self) -> int:
        """The host's monotonic clock in milliseconds, as expiries are given."""
        return self.mono_us // MILLISECOND

    @property
    def wall_ms(self) -> int:
        """What the host takes for the time of day."""
        return EPOCH_MS + self.world.now // MILLISECOND + self.skew_ms

    def after(self, delay_us: int, kind: str, action: Action, *args: Any) -> None:
        """Plan an event of this run of the host; a crash in between takes it away."""
        self.world.plan(delay_us, self, kind, action, args)

    def end_run(self) -> None:
        """The host stops: nothing that was planned for this run will happen."""
        self.up = False
        self.paused = False
        self.run += 1
        self.backlog.clear()

    def resume(self) -> None:
        """A paused host goes on: all that came meanwhile is handled now, late, in order."""
        self.paused = False
        backlog, self.backlog = self.backlog, []
        for at, (run, kind, action, args) in enumerate(backlog):
            if run == self.run:
                self.world.plan(at, self, kind, action, args)


class World:
    """The agenda, the clock, the hosts, the streams of chance and the digest."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0
        self.events = 0
        self.hosts: dict[str, Host] = {}
        self.on_event: Callable[[str, str], None] | None = None
        self._agenda: list[Event] = []
        self._planned = 0
        self._digest = blake2b(digest_size=16)
        self._streams: dict[str, Random] = {}

    def stream(self, name: str) -> Random:
        """The stream of chance of this name; the same for the same seed."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = Random(f"{self.seed}/{name}")
        return found

    def plan(
        self,
        delay_us: int,
        host: Host | None,
        kind: str,
        action: Action,
        args: tuple[Any, ...] = (),
    ) -> None:
        """Plan an event; `host` None is the outside, which never stops."""
        self._planned += 1
        run = host.run if host is not None else 0
        event = (self.now + delay_us, self._planned, host, run, kind, action, args)
        heapq.heappush(self._agenda, event)

    def step(self) -> bool:
        """Let the next event happen; False if there is none."""
        if not self._agenda:
            return False
        at, number, host, run, kind, action, args = heapq.heappop(self._agenda)
        self.now = at
        if host is not None:
            if run != host.run:
                return True
            if host.paused:
                host.backlog.append((run, kind, action, args))
                return True
        self.events += 1
        name = host.name if host is not None else "-"
        self._digest.update(b"%d %s %d %s;" % (at, name.encode(), number, kind.encode()))
        action(*args)
        if self.on_event is not None:
            self.on_event(name, kind)
        return True

    def run_until(self, at_us: int, done: Callable[[], bool] | None = None) -> bool:
        """Go on until `at_us`, or until `done`; True if it was done."""
        while self._agenda and self._agenda[0][0] <= at_us:
            self.step()
            if done is not None and done():
                return True
        self.now = max(self.now, at_us)
        return False

    @property
    def digest(self) -> str:
        """What happened so far, in 32 hex digits."""
        return self._digest.hexdigest()
