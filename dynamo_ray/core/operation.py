"""A group of a request in flight at a coordinator: what is under way for it, and until when."""

from __future__ import annotations

from typing import Any, NamedTuple

from dynamo_ray.core.get import Get
from dynamo_ray.core.messages import (
    Code,
    Effect,
    Fetched,
    GetOutcome,
    Merged,
    Minted,
    PutOutcome,
    Refused,
    Send,
)
from dynamo_ray.core.put import Put
from dynamo_ray.core.requests import GetRequest, Group, PutRequest


class Call(NamedTuple):
    """What was asked of a node; `node` is who got it, in the place of the one it was meant for."""

    send: Send
    node: bytes
    tries: int = 1


class Operation:
    """One group of a request in flight: its machine, and when the caller's time is up.

    After `end` nothing of it is sent any more, nor done by who gets it: a coordinator that was
    stopped for long must not wake up with what the others have forgotten since (rule 12).
    `expected` are the nodes that were suspected when it began: its route makes allowance for them.
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
        "to",
    )

    def __init__(
        self,
        to: Any,
        request: PutRequest | GetRequest,
        group: Group,
        deadline: float,
        end: float,
        expected: frozenset[bytes],
    ) -> None:
        self.to = to
        self.request = request
        self.group = group
        self.machine: Put | Get = group.machine
        self.deadline = deadline
        self.end = end
        self.expected = expected
        self.lingers = False
        self.reached: set[bytes] = set()
        self.calls: dict[int, Call] = {}

    def on_reply(self, asked: Send, message: Any) -> list[Effect]:
        """A node's answer as an event of the machine; one of the wrong kind is a failure."""
        machine, node = self.machine, asked.node
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

    def gather(self, outcome: PutOutcome | GetOutcome, wall_ms: int) -> Any:
        """Its part of the request's reply; the reply, if it was the last part."""
        request, group = self.request, self.group
        if isinstance(request, PutRequest) and isinstance(outcome, PutOutcome):
            return request.on_outcome(group, outcome)
        assert isinstance(request, GetRequest) and isinstance(outcome, GetOutcome)
        return request.on_outcome(group, outcome, wall_ms)
