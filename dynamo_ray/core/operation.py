"""A group of a request in flight at a coordinator: what is under way for it, and until when."""

from __future__ import annotations

from typing import Any, NamedTuple

from dynamo_ray.core.get import Get
from dynamo_ray.core.joint import Joint
from dynamo_ray.core.messages import Send
from dynamo_ray.core.put import Put
from dynamo_ray.core.requests import GetRequest, Group, PutRequest
from dynamo_ray.core.rerouting import Part
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
    `ring` is the one that it began with, and `reached` are the nodes that had some part in it.
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
        end: float,
        expected: frozenset[bytes],
        ring: Ring,
    ) -> None:
        self.to = to
        self.request = request
        self.group = group
        self.machine: Put | Get = group.machine
        self.deadline = deadline
        self.end = end
        self.expected = expected
        self.ring = ring
        self.lingers = False
        self.reached: set[bytes] = set()
        self.calls: dict[int, Call] = {}
