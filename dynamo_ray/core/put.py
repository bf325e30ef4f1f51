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

from dataclasses import replace
from enum import Enum
from typing import Any

from dynamo_ray.core.made import Made
from dynamo_ray.core.messages import Code, Done, Effect, Mint, Minted, Send
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
    """One list of puts that share a route; `w` acknowledgements answer it.

    `doubtful` ones may have been applied by an earlier attempt.
    """

    # What a put begins with; most puts change little of it.
    _phase = Phase.MINTING
    _answered = False
    _reason = ""

    def __init__(
        self,
        mint: Mint,
        route: Route,
        w: int,
        strict: bool = False,
        slow: frozenset[bytes] = frozenset(),
        doubtful: bool = False,
    ) -> None:
        self._maybe_applied = doubtful
        self._mint = mint
        self._route = route
        self._w = w
        self._strict = strict
        self._minting = Minting(route, strict, slow)
        self._stand_ins = StandIns(route)
        self._represented: dict[bytes, bytes] = {}
        self._pending: set[bytes] = set()
        self._acks: set[bytes] = set()
        self._gone: frozenset[bytes] = frozenset()
        self._made = Made(mint)

    @property
    def closed(self) -> bool:
        """True once nothing more will come of this put."""
        return self._phase is Phase.CLOSED

    @property
    def answered(self) -> bool:
        """True once the caller has its answer."""
        return self._answered

    @property
    def doubtful(self) -> bool:
        """True if it may have been applied although nobody said so."""
        return self._maybe_applied

    @property
    def has_another(self) -> bool:
        """True if there is one more healthy owner that can be asked to mint."""
        return self._minting.has_another

    def start(self) -> list[Effect]:
        """Ask the first candidate to mint, or refuse at once if W nodes cannot be reached."""
        alive = self._reachable()
        return self._give_up(alive) if alive < self._w else self._mint_at_next()

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

    def on_parted(self, node: bytes) -> bool:
        """A candidate is not asked, since the keys have different owners by now.

        True if nobody is at work on it: then it may begin anew, as one put for each route.
        Otherwise that is due once those at work have failed: the candidate is the next again.
        """
        self._minting.on_parted(node)
        return not self._minting.under_way

    def mints_at(self, node: bytes) -> bool:
        """True while it is waited for that node to mint, and nobody is known to have done so."""
        return self._phase is Phase.MINTING and node in self._minting.under_way

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

    def on_gone(self, nodes: frozenset[bytes]) -> list[Effect]:
        """These came to their end: who has an owner's place holds nothing of what that one took.

        It was rebuilt, perhaps before the other owners had this (core/inheriting.py), so it gets a
        copy, which counts as the owner's did.
        """
        gone = nodes.intersection(self._route.owners)
        held = sorted(self._acks & gone) if self._phase is Phase.SPREADING else []
        self._gone |= gone
        self._acks -= gone
        return [effect for node in held for effect in self._send(node)]

    def on_deadline(self) -> list[Effect]:
        """The caller's time is up; a second call ends the work that goes on after the answer."""
        if self._answered:
            self._phase = Phase.CLOSED
            return []
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
            return [] if self._minting.under_way else self._give_up(0)
        message = self._mint
        if minter not in self._route.owners:
            owner = self._owner_without_copy()
            self._stand_ins.use(minter)
            self._represented[minter] = owner
            message = replace(message, hint_for=owner)
        return [Send(minter, message)]

    def _give_up(self, alive: int) -> list[Effect]:
        if self._maybe_applied:
            return self._end(Code.UNKNOWN, 0, close=True)
        return self._end(Code.UNAVAILABLE, alive)

    def _owner_without_copy(self) -> bytes:
        taken, owners = set(self._represented.values()), self._route.owners
        return next((owner for owner in owners if owner not in taken), owners[0])

    def _first_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        self._phase = Phase.SPREADING
        self._made.on_minted(minted, self._w, self._maybe_applied or self._minting.under_way != ())
        if not self._made.live:
            return self._end(Code.OK, 0, close=True)
        if node in self._gone:
            return self._send(node) + self._spread(node)
        self._acks.add(node)
        return self._spread(node) + self._after_vote()

    def _spread(self, minter: bytes) -> list[Effect]:
        effects: list[Effect] = []
        stood_in = self._represented.get(minter)
        for owner in self._route.owners:
            if owner in (minter, stood_in):
                continue
            if owner in self._route.suspected and not self._strict:
                effects += self._stand_in_for(owner)
            else:
                effects += self._send(owner)
        return effects

    def _stand_in_for(self, owner: bytes) -> list[Effect]:
        """Place the owner's copy, with a hint, at the next node that can take it (Dynamo §4.6)."""
        node = self._stand_ins.next_for(owner)
        if node is None:
            return []
        self._represented[node] = owner
        return self._send(node)

    def _send(self, node: bytes) -> list[Effect]:
        self._pending.add(node)
        return [Send(node, self._made.merge_for(self._represented.get(node)))]

    def _late_minted(self, node: bytes, minted: Minted) -> list[Effect]:
        """An earlier candidate minted after all: who has the states without its own gets them."""
        if self._phase is Phase.CLOSED or not self._made.on_late(minted):
            return []
        behind = sorted(self._acks | self._pending | {node})
        return [effect for one in behind for effect in self._send(one)]

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
        """Answer the caller, once."""
        if close or code == Code.UNAVAILABLE:
            self._phase = Phase.CLOSED
        if self._answered:
            return []
        self._answered = True
        return [Done(self._made.outcome(code, self._w, received, self._reason))]
