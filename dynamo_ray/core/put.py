"""Puts in flight: mint at an owner, spread to the others, answer at W (Dynamo §4.5, §4.6).

                  minted               W acks: Done(ok)
    start ─► MINTING ─────► SPREADING ─────────────────► … stragglers, stand-ins ─► closed
               │  refused, failed: the next candidate, same put ids
               │  late: the next healthy owner as well; the first answer counts
               └─ no candidate left: Done(unavailable, or unknown once a mint may have been applied)

A coordinator cannot mint (it has no counter that survives), so the value goes to one owner, comes
back as the key's whole resulting state, and that state goes to the other owners. Only nodes that
hold the state persisted count towards W; under a sloppy quorum a stand-in with a hint counts too,
under a strict one only owners do. The answer is an effect and the work goes on after it: an owner
that fails late still gets a stand-in.

Once a mint was sent there are three ends: ok, unknown, or a refusal by every receiver (rule 7).
Events name the node they come from; each may come late, twice or after the end and does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, cast

from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import (
    ALWAYS_REFUSED,
    Code,
    Done,
    Effect,
    Failure,
    Merge,
    Mint,
    Minted,
    PutOutcome,
    Send,
)
from dynamo_ray.core.minting import Minting
from dynamo_ray.core.quorum import Verdict, verdict
from dynamo_ray.core.routing import Route, StandIns

NO_WRITES = "nodes take no writes because of their disks; free some space there"


class Phase(Enum):
    """Where a put is."""

    MINTING = 1
    SPREADING = 2
    CLOSED = 3


class Put:
    """One list of puts that share a route; `w` acknowledgements answer it."""

    # What a put begins with; most puts change little of it.
    _phase = Phase.MINTING
    _maybe_applied = False
    _answered = False
    _failures: Sequence[Failure] = ()
    _reason = ""
    _contexts: Sequence[bytes | None] = ()
    _merge = Merge((), (), ())

    def __init__(
        self,
        mint: Mint,
        route: Route,
        w: int,
        strict: bool = False,
        slow: frozenset[bytes] = frozenset(),
    ) -> None:
        self._mint = mint
        self._route = route
        self._w = w
        self._strict = strict
        self._minting = Minting(route, strict, slow)
        self._stand_ins = StandIns(route)
        self._represented: dict[bytes, bytes] = {}
        self._pending: set[bytes] = set()
        self._acks: set[bytes] = set()
        self._live: Sequence[int] = range(len(mint.keys))

    @property
    def closed(self) -> bool:
        """True once nothing more will come of this put."""
        return self._phase is Phase.CLOSED

    @property
    def answered(self) -> bool:
        """True once the caller has its answer."""
        return self._answered

    @property
    def has_another(self) -> bool:
        """True if there is one more healthy owner that can be asked to mint."""
        return self._minting.has_another

    def start(self) -> list[Effect]:
        """Ask the first candidate to mint, or refuse at once if W nodes cannot be reached."""
        alive = self._reachable()
        if alive < self._w:
            return self._end(Code.UNAVAILABLE, alive)
        return self._mint_at_next()

    def on_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        """A minter made the dots and persisted them."""
        self._minting.on_end(node)
        if self._phase is Phase.MINTING:
            return self._first_minted(node, minted)
        return self._late_minted(node, minted)

    def on_late(self, node: bytes) -> list[Effect]:
        """A minter takes unusually long: ask another healthy owner as well."""
        is_due = self._phase is Phase.MINTING and self._minting.on_late(node)
        return self._mint_at_next() if is_due else []

    def on_merged(self, node: bytes) -> list[Effect]:
        """A node holds the state, persisted."""
        self._pending.discard(node)
        if self._phase is Phase.SPREADING:
            self._acks.add(node)
        return self._after_vote()

    def on_refused(self, node: bytes, code: int, asked: Any = None) -> list[Effect]:
        """A node did nothing of what it was `asked`, and says so."""
        if code == Code.READ_ONLY:
            self._reason = NO_WRITES
        return self.on_failure(node, False, asked)

    def on_failure(
        self, node: bytes, maybe_applied: bool = True, asked: Any = None
    ) -> list[Effect]:
        """No answer to what a node was `asked`, or, without that, the node is suspected."""
        if self._phase is Phase.MINTING:
            return self._not_minted(node, maybe_applied)
        is_over = self._phase is Phase.CLOSED or isinstance(asked, Mint)
        if is_over or node not in self._pending:
            return []
        self._pending.discard(node)
        return self._stand_in_for(self._represented.get(node, node)) + self._after_vote()

    def on_deadline(self) -> list[Effect]:
        """The caller's time is up; a second call ends the work that goes on after the answer."""
        if self._answered:
            self._phase = Phase.CLOSED
            return []
        if self._phase is Phase.MINTING:
            self._maybe_applied = True
        return self._end(Code.UNKNOWN, len(self._acks), close=self._phase is Phase.MINTING)

    def _reachable(self) -> int:
        owners = len(self._route.healthy_owners)
        return owners if self._strict else owners + len(self._route.healthy_spares)

    def _not_minted(self, node: bytes, maybe_applied: bool) -> list[Effect]:
        if not self._minting.on_end(node):
            return []
        self._maybe_applied = self._maybe_applied or maybe_applied
        return self._mint_at_next() if self._minting.is_stuck else []

    def _mint_at_next(self) -> list[Effect]:
        minter = self._minting.next()
        if minter is None:
            if self._minting.under_way:
                return []
            code = Code.UNKNOWN if self._maybe_applied else Code.UNAVAILABLE
            return self._end(code, 0, close=True)
        message = self._mint
        if minter not in self._route.owners:
            owner = self._owner_without_copy()
            self._stand_ins.use(minter)
            self._represented[minter] = owner
            message = replace(message, hint_for=owner)
        return [Send(minter, message)]

    def _owner_without_copy(self) -> bytes:
        taken, owners = set(self._represented.values()), self._route.owners
        return next((owner for owner in owners if owner not in taken), owners[0])

    def _first_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        self._phase = Phase.SPREADING
        self._contexts = minted.clocks
        if minted.codes:
            self._part(minted.codes)
            if not self._live:
                return self._end(Code.OK, 0, close=True)
        self._merge = self._merge_of(minted.states)
        self._acks.add(node)
        return self._spread(node) + self._after_vote()

    def _part(self, codes: Sequence[int]) -> None:
        """Keys that the minter refused have failed; the work goes on for the others."""
        self._live = [i for i, code in enumerate(codes) if code == Code.OK]
        self._failures = [
            Failure(i, self._honest(code), self._w, 0)
            for i, code in enumerate(codes)
            if code != Code.OK
        ]

    def _honest(self, code: int) -> int:
        """What one minter refused, an earlier one that did not answer may have applied (rule 7)."""
        doubtful = self._maybe_applied or self._minting.under_way
        return Code.UNKNOWN if doubtful and code not in ALWAYS_REFUSED else code

    def _merge_of(self, states: Sequence[bytes | None]) -> Merge:
        keys, partitions = self._mint.keys, self._mint.partitions
        if len(self._live) == len(keys):
            return Merge(keys, partitions, cast("Sequence[bytes]", states))
        return Merge(
            [keys[i] for i in self._live],
            [partitions[i] for i in self._live],
            [states[i] or b"" for i in self._live],
        )

    def _spread(self, minter: bytes) -> list[Effect]:
        effects: list[Effect] = []
        stood_in = self._represented.get(minter)
        for owner in self._route.owners:
            if owner in (minter, stood_in):
                continue
            if owner in self._route.suspected and not self._strict:
                effects += self._stand_in_for(owner)
            else:
                effects += self._send(owner, self._merge)
        return effects

    def _stand_in_for(self, owner: bytes) -> list[Effect]:
        """Place the owner's copy, with a hint, at the next node that can take it (Dynamo §4.6)."""
        node = self._stand_ins.next_for(owner)
        if node is None:
            return []
        self._represented[node] = owner
        return self._send(node, self._merge_for(node))

    def _send(self, node: bytes, merge: Merge) -> list[Effect]:
        self._pending.add(node)
        return [Send(node, merge)]

    def _late_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        """An earlier candidate minted after all: the same puts under other dots, made one here.

        Both dots are the writer's own, so its context covers both if it was not answered yet.
        """
        if self._phase is Phase.CLOSED:
            return []
        states, contexts = list(self._merge.states), list(self._contexts)
        late_contexts = minted.clocks
        for position, i in enumerate(self._live):
            late, late_context = minted.states[i], late_contexts[i]
            if late is not None and late_context is not None:
                states[position] = merge(states[position], late)
                contexts[i] = merge(contexts[i] or late_context, late_context)
        if states == self._merge.states:
            return []
        self._contexts = contexts
        self._merge = Merge(self._merge.keys, self._merge.partitions, states)
        behind = sorted(self._acks | self._pending | {node})
        return [effect for one in behind for effect in self._send(one, self._merge_for(one))]

    def _merge_for(self, node: bytes) -> Merge:
        owner = self._represented.get(node)
        return self._merge if owner is None else replace(self._merge, hint_for=owner)

    def _after_vote(self) -> list[Effect]:
        if self._phase is not Phase.SPREADING:
            return []
        effects: list[Effect] = []
        if not self._answered:
            received = self._counted(self._acks)
            possible = received + self._counted(self._pending - self._acks)
            now = verdict(self._w, received, possible)
            if now is Verdict.MET:
                effects = self._end(Code.OK, received)
            elif now is Verdict.LOST:
                effects = self._end(Code.UNKNOWN, received)
        if self._answered and not self._pending:
            self._phase = Phase.CLOSED
        return effects

    def _counted(self, nodes: set[bytes]) -> int:
        return len(nodes.intersection(self._route.owners)) if self._strict else len(nodes)

    def _end(self, code: Code, received: int, close: bool = False) -> list[Effect]:
        """Answer the caller, once; every key that has no verdict of its own ends with `code`."""
        if close or code == Code.UNAVAILABLE:
            self._phase = Phase.CLOSED
        if self._answered:
            return []
        self._answered = True
        if code == Code.OK:
            return [Done(PutOutcome(self._contexts, tuple(self._failures)))]
        failures = [
            *self._failures,
            *(Failure(i, code, self._w, received, self._reason) for i in self._live),
        ]
        return [Done(PutOutcome([None] * len(self._mint.keys), tuple(sorted(failures))))]
