"""A group of a request in flight at a coordinator: what is under way for it, and until when."""

from __future__ import annotations

from typing import Any, NamedTuple

from dynamo_ray.core.get import Get
from dynamo_ray.core.messages import Send
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
