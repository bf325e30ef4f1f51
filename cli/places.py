"""status, where and version: how the cluster is, and where keys live. They only look."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from . import render
from .exits import Exit
from .options import Json, Key, Target, command, key_bytes
from .reach import Connection, connected

if TYPE_CHECKING:
    from dynamo_ray.survey import NodeStatus, Status

WHERE = 34


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, "status", rich_help_panel="Clusters")(status)
    command(app, "where", rich_help_panel="Keys")(where)


async def status(
    target: Target,
    watch: Annotated[
        float | None,
        typer.Option(
            "--watch",
            metavar="SECONDS",
            min=0.1,
            show_default=False,
            help="Show it again and again, until interrupted.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how the cluster is, one line per node. Exit 9 if it is degraded."""
    import asyncio

    while True:
        # Connected anew each time: a view of a moment ago would show a restarted node as down.
        async with connected(target, members_only=True) as connection:
            known, copies = await _look(connection)
        if watch and sys.stdout.isatty() and not as_json:
            print(render.CLEAR_SCREEN, end="")
        if as_json:
            shown = {**known.to_dict(), "partitions_by_copies_up": copies}
            render.show_json(shown, pretty=watch is None)
        else:
            _show_status(known, copies)
        if watch is None:
            break
        sys.stdout.flush()
        await asyncio.sleep(watch)
    if not known.healthy:
        raise SystemExit(Exit.DEGRADED)


async def _look(connection: Connection) -> tuple[Status, dict[int, int]]:
    """The status, and how many partitions have how many of their owners up."""
    from dynamo_ray.survey import status as survey

    known = await survey(connection.client.session, connection.credentials)
    placed = connection.client.session.placement().ring
    names = {member.node: member.name for member in placed.members}
    up = {node.name for node in known.nodes if node.state == "up"}
    copies = Counter(
        sum(names[owner] in up for owner in placed.owners(partition))
        for partition in range(placed.partitions)
    )
    return known, dict(sorted(copies.items()))


def _show_status(known: Status, copies: dict[int, int]) -> None:
    health = (
        render.styled("HEALTHY", "green") if known.healthy else render.styled("DEGRADED", "red")
    )
    render.show(
        f"{render.styled(known.name, 'bold')}   N={known.n} R={known.r} W={known.w}   "
        f"{known.partitions} partitions   {known.durability}   {health}"
    )
    heads = ("NODE", "STATE", "ZONE", "KEYS", "BYTES", "LOG", "HINTS", "HOLD", "PID", "ADDRESS")
    rows = [_node_row(node) for node in known.nodes]
    head, *lines = render.table(heads, rows, right=frozenset({3, 4, 5, 6, 7, 8}))
    render.show(head, "dim")
    for node, line in zip(known.nodes, lines, strict=True):
        render.show(line, "" if node.state == "up" else "yellow" if node.pid else "red")
    for one in known.coordinators:
        render.show(f"{one['name']}  {one['state']}  {one['address']}", "dim")
    for sentence in _remarks(known, copies):
        render.show(f"! {sentence}", "yellow")


def _node_row(node: NodeStatus) -> tuple[str, ...]:
    zone = node.zone or "-"
    if not node.pid:
        return (node.name, node.state, zone, *["-"] * 6, node.address or "-")
    return (
        node.name,
        node.state,
        zone,
        f"{node.keys:,}",
        render.size(node.bytes),
        render.size(node.log_bytes),
        _hints(node),
        f"{node.longest_hold_ms:.0f} ms",
        str(node.pid),
        node.address,
    )


def _hints(node: NodeStatus) -> str:
    return " ".join(f"{count:,}→{owner}" for owner, count in sorted(node.hints.items())) or "0"


def _remarks(known: Status, copies: dict[int, int]) -> list[str]:
    """What is not as it should be, and what that means."""
    remarks = [f"{node.name} is {node.state}" for node in known.nodes if node.state != "up"]
    remarks += [
        f"{node.name} takes no writes: its disk is full, or fails; free some space there"
        for node in known.nodes
        if node.state == "read-only"
    ]
    remarks += [f"{c['name']} does not answer" for c in known.coordinators if c["state"] != "up"]
    for up, partitions in copies.items():
        if up < known.n:
            remarks.append(
                f"{partitions} partitions have {up} of {known.n} owners up: "
                + _meaning(up, known.r, known.w)
            )
    waiting = sum(sum(node.hints.values()) for node in known.nodes)
    if waiting:
        remarks.append(f"{waiting:,} hints wait to be handed to their owners")
    return remarks


def _meaning(up: int, r: int, w: int) -> str:
    reads = "reads go on" if up >= r else "reads may miss writes (degraded) or be unavailable"
    writes = "writes go on" if up >= w else "writes need stand-ins"
    return f"{reads}, {writes}"


async def where(key: Key, target: Target, as_json: Json = False) -> None:
    """Show where KEY lives: its partition, its owners and who stands in for them."""
    async with connected(target) as connection:
        [place] = await connection.client.ask(WHERE, [key_bytes(key)])
    if as_json:
        named = render.named("key", key_bytes(key))
        render.show_json({"schema": "dynamo_ray.where/1", **named, **place})
        return
    render.show(f"partition  {place['partition']}")
    render.show(f"owners     {_named(place['owners'], place['suspected'])}")
    render.show(f"stand-ins  {_named(place['stand_ins'], place['suspected']) or '-'}")
    for node, held in sorted(place.get("held", {}).items()):
        render.show(f"{node:<9}  {held}")


def _named(nodes: list[str], suspected: list[str]) -> str:
    return " ".join(f"{node} (suspected)" if node in suspected else node for node in nodes)


def version(as_json: Json = False) -> None:
    """Show the versions of dynamo-ray, Ray, Arrow and Python."""
    import platform
    from importlib import metadata

    import dynamo_ray

    found = {"dynamo-ray": dynamo_ray.__version__}
    for name in ("ray", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["python"] = platform.python_version()
    if as_json:
        render.show_json(found)
    else:
        for name, number in found.items():
            render.show(f"{name:<11} {number}")
