"""ring and ring plan: how partitions are shared out, and what a change of nodes would move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .exits import CommandError, Exit
from .options import Json, Target, command, group
from .reach import charter_of, connected

if TYPE_CHECKING:
    from dynamo_ray.core.plan import Plan
    from dynamo_ray.core.ring import Member, Ring
    from dynamo_ray.planning import Wish
    from dynamo_ray.survey import NodeStatus, Status

Nodes = list[str]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    rings = typer.Typer()
    group(rings, ring)
    command(rings, "plan")(plan)
    from . import changes  # which shows plans itself

    command(rings, "commit")(changes.commit)
    command(rings, "transfers")(changes.transfers)
    app.add_typer(rings, name="ring", rich_help_panel="Clusters")


async def ring(
    target: Target,
    every: Annotated[bool, typer.Option("--all", help="A line for every partition, too.")] = False,
    as_json: Json = False,
) -> None:
    """Show how the ring is shared out: partitions and copies per node."""
    async with connected(target) as connection:
        charter = charter_of(connection)
        placed = connection.client.session.placement().ring
    names = {member.node: member.name for member in placed.members}
    owners = [[names[o] for o in placed.owners(p)] for p in range(placed.partitions)]
    shares = _shares(placed, owners)
    if as_json:
        render.show_json(
            {
                "schema": "dynamo_ray.ring/1",
                "name": charter.name,
                "epoch": placed.epoch.hex(),
                "n": placed.copies,
                "partitions": placed.partitions,
                "nodes": shares,
                "owners": owners,
            }
        )
        return
    rows = [
        (
            one["name"],
            one["zone"] or "-",
            f"{one['weight']:g}",
            str(one["slots"]),
            f"{one['share']:.1%}",
            str(one["first"]),
        )
        for one in shares
    ]
    heads = ("NODE", "ZONE", "WEIGHT", "COPIES", "SHARE", "FIRST")
    head, *lines = render.table(heads, rows, right=frozenset({2, 3, 4, 5}))
    render.show(head, "dim")
    for line in lines:
        render.show(line)
    if every:
        for partition, nodes in enumerate(owners):
            render.show(f"{partition:>5}  {' '.join(nodes)}")


def _shares(placed: Ring, owners: list[list[str]]) -> list[dict[str, Any]]:
    from dynamo_ray.core.ring import by_name

    slots = Counter(name for row in owners for name in row)
    first = Counter(row[0] for row in owners)
    return [
        {
            "name": member.name,
            "zone": member.zone,
            "weight": member.weight,
            "slots": slots[member.name],
            "share": slots[member.name] / sum(slots.values()),
            "first": first[member.name],
        }
        for member in sorted(placed.members, key=by_name)
    ]


async def plan(
    target: Target,
    add: Annotated[
        Nodes | None,
        typer.Option(
            "--add",
            metavar="NAME[:ZONE[:WEIGHT]]",
            show_default=False,
            help="A node that would come; repeatable.",
        ),
    ] = None,
    remove: Annotated[
        Nodes | None,
        typer.Option(
            "--remove",
            metavar="NAME",
            show_default=False,
            help="A node that would hand over what it has and go; repeatable.",
        ),
    ] = None,
    replace: Annotated[
        Nodes | None,
        typer.Option(
            "--replace",
            metavar="OLD:NEW",
            show_default=False,
            help="A dead node, and the new one in its place; repeatable.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a change of nodes would move, and whether that is safe. Changes nothing."""
    made, known = await planned(target, _wish_of(add or (), remove or (), replace or ()))
    if as_json:
        render.show_json(described(made, known))
    else:
        show_plan(described(made, known), render.show)
    check_safety(made, known)


async def shown_plan(target: Target, wish: Wish, forced: bool = False) -> dict[str, Any]:
    """Say on stderr what a change would move. Raises UnsafeChangeError if that is not safe."""
    made, known = await planned(target, wish)
    shown = described(made, known)
    show_plan(shown, render.say)
    check_safety(made, known, forced)
    return shown


async def planned(target: Target, wish: Wish) -> tuple[Plan, Status]:
    """What would come of a wish now. Raises what speaks against it."""
    from dynamo_ray.survey import status

    async with connected(target, members_only=True) as connection:
        placed = connection.client.session.placement().ring
        known = await status(connection.client.session, connection.credentials)
    return wish(placed, _states(known)), known


def check_safety(made: Plan, known: Status, forced: bool = False) -> None:
    """Raises UnsafeChangeError."""
    from dynamo_ray import planning

    planning.check_safety(made, _states(known), known.w, forced)


def _states(known: Status) -> dict[str, str]:
    return {node.name: node.state for node in known.nodes}


def _wish_of(add: Sequence[str], remove: Sequence[str], replace: Sequence[str]) -> Wish:
    """Several changes at once, as the options name them."""
    from dynamo_ray.core.plan import PlanError, plan

    def wish(placed: Ring, states: Mapping[str, str]) -> Plan:
        try:
            added = [_newcomer(text) for text in add]
            replaced = dict(_replacement(text, placed) for text in replace)
            return plan(placed, added, remove, replaced)
        except PlanError as error:
            raise CommandError(Exit.USAGE, str(error)) from error

    return wish


def _newcomer(text: str) -> Member:
    """NAME, NAME:ZONE or NAME:ZONE:WEIGHT. Its id is drawn when it really comes."""
    from dynamo_ray.core.ring import Member

    name, _, rest = text.partition(":")
    zone, _, weight = rest.partition(":")
    try:
        return Member(_made_up_id(name), name, zone, float(weight or 1))
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"--add {text}: {error}") from error


def _replacement(text: str, placed: Ring) -> tuple[str, Member]:
    """OLD:NEW, the new one with the zone and the weight of the old one."""
    from dataclasses import replace as changed

    old, _, new = text.partition(":")
    known = {member.name: member for member in placed.members}
    if not new or old not in known:
        named = ", ".join(sorted(known))
        raise CommandError(Exit.USAGE, f"--replace {text}: OLD:NEW, OLD one of {named}")
    return old, changed(known[old], node=_made_up_id(new), name=new)


def _made_up_id(name: str) -> bytes:
    from hashlib import blake2b

    return blake2b(name.encode(), digest_size=8).digest()


def described(made: Plan, known: Status) -> dict[str, Any]:
    """The plan in the words of people; bytes are estimated from what each node holds now."""
    from dynamo_ray.core.ring import by_name
    from dynamo_ray.planning import living

    members = {m.node: m for placed in (made.before, made.after) for m in placed.members}
    up = living(made.before, _states(known))
    gives, gets = (Counter(getattr(m, who) for m in made.moves) for who in ("giver", "receiver"))
    a_copy = _bytes_a_copy(made, known)
    nodes: list[dict[str, Any]] = [
        {
            "name": members[node].name,
            "zone": members[node].zone,
            "before": before,
            "after": after,
            "gives": gives[node],
            "gets": gets[node],
            "gets_bytes": round(gets[node] * a_copy),
        }
        for node, (before, after) in sorted(
            made.copies().items(), key=lambda one: by_name(members[one[0]])
        )
    ]
    return {
        "schema": "dynamo_ray.ring_plan/1",
        "name": known.name,
        "copies": len(made.before.slots),
        "moves": len(made.moves),
        "bytes": round(len(made.moves) * a_copy),
        "nodes": nodes,
        "w": known.w,
        "unsafe_partitions": list(made.weak(up, known.w)),
    }


def _bytes_a_copy(made: Plan, known: Status) -> float:
    """What one copy of a partition weighs, on the average of the nodes that answer."""
    names = {m.name: m.node for m in made.before.members}
    copies = made.copies()
    told: list[NodeStatus] = [node for node in known.nodes if node.pid]
    slots = sum(copies[names[node.name]][0] for node in told)
    return sum(node.bytes for node in told) / slots if slots else 0.0


def show_plan(shown: dict[str, Any], show: Callable[..., None]) -> None:
    rows = [
        (
            one["name"],
            one["zone"] or "-",
            str(one["before"]),
            str(one["after"]),
            str(one["gives"]),
            str(one["gets"]),
            render.size(one["gets_bytes"]),
        )
        for one in shown["nodes"]
    ]
    heads = ("NODE", "ZONE", "COPIES", "AFTER", "GIVES", "GETS", "ABOUT")
    head, *lines = render.table(heads, rows, right=frozenset({2, 3, 4, 5, 6}))
    show(head, "dim")
    for line in lines:
        show(line)
    share = shown["moves"] / shown["copies"]
    show(
        f"{shown['moves']} of {shown['copies']} copies move ({share:.1%}),"
        f" about {render.size(shown['bytes'])}"
    )
