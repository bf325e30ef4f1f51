"""Gets in flight: ask the owners, answer at R, repair whoever was behind (Dynamo §4.5, §5).

    start ─► asking ── R owners answered ──────────► Done ─► late answers ─► read repair ─► closed
               │ an owner fails: a later node is asked in its place
               └ everybody asked has answered or failed, fewer than R owners:
                   strict: unavailable · sloppy: what is held, degraded (unavailable if nothing)

Only an owner's answer counts towards R, and only if the owner can prove that it holds all it ever
acknowledged (rule 9). A stand-in's "I hold nothing" never counts; what it does hold is merged in.
Answers are compared as bytes and merged only where they differ. Repair is a write caused by a read;
it waits until nobody is pending any more, so that each node behind gets one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import (
    Code,
    Done,
    Effect,
    Failure,
    Fetch,
    Fetched,
    GetOutcome,
    Merge,
    Send,
)
from dynamo_ray.core.routing import Route, StandIns

States = Sequence[bytes | None]


class Get:
    """One list of gets that share a route; `r` owners' answers decide it."""

    def __init__(
        self, fetch: Fetch, route: Route, r: int, strict: bool = False, repair: bool = True
    ) -> None:
        self._fetch = fetch
        self._route = route
        self._r = r
        self._strict = strict
        self._repairs = repair
        self._stand_ins = StandIns(route)
        self._pending: set[bytes] = set()
        self._hopeless: set[bytes] = set()
        self._counted: set[bytes] = set()
        self._answers: dict[bytes, States] = {}
        self._merged: list[bytes | None] | None = None
        self._answered = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once nothing more will come of this get."""
        return self._closed

    @property
    def answered(self) -> bool:
        """True once the caller has its answer."""
        return self._answered

    def start(self) -> list[Effect]:
        """Ask the owners; where fewer than R of them are held to be alive, later nodes too."""
        suspected = self._route.suspected
        healthy = [owner for owner in self._route.owners if owner not in suspected]
        effects = [effect for owner in healthy for effect in self._ask(owner)]
        if len(healthy) < self._r:
            for owner in self._route.owners:
                if owner in suspected:
                    # It may be alive after all. Its answer is welcome; only a strict get, which
                    # has nobody else to ask, waits for it.
                    if not self._strict:
                        self._hopeless.add(owner)
                    effects += self._ask(owner)
            effects += self._ask_stand_ins()
        return effects + self._check()

    def on_fetched(self, node: bytes, fetched: Fetched) -> list[Effect]:
        """A node sent the states that it holds."""
        if self._closed or node in self._answers:
            return []
        self._pending.discard(node)
        self._answers[node] = fetched.states
        effects: list[Effect] = []
        if not fetched.complete:
            effects = self._make_good_for(node)
        elif node in self._route.owners:
            self._counted.add(node)
        if self._merged is not None:
            self._merged = _merge_columns([self._merged, fetched.states])
        return effects + self._check()

    def on_refused(self, node: bytes, code: int, asked: Any = None) -> list[Effect]:
        """A node did nothing, and says so. An answer too long for it is too long for all."""
        if code == Code.TOO_LONG and not self._answered:
            return self._give_up(Code.TOO_LONG)
        return self.on_failure(node)

    def on_failure(
        self, node: bytes, maybe_applied: bool = True, asked: Any = None
    ) -> list[Effect]:
        """No answer from a node: suspected, unreachable, or its connection was lost."""
        if self._closed or node not in self._pending:
            return []
        self._pending.discard(node)
        return self._make_good_for(node) + self._check()

    def on_gone(self, nodes: frozenset[bytes]) -> list[Effect]:
        """These came to their end: who has their place may hold more, and is asked instead."""
        effects: list[Effect] = []
        for node in sorted(self._counted & nodes) if not self._answered else ():
            self._counted.discard(node)
            del self._answers[node]
            effects += self._ask(node)
        return effects

    def on_deadline(self) -> list[Effect]:
        """The caller's time is up; a second call ends the work that goes on after the answer."""
        if self._answered:
            self._pending.clear()
            return self._check()
        return self._finish()

    def _give_up(self, code: Code) -> list[Effect]:
        self._answered = self._closed = True
        keys = len(self._fetch.keys)
        failures = tuple(Failure(i, code, self._r, len(self._counted)) for i in range(keys))
        return [Done(GetOutcome([None] * keys, False, failures))]

    def _ask(self, node: bytes) -> list[Effect]:
        self._pending.add(node)
        return [Send(node, self._fetch)]

    def _make_good_for(self, node: bytes) -> list[Effect]:
        """An owner will not count; where the others cannot decide alone, stand-ins are asked."""
        if self._answered or node not in self._route.owners:
            return []
        waiting = self._pending.intersection(self._route.owners) - self._hopeless
        short = len(self._counted) + len(waiting) < self._r
        return self._ask_stand_ins() if short else []

    def _ask_stand_ins(self) -> list[Effect]:
        """As many later nodes as there are owners: any of them may hold what an owner missed."""
        if self._strict:
            return []
        effects: list[Effect] = []
        for owner in self._route.owners:
            node = self._stand_ins.next_for(owner)
            if node is not None:
                effects += self._ask(node)
        return effects

    def _check(self) -> list[Effect]:
        if self._closed:
            return []
        effects: list[Effect] = []
        if not self._answered:
            if len(self._counted) < self._r and self._pending - self._hopeless:
                return []
            effects = self._finish()
        if not self._pending:
            self._closed = True
            effects += self._repair()
        return effects

    def _finish(self) -> list[Effect]:
        self._answered = True
        degraded = len(self._counted) < self._r
        self._merged = _merge_columns(list(self._answers.values()))
        if self._merged is None:
            self._merged = [None] * len(self._fetch.keys)
        failures: tuple[Failure, ...] = ()
        states: list[bytes | None] = list(self._merged)
        if degraded:
            failed = [i for i, state in enumerate(states) if self._strict or state is None]
            alive = len(self._counted)
            failures = tuple(Failure(i, Code.UNAVAILABLE, self._r, alive) for i in failed)
            for i in failed:
                states[i] = None
        return [Done(GetOutcome(states, degraded, failures))]

    def _repair(self) -> list[Effect]:
        """Send every owner that answered, and was behind, what it was missing (read repair)."""
        merged = self._merged
        if not self._repairs or merged is None:
            return []
        effects: list[Effect] = []
        for owner in self._route.owners:
            held = self._answers.get(owner)
            if held is None or held == merged:
                continue
            behind = [i for i, state in enumerate(merged) if state is not None and held[i] != state]
            if behind:
                effects.append(Send(owner, self._repair_of(behind, merged)))
        return effects

    def _repair_of(self, behind: list[int], merged: list[bytes | None]) -> Merge:
        return Merge(
            [self._fetch.keys[i] for i in behind],
            [self._fetch.partitions[i] for i in behind],
            [merged[i] or b"" for i in behind],
        )


def _merge_columns(columns: list[States]) -> list[bytes | None] | None:
    """The merge of several answers, key by key; equal answers are noticed without decoding."""
    if not columns:
        return None
    result = list(columns[0])
    for column in columns[1:]:
        if column == result:
            continue
        for i, state in enumerate(column):
            held = result[i]
            if state is not None and state != held:
                result[i] = state if held is None else merge(held, state)
    return result
