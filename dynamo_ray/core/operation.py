"""A group of a request in flight at a coordinator: what is under way for it, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dynamo_ray.core.get import Get
from dynamo_ray.core.joint import Failed, Joint
from dynamo_ray.core.messages import (
    Code,
    Effect,
    Fetched,
    GetOutcome,
    Merged,
    Mint,
    Minted,
    PutOutcome,
    Refused,
    Send,
)
from dynamo_ray.core.put import Put
from dynamo_ray.core.requests import Desk, GetRequest, Group, PutRequest
from dynamo_ray.core.rerouting import TRIES, Part, rerouted
from dynamo_ray.core.ring import Ring


class Call(NamedTuple):
    """What was asked of a node: `part` is who got it in the place of the one it was meant for.

    `joint` if that was only a part of what the machine sent.
    """

    send: Send
    part: Part
    joint: Joint | None = None
    tries: int = 1

    @property
    def node(self) -> bytes:
        """Who got it."""
        return self.part.node


class Operation:
    """One group of a request in flight: its machine, and when the caller's time is up.

    After `end` nothing of it is sent any more, nor done by who gets it: a coordinator that was
    stopped for long must not wake up with what the others have forgotten since (rule 12).
    `expected` are the nodes that were suspected when it began: its route makes allowance for them.
    `ring` is the one that it began with. `reached` has the nodes that were asked for anything, and
    in whose places: what a node holds in one's place must not count again in another's.
    """

    __slots__ = (
        "calls",
        "deadline",
        "end",
        "expected",
        "group",
        "lingers",
        "machine",
        "reached",
        "request",
        "ring",
        "to",
    )

    def __init__(
        self,
        to: Any,
        request: PutRequest | GetRequest,
        group: Group,
        deadline: float,
        desk: Desk,
    ) -> None:
        self.to = to
        self.request = request
        self.group = group
        self.machine: Put | Get = group.machine
        self.deadline = deadline
        self.end = deadline + 2 * desk.settings.times.linger_s
        self.expected = desk.suspected
        self.ring = desk.ring
        self.lingers = False
        self.reached: dict[bytes, set[bytes]] = {}
        self.calls: dict[int, Call] = {}

    def is_in_vain(self, send: Send) -> bool:
        """True if it is a Mint that is waited for no longer: another one would be a second put."""
        if not isinstance(send.message, Mint):
            return False
        return not (isinstance(self.machine, Put) and self.machine.mints_at(send.node))

    def parts(self, send: Send, ring: Ring) -> list[Part]:
        """All of it to whom it is meant for, unless the ring has changed since it began."""
        if ring is not self.ring:
            parts = rerouted(ring, self.group.owners, send.node, send.message)
            if parts and self._is_free(parts, send):
                return parts
        return [Part(None, send.node, send.message, self.group.epoch)]

    def has_forked(self, send: Send, ring: Ring) -> bool:
        """True if the keys of a Mint have different owners by now."""
        message = send.message
        if ring is self.ring or not isinstance(message, Mint):
            return False
        return len({ring.owners(partition) for partition in message.partitions}) > 1

    def again(self, asked: Call, ring: Ring, suspected: frozenset[bytes]) -> list[Part] | None:
        """The parts in which a refused message may go on; None if it is over with it."""
        send = asked.send
        if asked.tries >= TRIES or self.is_in_vain(send):
            return None
        parts = rerouted(ring, self.group.owners, send.node, send.message, asked.part.rows)
        nodes = {part.node for part in parts or ()}
        return parts if suspected.isdisjoint(nodes) and self._is_free(parts or (), send) else None

    def on_sent(self, asked: Call) -> None:
        """A node is asked, in the place of the one that the machine meant."""
        self.reached.setdefault(asked.node, set()).add(asked.send.node)

    def on_end(self, asked: Send, message: Any) -> list[Effect]:
        """A node's answer, or Failed, as an event of the machine; the wrong kind is a failure."""
        machine, node = self.machine, asked.node
        if isinstance(message, Failed):
            return machine.on_failure(node, message.maybe_applied, asked.message)
        if isinstance(message, Refused):
            if message.code == Code.UNKNOWN:
                return machine.on_failure(node, True, asked.message)
            return machine.on_refused(node, message.code, asked.message)
        if isinstance(machine, Put):
            if isinstance(message, Merged):
                return machine.on_merged(node)
            if isinstance(message, Minted):
                return machine.on_minted(node, message)
        elif isinstance(message, Fetched):
            return machine.on_fetched(node, message)
        return machine.on_failure(node, True, asked.message)

    def _is_free(self, parts: Sequence[Part], send: Send) -> bool:
        """True if nobody who gets a copy this way has been asked for one in another's place."""
        others = _held_by(parts) - _held_by([send])
        return all(self.reached.get(node, set()) <= {send.node} for node in others)

    def gather(self, outcome: PutOutcome | GetOutcome, wall_ms: int) -> Any:
        """Its part of the request's reply; the reply, if it was the last part."""
        request, group = self.request, self.group
        if isinstance(request, PutRequest) and isinstance(outcome, PutOutcome):
            return request.on_outcome(group, outcome)
        assert isinstance(request, GetRequest) and isinstance(outcome, GetOutcome)
        return request.on_outcome(group, outcome, wall_ms)


def calls_of(send: Send, parts: Sequence[Part], before: Call | None) -> list[Call]:
    """What is sent in its parts, or what was refused of it `before`."""
    joint, tries = (before.joint, before.tries + 1) if before is not None else (None, 1)
    if joint is None and len(parts) > 1:
        joint = Joint(send)
    if joint is not None:
        joint.on_parted(parts)
    return [Call(send, part, joint, tries) for part in parts]


def _held_by(sent: Iterable[Part | Send]) -> set[bytes]:
    """Who will hold a copy, now or once hints are home: one of them must not count for two."""
    return {
        node for one in sent for node in (one.node, getattr(one.message, "hint_for", b"")) if node
    }
