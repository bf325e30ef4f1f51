"""repair run, repair status and verify: whether the copies are equal, and making them so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .exits import CommandError, Exit
from .options import Json, Target, command
from .reach import Connection, connected

if TYPE_CHECKING:
    from dynamo_ray.repairing import Repaired
    from dynamo_ray.survey import NodeStatus
    from dynamo_ray.verifying import Difference, Verified

EXAMPLES_SHOWN = 3

Partition = Annotated[
    int | None,
    typer.Option(
        "--partition",
        metavar="N",
        min=0,
        show_default=False,
        help="Only this partition; `where KEY` says which one a key is in.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    repair = typer.Typer(no_args_is_help=True, help="Compare copies, and mend what differs.")
    command(repair, "run")(repair_run)
    command(repair, "status")(repair_status)
    app.add_typer(repair, name="repair", rich_help_panel="Clusters")
    command(app, "verify", rich_help_panel="Clusters")(verify)


async def repair_run(target: Target, partition: Partition = None, as_json: Json = False) -> None:
    """Let all owners compare their copies now, and wait for it. Exit 9 if some could not."""
    from dynamo_ray.repairing import repair

    async with connected(target, members_only=True) as connection:
        _check(connection, partition)
        bar = render.Progress("comparing", 1.0)

        def moved(left: int, total: int, keys: int) -> None:
            done = 1 - left / total if total else 1.0
            bar.at(done, f"{total - left:,} of {total:,} comparisons, {keys:,} keys exchanged")

        session, credentials = connection.client.session, connection.credentials
        done = await repair(session, credentials, partition, moved)
        bar.end()
    if as_json:
        render.show_json({"schema": "dynamo_ray.repair/1", **done.to_dict()})
    else:
        _show_repaired(done)
    if not done.is_whole:
        raise SystemExit(Exit.DEGRADED)


def _show_repaired(done: Repaired) -> None:
    heads = ("NODE", "COMPARISONS", "IN", "OUT", "BYTES")
    rows = [
        (
            node.name,
            f"{node.comparisons:,}",
            f"{node.keys_received:,}",
            f"{node.keys_sent:,}",
            render.size(node.bytes),
        )
        for node in done.nodes
    ]
    _show_table(heads, rows)
    for node in done.nodes:
        if node.silent:
            render.show(f"! {node.name} did not answer to the end", "yellow")
        if node.failed:
            text = f"{node.failed:,} comparisons of {node.name} failed; run it again"
            render.show(f"! {text}", "yellow")
        if node.left_out:
            text = f"{node.name} could not reach {' '.join(node.left_out)}"
            render.show(f"! {text}; they are compared when they are back", "yellow")


async def repair_status(target: Target, as_json: Json = False) -> None:
    """Show how far each node's comparisons with other owners have come."""
    from dynamo_ray.survey import status

    async with connected(target, members_only=True) as connection:
        known = await status(connection.client.session, connection.credentials)
    if as_json:
        nodes = [{"name": one.name, "state": one.state, **one.repair} for one in known.nodes]
        render.show_json({"schema": "dynamo_ray.repair_status/1", "nodes": nodes})
        return
    heads = ("NODE", "STATE", "ROUND", "RUNNING", "ASKED FOR", "COMPARISONS", "RECEIVED", "SENT")
    _show_table(
        (*heads, "BYTES"), [_status_row(one) for one in known.nodes], frozenset(range(2, 9))
    )


def _status_row(node: NodeStatus) -> tuple[str, ...]:
    known = node.repair
    if not known:
        return (node.name, node.state, *["-"] * 7)
    round_s = known["round_s"]
    return (
        node.name,
        node.state,
        "-" if round_s is None else f"{round_s:,.0f} s",
        "-" if known["running"] is None else f"p{known['running']}",
        f"{known['demanded']:,}",
        f"{known['comparisons']:,}",
        f"{known['keys_received']:,}",
        f"{known['keys_sent']:,}",
        render.size(known["bytes"]),
    )


async def verify(target: Target, partition: Partition = None, as_json: Json = False) -> None:
    """Read all copies and show where they differ. Exit 9 if any do, or cannot be read."""
    from dynamo_ray.verifying import verify as compare

    async with connected(target, members_only=True) as connection:
        _check(connection, partition)
        bar = render.Progress("verifying", 1.0)

        def moved(done: int, of: int) -> None:
            bar.at(done / of, f"{done:,} of {of:,} partitions")

        partitions = None if partition is None else [partition]
        session, credentials = connection.client.session, connection.credentials
        found = await compare(session, credentials, partitions, moved)
        bar.end()
    if as_json:
        render.show_json(_verified_as_json(found))
    else:
        _show_verified(found)
    if not found.are_equal:
        raise SystemExit(Exit.DEGRADED)


def _verified_as_json(found: Verified) -> dict[str, Any]:
    shown = found.to_dict()
    for difference in shown["differences"]:
        difference["examples"] = [render.named("key", key) for key in difference["examples"]]
    return {"schema": "dynamo_ray.verify/1", **shown}


def _show_verified(found: Verified) -> None:
    if found.differences:
        heads = ("PARTITION", "KEYS DIFFER", "LACKING", "FOR EXAMPLE")
        rows = [_difference_row(one) for one in found.differences]
        _show_table(heads, rows, frozenset({0, 1}))
    differing = sum(one.keys for one in found.differences)
    render.show(
        f"{found.partitions:,} partitions compared: "
        + (f"{differing:,} keys differ" if differing else "all copies that were read are equal")
    )
    for names, partitions in _by_owners(found.unread).items():
        render.show(f"! {names} did not give their copies of {partitions:,} partitions", "yellow")
    for names, partitions in _by_owners(found.doubted).items():
        text = f"{names} cannot prove {partitions:,} partitions complete, and compare them"
        render.show(f"! {text}", "yellow")
    if found.differences:
        render.say("`dynamo-ray repair run` compares and mends them now", "dim")


def _difference_row(one: Difference) -> tuple[str, ...]:
    lacking = " ".join(f"{name}:{count:,}" for name, count in one.lacking.items() if count)
    examples = " ".join(render.glimpse(key, 20) for key in one.examples[:EXAMPLES_SHOWN])
    return str(one.partition), f"{one.keys:,}", lacking or "-", examples


def _by_owners(where: dict[int, list[str]]) -> dict[str, int]:
    """How many partitions it is, by the names of the owners."""
    counts: dict[str, int] = {}
    for names in where.values():
        text = " ".join(sorted(names))
        counts[text] = counts.get(text, 0) + 1
    return counts


def _show_table(
    heads: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    right: frozenset[int] = frozenset({1, 2, 3, 4}),
) -> None:
    head, *lines = render.table(heads, rows, right=right)
    render.show(head, "dim")
    for line in lines:
        render.show(line)


def _check(connection: Connection, partition: int | None) -> None:
    """Refuse a partition that there is not. Raises CommandError."""
    from dynamo_ray.core.charter import charter_from

    q = charter_from(connection.client.session.charter).settings.partitions
    if partition is not None and partition >= q:
        raise CommandError(Exit.USAGE, f"--partition is {partition}; the last one is {q - 1}")
