"""How a node takes slots that others give it, and lets go of what it does not own (rules 3, 17).

    Offer ─► a session, while it runs        Seal ─► Grant: noted durably ─► fsynced ─► Sealed

A Seal says that all the giver holds is here. What is promised then must stay until the slot has
changed hands, or has not, so it outlives the process: a `granted` partition is neither let go of,
nor promised to another giver, before its slot is of the promised generation. A Seal names the
session of its Offer, so that nobody promises what an earlier run held.

Copies of partitions that a node does not own are let go of, a few at every tick. Those that it
gave away the receiver has, sealed: they go. Of others nobody knows who has them: a transfer came to
nothing, or the slot went to somebody who was not given it. They are kept for the owners from then
on, by a hint, and go once these have them (rule 8). Nothing goes of what a node had that was
removed or replaced: that stays aside (rule 15).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dynamo_ray.core.merge import replaced
from dynamo_ray.core.messages import Code, Effect, Refused, Reply
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.unpersisted import Changes
from dynamo_ray.core.upkeep import Offer, Offered, Seal, Sealed
from dynamo_ray.core.values import value

KEYS_A_TICK = 200
PARTITIONS_A_TICK = 64
SESSION_MS = 60_000
OWNED = Refused(Code.BAD_REQUEST, "this node owns a slot of that partition already")
PROMISED = Refused(Code.NOT_READY, "this node has another slot of that partition coming")
FORGOTTEN = Refused(Code.NOT_READY, "this node does not know of that offer; offer it again")
UNABLE = Refused(Code.READ_ONLY, "this node's disk does not take the promise; try again later")


@value
class Grant:
    """Effect: note durably that this slot's copies are complete, then say `on_granted`.

    Not if it does not stand (`Receiver.stands`) by the time that all of them are in the log.
    """

    to: Any
    partition: int
    slot: int
    generation: int


@dataclass(slots=True)
class Session:
    """What came of an Offer, for as long as its giver is heard of."""

    slot: int
    generation: int
    token: bytes
    heard_ms: int


class Receiver:
    """The machine of one node that takes what it is given.

    `granted`: what earlier runs promised, as partition -> (slot, generation).
    """

    def __init__(self, replica: Replica, granted: Mapping[int, tuple[int, int]]) -> None:
        self._replica = replica
        self._granted = dict(granted)
        self._sessions: dict[int, Session] = {}
        self._placement: Placement | None = None
        self._tokens = 0
        self._now_ms = 0
        self._keys = self._walk()

    def on_placement(self, placement: Placement) -> None:
        """Slots have changed hands: what was promised of them is settled.

        What this node inherited it was not given in the end: its giver may have gone on after the
        seal, so it copies that from the other owners, whatever it promised.
        """
        self._placement, view = placement, placement.view
        if self._granted:
            slots, copies = placement.inherited(self._replica.node), placement.ring.copies
            inherited = {slot // copies for slot in slots}
            for partition, (slot, generation) in list(self._granted.items()):
                if view.generation(slot) >= generation or partition in inherited:
                    del self._granted[partition]
        for partition, session in list(self._sessions.items()):
            if view.generation(session.slot) >= session.generation:
                del self._sessions[partition]

    @property
    def promised(self) -> frozenset[int]:
        """The partitions that it holds completely for whoever is about to give them."""
        return frozenset(self._granted)

    def stands(self, grant: Grant) -> bool:
        """False if the slot came another way while the promise was on its way to the disk."""
        return self._granted.get(grant.partition) == (grant.slot, grant.generation)

    def expects(self, partition: int) -> bool:
        """True if copies of the partition may come that are kept for nobody."""
        return not self._may_let_go(partition)

    def on_heard(self, partition: int) -> None:
        """Somebody works on the partition: its session is in use."""
        session = self._sessions.get(partition)
        if session is not None:
            session.heard_ms = self._now_ms

    def on_offer(self, to: Any, message: Offer) -> list[Effect | Grant]:
        """Take it, unless that makes two copies here."""
        refused = self._refused(message)
        if refused is not None:
            return [Reply(to, refused)]
        self._tokens += 1
        token = self._replica.lives.prefix + self._tokens.to_bytes(4, "big")
        self._sessions[message.partition] = Session(
            message.slot, message.generation, token, self._now_ms
        )
        return [Reply(to, Offered(token))]

    def on_seal(self, to: Any, message: Seal) -> list[Effect | Grant]:
        """All of it is here: promise to keep it."""
        session = self._sessions.get(message.partition)
        if session is None or session.token != message.token:
            return [Reply(to, FORGOTTEN)]
        refused = self._refused(message)
        if refused is not None:
            return [Reply(to, refused)]
        self._granted[message.partition] = message.slot, message.generation
        return [Grant(to, message.partition, message.slot, message.generation)]

    def on_granted(self, grant: Grant, is_durable: bool) -> list[Effect | Grant]:
        """The promise is on disk; it is given once all that it speaks of is, too (rule 8)."""
        if not self.stands(grant):
            return [Reply(grant.to, FORGOTTEN)]
        if not is_durable:
            return [Reply(grant.to, UNABLE)]
        self._replica.doubted -= {grant.partition}
        return [Reply(grant.to, Sealed(), self._replica.queue.last, durable=True)]

    def on_tick(self, now_ms: int) -> list[Effect]:
        """Let go of a few keys that nobody needs here, or keep them for the owners (rule 11)."""
        self._now_ms = now_ms
        changes = Changes()
        for _ in range(KEYS_A_TICK):
            found = next(self._keys)
            if found is None:
                break
            self._let_go(*found, changes)
        return [self._replica.record(changes)] if changes else []

    def _refused(self, message: Offer | Seal) -> Refused | None:
        if message.partition in self._replica.owned:
            return OWNED
        promised = self._granted.get(message.partition)
        if promised is not None and promised != (message.slot, message.generation):
            return PROMISED
        return None

    def _may_let_go(self, partition: int) -> bool:
        if partition in self._replica.owned or partition in self._granted:
            return False
        session = self._sessions.get(partition)
        if session is not None:
            if self._now_ms - session.heard_ms < SESSION_MS:
                return False
            del self._sessions[partition]
        placement, me = self._placement, self._replica.node
        if placement is None or me in placement.view.ends:
            return False
        return not placement.is_wished_for(partition, me)

    def _walk(self) -> Iterator[tuple[int, bytes] | None]:
        """Keys that are held for nobody, round and round; None now and then, to rest."""
        while True:
            for partition, of in enumerate(self._replica.maps):
                if of and self._may_let_go(partition):
                    for key in [key for key in of if not self._replica.hints.of(key)]:
                        if not self._may_let_go(partition):
                            break
                        yield partition, key
                if partition % PARTITIONS_A_TICK == 0:
                    yield None
            yield None

    def _let_go(self, partition: int, key: bytes, changes: Changes) -> None:
        replica = self._replica
        state = replica.maps[partition].get(key)
        if state is None or replica.hints.of(key):
            return
        if not self._is_elsewhere(partition):
            self._keep_for_owners(partition, key, state, changes)
            return
        changes.add(partition, key, state, None, b"")
        replica.puts.remember(replaced(state, None))
        replica.lives.forget(key)
        del replica.maps[partition][key]

    def _is_elsewhere(self, partition: int) -> bool:
        """True if it was given to somebody who has it, or gave it on: not if that was replaced."""
        to, placement = self._replica.handed_over.get(partition), self._placement
        return to is not None and placement is not None and not placement.view.ends.get(to)

    def _keep_for_owners(self, partition: int, key: bytes, state: bytes, changes: Changes) -> None:
        replica, placement = self._replica, self._placement
        assert placement is not None  # or nothing may be let go of
        changes.add(partition, key, state, state, b"")
        for owner in placement.ring.owners(partition):
            replica.hints.add(owner, key, partition, len(state))
