"""node kill and node snapshot; the group also has the commands of changes.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import changes, render
from .cluster import attached_by_ray, kill
from .exits import CommandError, Exit
from .options import Json, Target, command
from .reach import name_of

if TYPE_CHECKING:
    from dynamo_ray.cluster import Cluster

TIMEOUT_S = 600.0


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file, and those of its group."""
    node = typer.Typer(no_args_is_help=True, help="Single storage nodes.")
    command(node, "kill")(kill)
    command(node, "snapshot")(snapshot)
    command(node, "add")(changes.add)
    command(node, "drain")(changes.drain)
    command(node, "remove")(changes.remove)
    command(node, "replace")(changes.replace)
    app.add_typer(node, name="node", rich_help_panel="Clusters")


def snapshot(
    target: Target,
    node: Annotated[
        str | None,
        typer.Argument(metavar="NODE", show_default=False, help="The node's name; all by default."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0.1, max=86_400, help="How long to wait."),
    ] = TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Let a storage node, or each of them, take a snapshot now, and wait for it.

    Nodes take snapshots by themselves; one now makes the next start shorter.
    """
    cluster = _asked(target)
    taken = cluster.snapshot(wait, nodes=[node] if node else None)
    failed = sorted(name for name, one in taken.items() if "problem" in one)
    if as_json:
        render.show_json({"schema": "dynamo_ray.snapshot/1", "nodes": taken})
    else:
        for name, one in sorted(taken.items()):
            if name not in failed:
                render.show(f"{name}: {_in_words(one)}")
    if failed:
        reasons = "; ".join(f"{name}: {taken[name]['problem']}" for name in failed)
        raise CommandError(Exit.FAILED if len(failed) == len(taken) else Exit.DEGRADED, reasons)


def _asked(target: Target) -> Cluster:
    from dynamo_ray.config import load_profile

    name = name_of(target)
    return attached_by_ray(name, load_profile(name))


def _in_words(one: dict[str, Any]) -> str:
    return f"{one['records']:,} records, {render.size(one['bytes'])}, in {one['seconds']:.1f} s"
