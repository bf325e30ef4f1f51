"""A change of nodes as an operator wishes it: what it would move, or why it cannot be.

Nobody is asked and nothing is changed, so a command that only plans says just what it would do, or
refuse. Nodes are named by their names; `states` are what they say of themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from dynamo_ray.config import check_name
from dynamo_ray.core.plan import Plan, plan, rebalanced
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.slots import Placement
from dynamo_ray.errors import BadRequestError, UnavailableError, UnsafeChangeError

States = Mapping[str, str]
Wish = Callable[[Ring, States], Plan]
_COMING_BACK = ("starting", "recovering")


def newcomer(name: str, zone: str = "", weight: float = 1.0, machine: str = "") -> Member:
    """A node that nobody knows yet, with a fresh id. BadRequestError for what no node can be."""
    check_name(name)
    try:
        return Member(os.urandom(8), name, zone, weight, machine)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def adding(member: Member) -> Wish:
    """A node comes. The wish raises BadRequestError for a name that is taken."""
    return lambda ring, states: _sound(lambda: plan(ring, add=[member]))


def weighing(name: str, weight: float) -> Wish:
    """A node has another weight from now on; with 0 it hands over all that it has.

    The wish raises BadRequestError, and UnavailableError if the node does not answer: it must do
    its part itself.
    """

    def wish(ring: Ring, states: States) -> Plan:
        known = member_of(ring, name)
        state = states.get(name, "down")
        if not _answers(state):
            raise UnavailableError(
                1,
                0,
                f"node {name!r} is {state} and cannot hand over what it has; replace it if it does"
                " not come back",
            )

        def planned() -> Plan:
            weighed = replace(known, weight=weight)
            return plan(ring, changed=[weighed if m is known else m for m in ring.members])

        return _sound(planned)

    return wish


def balancing() -> Wish:
    """Every node has the share that its weight gives it: what changes left undone goes on."""
    return lambda ring, states: rebalanced(ring)


def replacing(old: str, new: Member, forced: bool = False) -> Wish:
    """A new node takes the place of one that is gone, with its weight. BadRequestError."""

    def wish(ring: Ring, states: States) -> Plan:
        known = member_of(ring, old)
        state = states.get(old, "down")
        if not forced and (_answers(state) or state in _COMING_BACK):
            raise BadRequestError(
                f"node {old!r} is {state}; drain or remove it, which loses nothing, or force it"
            )
        member = replace(new, weight=known.weight)
        return _sound(lambda: plan(ring, replaced={old: member}))

    return wish


def check_safety(made: Plan, states: States, least: int, forced: bool) -> None:
    """Raises UnsafeChangeError where what moves has fewer than `least` living copies."""
    weak = made.weak(living(made.before, states), least)
    if weak and not forced:
        raise UnsafeChangeError(weak, least)


def living(ring: Ring, states: States) -> list[bytes]:
    """The nodes that are up."""
    return [member.node for member in ring.members if states.get(member.name) == "up"]


def member_of(ring: Ring, name: str) -> Member:
    """The member of that name. Raises BadRequestError."""
    for member in ring.members:
        if member.name == name:
            return member
    known = ", ".join(sorted(member.name for member in ring.members))
    raise BadRequestError(f"there is no node {name!r}; there are {known}")


def name_for(node: str | None, placement: Placement, left: Collection[str]) -> str:
    """A new node's name; by default the one after the highest like n1 that is or was there.

    `left` are the names of directories, those of nodes that were removed, too. Raises
    BadRequestError for one of these, and for what cannot be a name.
    """
    present = {member.name for member in placement.ring.members}
    if node is None:
        names = [*present, *left, *(member.name for member in placement.charter.members)]
        numbers = [int(name[1:]) for name in names if name[:1] == "n" and name[1:].isdecimal()]
        return f"n{max(numbers, default=0) + 1}"
    check_name(node)
    if node in left and node not in present:
        raise BadRequestError(
            f"a directory {node!r} is there already, perhaps a removed node's; move it away, or"
            " give the new node another name"
        )
    return node


def _answers(state: str) -> bool:
    return state == "up" or state.startswith("suspected")


def _sound(planned: Callable[[], Plan]) -> Plan:
    """What is planned, or what is wrong with the wish: a PlanError, or a weight that none is."""
    try:
        return planned()
    except ValueError as error:
        raise BadRequestError(str(error)) from error
