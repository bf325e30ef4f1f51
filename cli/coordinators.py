"""coordinator scale: how many coordinators a cluster has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import render
from .cluster import agreed, attached_by_ray
from .options import Change, Json, Target, command
from .reach import name_of

if TYPE_CHECKING:
    from dynamo_ray.core.pool import Scaling


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file, and their group."""
    coordinator = typer.Typer(no_args_is_help=True, help="The pool of coordinators.")
    command(coordinator, "scale")(scale)
    app.add_typer(coordinator, name="coordinator", rich_help_panel="Clusters")


def scale(
    count: Annotated[
        int, typer.Argument(metavar="N", show_default=False, help="How many there should be.")
    ],
    target: Target,
    change: Change,
    as_json: Json = False,
) -> None:
    """Start coordinators, or end some, until there are N. No request fails because of it.

    Also replaces those that are gone for good.
    """
    from dynamo_ray.config import load_profile

    name = name_of(target)
    cluster = attached_by_ray(name, load_profile(name))
    plan = cluster.scale_coordinators(count, dry_run=True)
    if plan.starts or plan.ends:
        if not agreed(change, f"cluster {name}, to {count} coordinators: {_in_words(plan)}"):
            return
        with render.saying("dynamo_ray.pool"):
            plan = cluster.scale_coordinators(count)
    else:
        render.say(f"cluster {name} has {_named(plan.wanted)} already")
    if as_json:
        render.show_json(
            {
                "schema": "dynamo_ray.coordinators/1",
                "name": name,
                "coordinators": list(plan.wanted),
                "started": list(plan.starts),
                "ended": list(plan.ends),
            }
        )


def _in_words(plan: Scaling) -> str:
    parts = ("start", plan.starts), ("end", plan.ends)
    return "; ".join(f"{verb} {_named(names)}" for verb, names in parts if names)


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names)
