"""Puts in flight: mint at an owner, spread to the others, answer at W (Dynamo §4.5, §4.6).

                  minted               W acks: Done(ok)
    start ─► MINTING ─────► SPREADING ─────────────────► … stragglers, stand-ins ─► closed
               │  refused, failed: the next candidate, same put ids
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
from enum import Enum
from typing import cast

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
from dynamo_ray.core.quorum import Verdict, verdict
from dynamo_ray.core.routing import Route, StandIns, minters
from dynamo_ray.core.version import clock_of

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
    _tried = 0
    _minter = b""
    _maybe_applied = False
    _answered = False
    _failures: Sequence[Failure] = ()
    _reason = ""
    _contexts: Sequence[bytes | None] = ()
    _merge = Merge((), (), ())

    def __init__(self, mint: Mint, route: Route, w: int, strict: bool = False) -> None:
        self._mint = mint
        self._route = route
        self._w = w
        self._strict = strict
        self._candidates = minters(route, strict)
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

    def start(self) -> list[Effect]:
        """Ask the first candidate to mint, or refuse at once if W nodes cannot be reached."""
        alive = self._reachable()
        if alive < self._w:
            return self._end(Code.UNAVAILABLE, alive)
        return self._mint_at_next()

    def on_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        """A minter made the dots and persisted them."""
        if self._phase is Phase.MINTING:
            return self._first_minted(node, minted)
        return self._late_minted(node, minted)

    def on_merged(self, node: bytes) -> list[Effect]:
        """A node holds the state, persisted."""
        self._pending.discard(node)
        if self._phase is Phase.SPREADING:
            self._acks.add(node)
        return self._after_vote()

    def on_refused(self, node: bytes, code: int) -> list[Effect]:
        """A node did nothing, and says so."""
        if code == Code.READ_ONLY:
            self._reason = NO_WRITES
        return self.on_failure(node, maybe_applied=False)

    def on_failure(self, node: bytes, maybe_applied: bool = True) -> list[Effect]:
        """No answer from a node: suspected, unreachable, or its connection was lost."""
        if self._phase is Phase.MINTING and node == self._minter:
            self._maybe_applied = self._maybe_applied or maybe_applied
            return self._mint_at_next()
        if self._phase is not Phase.SPREADING or node not in self._pending:
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
        route = self._route
        owners = len(route.healthy_owners)
        return owners if self._strict else owners + len(route.healthy_spares)

    def _mint_at_next(self) -> list[Effect]:
        if self._tried == len(self._candidates):
            code = Code.UNKNOWN if self._maybe_applied else Code.UNAVAILABLE
            return self._end(code, 0, close=True)
        self._minter = self._candidates[self._tried]
        self._tried += 1
        message = self._mint
        if self._minter not in self._route.owners:
            owner = self._owner_without_copy()
            self._stand_ins.use(self._minter)
            self._represented[self._minter] = owner
            message = Mint(
                message.keys,
                message.partitions,
                message.values,
                message.contexts,
                message.put_ids,
                message.ttls_ms,
                owner,
            )
        return [Send(self._minter, message)]

    def _owner_without_copy(self) -> bytes:
        taken = set(self._represented.values())
        return next((o for o in self._route.owners if o not in taken), self._route.owners[0])

    def _first_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        self._phase = Phase.SPREADING
        self._contexts = minted.contexts or [clock_of(state or b"") for state in minted.states]
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
        return Code.UNKNOWN if self._maybe_applied and code not in ALWAYS_REFUSED else code

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
        merge = self._merge
        return self._send(node, Merge(merge.keys, merge.partitions, merge.states, owner))

    def _send(self, node: bytes, merge: Merge) -> list[Effect]:
        self._pending.add(node)
        return [Send(node, merge)]

    def _late_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        """An earlier candidate minted after all: the same puts under other dots, made one here."""
        if self._phase is not Phase.SPREADING or node in self._acks:
            return []
        states = list(self._merge.states)
        for position, i in enumerate(self._live):
            late = minted.states[i]
            if late is not None:
                states[position] = merge(states[position], late)
        self._merge = Merge(self._merge.keys, self._merge.partitions, states)
        behind = [n for n in sorted(self._acks | {node}) if n in self._route.owners]
        return [effect for owner in behind for effect in self._send(owner, self._merge)]

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
