"""A coordinator's server: the machine of core/coordinator.py between clients and storage nodes.

It keeps nothing but what is in flight. The same class runs inside a client that coordinates for
itself (paper §6.4): then nobody listens and requests come by `submit`.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.context import ContextKeys
from dynamo_ray.core.coordinator import Coordinator, Out, ToNode
from dynamo_ray.core.encoding import BadMessageError, from_fields, to_fields
from dynamo_ray.core.membership import COORDINATOR_ROLE, Fact, View
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.pool import CHANCE_BYTES, contradiction, last_word, last_word_on
from dynamo_ray.core.requests import Desk
from dynamo_ray.server.member import Member, reply_to, wall_ms
from dynamo_ray.wire.errors import Failure
from dynamo_ray.wire.handshake import Identity

STRAGGLER_S = 1.0
# For clients to hear that it leaves, and to send no more.
NOTICE_S = 0.3
LEAVE_POLL_S = 0.01
LEAVES = Refused(Code.NOT_READY, "the coordinator leaves; ask another one")


class CoordinatorServer(Member):
    """Takes ClientPut and ClientGet; speaks Mint, Merge and Fetch to the nodes."""

    def __init__(self, charter: Charter, secrets: list[bytes], me: bytes, view: View) -> None:
        super().__init__(charter, secrets, me, view)
        contexts = ContextKeys(charter.cluster_id, secrets)
        self.coordinator = Coordinator(Desk(self.ring, charter.settings, contexts))
        self.requests = 0
        self.leaving = False
        self._wakes_at = math.inf
        self._alarm: asyncio.TimerHandle | None = None

    def on_message(self, connection: Any, call: int, kind: int, fields: list[Any]) -> None:
        """A client's request, and before its fields when it expires (a reading of our clock)."""
        self.submit(kind, fields, partial(_answer, connection, call))

    def submit(self, kind: int, fields: Sequence[Any], answer: Callable[[Any], None]) -> None:
        """Start a request; `answer` gets its reply once."""
        self.requests += 1
        if self.leaving:
            answer(LEAVES)
            return
        try:
            expires_ms, *given = fields
            message = from_fields(kind, given)
            expires = expires_ms / 1000
        except (BadMessageError, TypeError, ValueError) as error:
            answer(Refused(Code.BAD_REQUEST, str(error)))
            return
        now = time.monotonic()
        self._perform(self.coordinator.on_request(answer, message, expires, now, wall_ms()))

    def on_suspicion(self, new: frozenset[bytes]) -> None:
        """Route around the suspected, and wait no longer for the newly suspected."""
        suspected, now = self.detector.suspected, time.monotonic()
        self._perform(self.coordinator.on_suspected(suspected, new, now, wall_ms()))

    def on_view(self, is_other_ring: bool) -> None:
        """Ask whom the ring says; heed what is said of this coordinator's own end.

        A last word that is said of this run is obeyed, one of an earlier run contradicted.
        """
        if is_other_ring:
            self._perform(self.coordinator.on_ring(self.ring, time.monotonic(), wall_ms()))
        word = last_word_on(self.fact.name, self.view) if self.fact is not None else None
        if self.fact is None or word is None:
            return
        if word.member == self.me:
            self.leaving = True
        else:
            self.fact = contradiction(self.fact, word, wall_ms(), os.urandom(CHANCE_BYTES))
            self.placement = self.placement.learn(View().with_facts([self.fact]))

    def on_told(self, node: bytes, view: View | None) -> None:
        """Go on with what the node refused because one of the two did not know."""
        self._perform(self.coordinator.on_exchanged(node, time.monotonic(), wall_ms()))

    def on_tick(self) -> None:
        """End what has run out of time."""
        self._perform(self.coordinator.on_tick(time.monotonic(), wall_ms()))

    async def leave(self, timeout_s: float) -> None:
        """Say the last word, begin nothing more, and finish what is in flight, at most so long.

        What is refused from now on, or cut off then, clients ask another one, with the same put id.
        """
        self.leaving = True
        if self.fact is not None:
            self.learn(View().with_facts([last_word(self.fact, wall_ms())]))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while self.coordinator.in_flight and loop.time() < begun + timeout_s:
            await asyncio.sleep(LEAVE_POLL_S)
        await asyncio.sleep(min(timeout_s, begun + NOTICE_S - loop.time()))

    def status(self) -> dict[str, Any]:
        """What this coordinator knows of itself."""
        known = super().status()
        known["pid"] = os.getpid()
        known["requests"] = self.requests
        known["in_flight"] = self.coordinator.in_flight
        known["late_replies"] = self.coordinator.late_replies
        known["slow"] = sorted(self._name(n) for n in self.coordinator.speculation.slow)
        return known

    def _perform(self, out: list[Out]) -> None:
        for effect in out:
            if isinstance(effect, ToNode):
                self._send(effect)
            elif isinstance(effect, Exchange):
                self.exchange(effect.node)
            else:
                effect.to(effect.message)
        wakes_at = self.coordinator.wakes_at()
        if wakes_at is not None and wakes_at < self._wakes_at:
            self._wake_at(wakes_at)

    def _wake_at(self, wakes_at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._wakes_at = wakes_at
        delay_s = max(0.0, wakes_at - time.monotonic())
        self._alarm = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._wakes_at, self._alarm = math.inf, None
        if not self._closing:
            now = time.monotonic()
            self._perform(
                self.coordinator.on_wake(
                    now, wall_ms(), lambda node: self.detector.silence_of(node, now).silence_s
                )
            )

    def _send(self, effect: ToNode) -> None:
        call, message = effect.call, effect.message
        peer = self.peers.get(effect.node)
        if peer is None or peer.connection is None:
            if peer is not None:
                peer.start()
            self._on_failure(call, Failure.UNSENT)
            return
        expires_ms = peer.connection.remote_expiry(int(effect.timeout_s * 1000))
        peer.connection.call(
            message.KIND,
            (expires_ms, effect.epoch, *to_fields(message)),
            partial(self._on_reply, call),
            partial(self._on_failure, call),
            effect.timeout_s + STRAGGLER_S,
        )

    def _on_reply(self, call: int, kind: int, fields: list[Any]) -> None:
        try:
            message = from_fields(kind, fields)
        except BadMessageError:
            message = Refused(Code.UNKNOWN, "the answer could not be read")
        self._perform(self.coordinator.on_reply(call, message, time.monotonic(), wall_ms()))

    def _on_failure(self, call: int, failure: Failure) -> None:
        now = time.monotonic()
        out = self.coordinator.on_failure(call, failure.maybe_received, now, wall_ms())
        self._perform(out)


def _answer(connection: Any, call: int, message: Any) -> None:
    reply_to(connection, call, message.KIND, to_fields(message))


async def open_coordinator(
    charter: Charter, secrets: list[bytes], name: str, host: str, view: View, port: int = 0
) -> CoordinatorServer:
    """Start a coordinator's server and make it known to the nodes. Raises PortInUseError."""
    me, incarnation = os.urandom(8), wall_ms().to_bytes(6, "big") + os.urandom(8)
    server = CoordinatorServer(charter, secrets, me, view)
    identity = Identity(charter.cluster_id, me, incarnation)
    # A node that is not reached yet looks like one that is away: a retry would be minted elsewhere.
    await server.reach_nodes(charter.settings.times.suspect_s)
    host, port = await server.open(host, port, identity)
    server.join(Fact(incarnation, 0, me, COORDINATOR_ROLE, name, host, port))
    return server
