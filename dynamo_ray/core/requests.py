"""A client's request at a coordinator: checked by key, cut into routes, gathered into one reply.

    ClientPut ─► PutRequest ─► groups of keys that share a route, each with a Put of its own
                     ▲                     │ Done(outcome)
                     └── on_outcome ◄──────┘     … all in: PutDone

A key that must be refused fails alone; the others go their way. Contexts are opened on the way in
and sealed on the way out here: storage nodes see clocks, clients see tokens (core/context.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

from dynamo_ray.core.context import ContextKeys
from dynamo_ray.core.get import Get
from dynamo_ray.core.messages import (
    ClientGet,
    ClientPut,
    Code,
    Failure,
    Fetch,
    GetDone,
    GetOutcome,
    Mint,
    PutDone,
    PutOutcome,
)
from dynamo_ray.core.mint import CONCURRENT
from dynamo_ray.core.put import Put
from dynamo_ray.core.ring import Ring, partitions_of
from dynamo_ray.core.routing import Route, routes
from dynamo_ray.core.settings import Limits, Settings
from dynamo_ray.core.version import (
    CLOCK_HEAD,
    EMPTY_CLOCK,
    NEVER,
    SIMPLE_HEAD,
    clock_of,
    hide_expired,
)


@dataclass(frozen=True)
class Desk:
    """What a coordinator knows when it takes a request."""

    ring: Ring
    settings: Settings
    contexts: ContextKeys
    suspected: frozenset[bytes] = frozenset()

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """The routes of all partitions, by their route keys."""
        return routes(self.ring, self.suspected)


class Group(NamedTuple):
    """Keys of a request that share a route: their rows in the request, and their machine.

    `owners` is whom the route takes for their owners, and `epoch` the digest of that (rule 16).
    """

    rows: list[int]
    machine: Put | Get
    owners: tuple[bytes, ...]
    epoch: bytes


class PutRequest:
    """One ClientPut, from its checks to its PutDone."""

    def __init__(
        self, message: ClientPut, desk: Desk, slow: frozenset[bytes] = frozenset()
    ) -> None:
        self._message = message
        self._desk = desk
        self._clocks: Sequence[bytes | None] = message.contexts
        self._contexts: list[bytes | None] = [None] * len(message.keys)
        self._failures: list[Failure] = []
        self._w = message.w or desk.settings.w
        self.groups = self._groups(_others(message, self._refused()), desk, slow)
        self._open = len(self.groups)

    def forked(self, group: Group, desk: Desk, slow: frozenset[bytes]) -> list[Group]:
        """The keys of a group that nobody minted, which had one route and have several by now."""
        assert isinstance(group.machine, Put)
        groups = self._groups(group.rows, desk, slow, group.machine.doubtful)
        self._open += len(groups) - 1
        return groups

    def reply_if_done(self) -> PutDone | None:
        """The reply once every group has its outcome."""
        if self._open:
            return None
        return PutDone(self._contexts, tuple(sorted(self._failures)) if self._failures else ())

    def on_outcome(self, group: Group, outcome: PutOutcome) -> PutDone | None:
        """A group's puts have ended; the reply if it was the last."""
        rows, clocks = group.rows, outcome.contexts
        if outcome.failures:
            self._failures += [f._replace(index=rows[f.index]) for f in outcome.failures]
            rows = [row for row, clock in zip(rows, clocks, strict=True) if clock is not None]
            clocks = [clock for clock in clocks if clock is not None]
        keys, contexts = self._message.keys, self._contexts
        sealed = cast("Sequence[bytes]", clocks)
        tokens = self._desk.contexts.tokens([keys[row] for row in rows], sealed)
        for row, token in zip(rows, tokens, strict=True):
            contexts[row] = token
        self._open -= 1
        return self.reply_if_done()

    def _groups(
        self, rows: Sequence[int], desk: Desk, slow: frozenset[bytes], doubtful: bool = False
    ) -> list[Group]:
        w, strict = self._w, self._message.strict
        return [
            Group(
                some,
                Put(self._mint(some, partitions), way, w, strict, slow, doubtful),
                way.owners,
                desk.ring.epoch_of(partitions[0]),
            )
            for some, partitions, way in _cut(self._message.keys, rows, desk)
        ]

    def _refused(self) -> Collection[int]:
        """The rows that fail alone, each with its reason."""
        message, limits = self._message, self._desk.settings.limits
        refused = _bad_keys(message.keys, limits)
        if max(map(len, filter(None, message.values)), default=0) > limits.value_bytes:
            for row, value in enumerate(message.values):
                if value is not None and len(value) > limits.value_bytes:
                    refused[row] = (Code.VALUE_SIZE, limits.value_bytes, len(value))
        if message.contexts.count(None) < len(message.contexts):
            self._open_contexts(refused)
        n = self._desk.settings.n
        if self._w > n:
            refused = {row: (Code.BAD_REQUEST, self._w, n) for row in _rows(message)}
        self._failures += [Failure(row, *why) for row, why in refused.items()]
        return refused

    def _open_contexts(self, refused: dict[int, tuple[Code, int, int]]) -> None:
        keys, unseal = self._message.keys, self._desk.contexts.open
        self._clocks = clocks = list(self._message.contexts)
        for row, token in enumerate(clocks):
            if token is not None and row not in refused:
                clock = CONCURRENT if token == b"" else unseal(keys[row], token)
                clocks[row] = clock
                if clock is None:
                    refused[row] = (Code.INVALID_CONTEXT, 0, 0)

    def _mint(self, rows: list[int], partitions: list[int]) -> Mint:
        message = self._message
        if len(rows) == len(message.keys):
            columns = message.values, self._clocks, message.put_ids, message.ttls_ms
            return Mint(message.keys, partitions, *columns)
        return Mint(
            [message.keys[row] for row in rows],
            partitions,
            [message.values[row] for row in rows],
            [self._clocks[row] for row in rows],
            [message.put_ids[row] for row in rows],
            [message.ttls_ms[row] for row in rows],
        )


class GetRequest:
    """One ClientGet, from its checks to its GetDone; expired values are hidden here (rule 13)."""

    def __init__(self, message: ClientGet, desk: Desk) -> None:
        self._message = message
        self._desk = desk
        self._states: list[bytes | None] = [None] * len(message.keys)
        self._degraded = False
        self._failures: list[Failure] = []
        r = message.r or desk.settings.r
        refused = _bad_keys(message.keys, desk.settings.limits)
        if r > desk.settings.n:
            refused = {row: (Code.BAD_REQUEST, r, desk.settings.n) for row in _rows(message)}
        self._failures += [Failure(row, *why) for row, why in refused.items()]
        self.groups = []
        for rows, partitions, way in _cut(message.keys, _others(message, refused), desk):
            keys = [message.keys[row] for row in rows]
            get = Get(Fetch(keys, partitions), way, r, message.strict)
            epoch = desk.ring.epoch_of(partitions[0])
            self.groups.append(Group(rows, get, way.owners, epoch))
        self._open = len(self.groups)

    def reply_if_done(self, now_ms: int) -> GetDone | None:
        """The reply once every group has its outcome; `now_ms` is the coordinator's wall clock."""
        if self._open:
            return None
        # Both lists by the same two looks at a simple state; a call per key would cost more.
        states = [
            state
            if state is None or (state.startswith(SIMPLE_HEAD) and state[72:80] == NEVER)
            else hide_expired(state, now_ms)
            for state in self._states
        ]
        clocks = [
            EMPTY_CLOCK
            if state is None
            else CLOCK_HEAD + state[13:51]
            if state.startswith(SIMPLE_HEAD)
            else clock_of(state)
            for state in states
        ]
        seals = self._desk.contexts.seals(self._message.keys, clocks)
        failures = tuple(sorted(self._failures)) if self._failures else ()
        return GetDone(states, seals, self._degraded, failures)

    def on_outcome(self, group: Group, outcome: GetOutcome, now_ms: int) -> GetDone | None:
        """A group's gets have ended; the reply if it was the last."""
        if len(group.rows) == len(self._states):
            self._states = list(outcome.states)
        else:
            for row, state in zip(group.rows, outcome.states, strict=True):
                self._states[row] = state
        self._degraded = self._degraded or outcome.degraded
        self._failures += [f._replace(index=group.rows[f.index]) for f in outcome.failures]
        self._open -= 1
        return self.reply_if_done(now_ms)


def _rows(message: ClientPut | ClientGet) -> range:
    return range(len(message.keys))


def _others(message: ClientPut | ClientGet, refused: Collection[int]) -> Sequence[int]:
    """The rows that were not refused."""
    rows = _rows(message)
    return [row for row in rows if row not in refused] if refused else rows


def request_of(
    message: ClientPut | ClientGet, desk: Desk, slow: frozenset[bytes]
) -> PutRequest | GetRequest:
    """What becomes of a client's message; `slow` nodes are asked last to mint."""
    if isinstance(message, ClientPut):
        return PutRequest(message, desk, slow)
    return GetRequest(message, desk)


def reply_of(request: PutRequest | GetRequest, wall_ms: int) -> PutDone | GetDone | None:
    """The reply to a request of which all has come in; None while something has not."""
    if isinstance(request, PutRequest):
        return request.reply_if_done()
    return request.reply_if_done(wall_ms)


def _bad_keys(keys: Sequence[bytes], limits: Limits) -> dict[int, tuple[Code, int, int]]:
    most = limits.key_bytes
    if keys and all(keys) and max(map(len, keys)) <= most:
        return {}
    return {
        row: (Code.KEY_SIZE, most, len(key))
        for row, key in enumerate(keys)
        if not 0 < len(key) <= most
    }


def _cut(
    keys: Sequence[bytes], rows: Sequence[int], desk: Desk
) -> Iterator[tuple[list[int], list[int], Route]]:
    """The rows, partitions and route of each group of keys, of those rows, that share a route."""
    ring, routes = desk.ring, desk.routes
    if len(rows) < len(keys):
        keys = [keys[row] for row in rows]
    found = partitions_of(keys, ring.partitions)
    by_route: dict[int, tuple[list[int], list[int]]] = {}
    for row, partition, key in zip(rows, found, ring.route_keys_of(found), strict=True):
        group = by_route.get(key)
        if group is None:
            group = by_route[key] = ([], [])
        group[0].append(row)
        group[1].append(partition)
    for key, (some, partitions) in by_route.items():
        yield some, partitions, routes[key]
