"""The coordinator: takes a client's request, runs its machines, and answers (Dynamo §4.5, §5).

    client ─ request ─► groups by route ─► Put, Get ─ ToNode(call) ─► nodes
    client ◄─ ToClient ◄─ gathered ◄────── Done         replies, failures, suspicions ─┘

It holds nothing but the requests in flight, so any coordinator can take any request and losing one
loses no data. Time is an argument, in seconds of the observer's monotonic clock. A call that fails
late, or is answered after its request has ended, does no harm and is only counted. A mint that
takes unusually long is asked of another owner as well (core/speculation.py). What is refused for
another ring goes to whoever owns it now, once both sides know the same (core/rerouting.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dynamo_ray.core.admission import refusal
from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.in_flight import InFlight
from dynamo_ray.core.joint import Failed
from dynamo_ray.core.messages import (
    Code,
    Done,
    Effect,
    Fetched,
    Merge,
    Merged,
    Mint,
    Refused,
    Send,
)
from dynamo_ray.core.operation import Call, Operation, calls_of
from dynamo_ray.core.put import Put
from dynamo_ray.core.requests import Desk, PutRequest, reply_of, request_of
from dynamo_ray.core.rerouting import Part
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.speculation import MOST_KEYS, Silence, Speculation
from dynamo_ray.core.values import value

ELSEWHERE = Refused(Code.OTHER_EPOCH, "the keys have other owners by now")


@value
class ToNode:
    """Effect: send a request to a node; it expires `timeout_s` from now on the node's clock."""

    node: bytes
    call: int
    message: Any
    timeout_s: float
    epoch: bytes


@value
class ToClient:
    """Effect: answer the client's request `to`."""

    to: Any
    message: Any


Out = ToNode | ToClient | Exchange


class Coordinator:
    """The requests in flight at one coordinator."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.late_replies = 0
        self.speculation = Speculation()
        self._open = InFlight()
        self._refused: dict[bytes, list[tuple[Operation, Call]]] = {}
        self._gone: frozenset[bytes] = frozenset()

    @property
    def in_flight(self) -> int:
        """How many groups of keys are being worked on, stragglers included."""
        return len(self._open)

    def on_request(
        self, to: Any, message: Any, expires: float, now: float, wall_ms: int
    ) -> list[Out]:
        """A client's request: start its machines, or refuse it whole, quickly (rule 19).

        `expires` is a reading of this coordinator's clock, made by the client.
        """
        times, limits = self.desk.settings.times, self.desk.settings.limits
        refused = refusal(message, expires <= now, self._open.unanswered, limits)
        if refused is not None:
            return [ToClient(to, refused)]
        request = request_of(message, self.desk, self.speculation.slow)
        deadline = min(expires, now + times.timeout_max_s)
        out: list[Out] = []
        if not request.groups:
            out.append(ToClient(to, reply_of(request, wall_ms)))
        for group in request.groups:
            operation = Operation(to, request, group, deadline, self.desk)
            self._begin(operation, now, wall_ms, out)
        return out

    def on_reply(self, call: int, message: Any, now: float, wall_ms: int) -> list[Out]:
        """A node's answer to `call`."""
        ended = self._open.end_call(call)
        if ended is None:
            self.late_replies += 1
            return []
        operation, asked = ended
        self.speculation.on_reply(call, asked.node, message, now)
        if asked.node in self._gone and isinstance(message, Merged | Fetched):
            message = ELSEWHERE  # it holds that, or not: who has its place by now is to be asked
        if isinstance(message, Refused) and message.code == Code.OTHER_EPOCH:
            waiting = self._refused.setdefault(asked.node, [])
            waiting.append((operation, asked))
            return [Exchange(asked.node)] if len(waiting) == 1 else []
        out: list[Out] = []
        self._end_call(operation, asked, message, now, wall_ms, out)
        return out

    def on_exchanged(self, node: bytes, now: float, wall_ms: int) -> list[Out]:
        """This side and a node know the same now, or could not tell each other: go on."""
        out: list[Out] = []
        for operation, asked in self._refused.pop(node, ()):
            ring = self.desk.ring
            if operation not in self._open or now >= operation.end:
                continue
            if not operation.is_in_vain(asked.send) and operation.has_forked(asked.send, ring):
                self._fork(operation, asked.send, now, wall_ms, out)
            elif parts := operation.again(asked, ring, self.desk.suspected):
                out += self._send_parts(operation, asked.send, parts, now, True, asked)
            else:
                self._end_call(operation, asked, ELSEWHERE, now, wall_ms, out)
        return out

    def _end_call(
        self, operation: Operation, asked: Call, end: Any, now: float, wall_ms: int, out: list[Out]
    ) -> None:
        """A call has ended, with an answer or Failed: the machine hears of it, once it is whole."""
        if asked.joint is not None:
            end = asked.joint.on_end(asked.part, end)
            if end is None:
                return
        effects = operation.on_end(asked.send, end)
        self._perform(operation, effects, now, wall_ms, out)

    def on_ring(self, ring: Ring, now: float, wall_ms: int) -> list[Out]:
        """Requests from now on go to whom this ring says; who is no member counts for none."""
        members = {member.node for member in self.desk.ring.members}
        gone = frozenset(members - {member.node for member in ring.members})
        self.desk, self._gone = replace(self.desk, ring=ring), self._gone | gone
        out: list[Out] = []
        for operation in list(self._open.operations) if gone else ():
            self._perform(operation, operation.machine.on_gone(gone), now, wall_ms, out)
        return out

    def on_failure(self, call: int, maybe_applied: bool, now: float, wall_ms: int) -> list[Out]:
        """No answer will come to `call`: never sent, or its connection was lost."""
        ended = self._open.end_call(call)
        if ended is None:
            return []
        operation, asked = ended
        self.speculation.on_end(call)
        out: list[Out] = []
        self._end_call(operation, asked, Failed(maybe_applied), now, wall_ms, out)
        return out

    def on_suspected(
        self, suspected: frozenset[bytes], new: frozenset[bytes], now: float, wall_ms: int
    ) -> list[Out]:
        """Route around `suspected` from now on, and do not wait for the `new` ones any longer.

        Their calls stay open: an answer that comes after all is still welcome.
        """
        self.desk = replace(self.desk, suspected=suspected)
        out: list[Out] = []
        if new:
            self.speculation.on_suspected(new)
            for operation in list(self._open.operations):
                asked = {c.send.node for c in operation.calls.values() if c.node in new}
                for node in sorted(asked):
                    effects = operation.machine.on_failure(node, True)
                    self._perform(operation, effects, now, wall_ms, out)
        return out

    def wakes_at(self) -> float | None:
        """When `on_wake` is due next, on the monotonic clock."""
        return self.speculation.wakes_at()

    def on_wake(self, now: float, wall_ms: int, silence_s: Silence) -> list[Out]:
        """Ask another owner for what a slow and silent one was asked to mint."""
        out: list[Out] = []
        for call in self.speculation.late(now, silence_s):
            operation = self._open.of_call(call)
            if not self.speculation.affordable:
                self.speculation.postpone(call, now)
            elif isinstance(operation.machine, Put):
                effects = operation.machine.on_late(operation.calls[call].send.node)
                if effects:
                    self.speculation.on_speculated()
                self._perform(operation, effects, now, wall_ms, out)
        return out

    def on_tick(self, now: float, wall_ms: int) -> list[Out]:
        """End what has run out of time: first the caller's, then that of the work after it."""
        out: list[Out] = []
        for operation in [one for one in self._open.operations if one.deadline <= now]:
            self._perform(operation, operation.machine.on_deadline(), now, wall_ms, out)
        return out

    def _begin(self, operation: Operation, now: float, wall_ms: int, out: list[Out]) -> None:
        self._open.begin(operation)
        self._perform(operation, operation.machine.start(), now, wall_ms, out)

    def _fork(
        self, operation: Operation, send: Send, now: float, wall_ms: int, out: list[Out]
    ) -> None:
        """Keys of a put have different owners by now: it begins anew, as one put for each route.

        Each finds a minter of its own then. If an earlier minter may still answer for all of
        them, that is waited for instead: to ask others as well would only make siblings. What one
        that was given up mints after all stays where it is until it is read or repaired.
        """
        put, request = operation.machine, operation.request
        assert isinstance(put, Put) and isinstance(request, PutRequest)
        if put.on_parted(send.node):
            self._close(operation)
            for group in request.forked(operation.group, self.desk, self.speculation.slow):
                one = Operation(operation.to, request, group, operation.deadline, self.desk)
                self._begin(one, now, wall_ms, out)

    def _perform(
        self,
        operation: Operation,
        effects: list[Effect],
        now: float,
        wall_ms: int,
        out: list[Out],
    ) -> None:
        closed = operation.machine.closed
        vain: list[Send] = []
        for effect in effects:
            if isinstance(effect, Send):
                if now < operation.end and operation.has_forked(effect, self.desk.ring):
                    self._fork(operation, effect, now, wall_ms, out)
                elif not closed and effect.node in self.desk.suspected - operation.expected:
                    vain.append(effect)
                elif now < operation.end:
                    parts = operation.parts(effect, self.desk.ring)
                    out += self._send_parts(operation, effect, parts, now, not closed)
            elif isinstance(effect, Done):
                reply = operation.gather(effect.outcome, wall_ms)
                out += [ToClient(operation.to, reply)] if reply is not None else []
        if closed:
            self._close(operation)
        elif operation.machine.answered and not operation.lingers:
            # The caller's time may be short; what goes on after its answer has time of its own.
            operation.lingers = True
            self._open.on_answered(operation)
            operation.deadline = now + self.desk.settings.times.linger_s
        for send in vain:
            # Suspected since it began, and no suspicion of it will come any more: go on at once.
            effects = operation.machine.on_failure(send.node, False, send.message)
            self._perform(operation, effects, now, wall_ms, out)

    def _send_parts(
        self,
        operation: Operation,
        send: Send,
        parts: list[Part],
        now: float,
        tracked: bool,
        before: Call | None = None,
    ) -> list[Out]:
        return [self._send(operation, one, now, tracked) for one in calls_of(send, parts, before)]

    def _send(self, operation: Operation, asked: Call, now: float, tracked: bool) -> ToNode:
        call = self._open.new_call()
        if tracked:
            self._open.add_call(call, operation, asked)
        operation.on_sent(asked)
        timeout_s = max(0.0, operation.deadline - now)
        message = asked.part.message
        if isinstance(message, Merge):
            timeout_s += self.desk.settings.times.linger_s
        elif isinstance(message, Mint) and len(message.keys) <= MOST_KEYS:
            begin_s = self.speculation.on_mint(call, asked.node, now)
            if isinstance(operation.machine, Put) and operation.machine.has_another:
                timeout_s = min(timeout_s, begin_s)
        timeout_s = min(timeout_s, operation.end - now)
        return ToNode(asked.node, call, message, timeout_s, asked.part.epoch)

    def _close(self, operation: Operation) -> None:
        for call in self._open.close(operation):
            self.speculation.on_end(call)
