"""sim run and sim soak: the deterministic simulator, where one seed is one whole disaster."""

from __future__ import annotations

import time
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .exits import Exit
from .options import Json, command

if TYPE_CHECKING:
    from dynamo_ray.sim.run import Result
    from dynamo_ray.sim.soak import Soak


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    sim = typer.Typer(no_args_is_help=True, help="The simulator: a seed is a whole disaster.")
    command(sim, "run")(run)
    command(sim, "soak")(soak)
    app.add_typer(sim, name="sim", rich_help_panel="Try it")


def run(
    seed: Annotated[int, typer.Option("--seed", help="Which disaster.")],
    as_json: Json = False,
) -> None:
    """Run one seed: a storm of faults, then calm, then the checkers. Exit 1 if one complains."""
    from dynamo_ray.sim.run import run_seed

    result = run_seed(seed)
    if as_json:
        render.show_json(_result_as_json(result))
    else:
        render.show(result.report())
    if not result.ok:
        raise SystemExit(Exit.FAILED)


def _result_as_json(result: Result) -> dict[str, Any]:
    return {
        "schema": "dynamo_ray.sim/1",
        "seed": result.seed,
        "ok": result.ok,
        "digest": result.digest,
        "events": result.events,
        "virtual_seconds": result.virtual_seconds,
        "writes": result.writes,
        "acknowledged": result.acknowledged,
        "faults": list(result.faults),
        "verdicts": [asdict(v) if is_dataclass(v) else str(v) for v in result.verdicts],
    }


def soak(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 1000,
    first: Annotated[int, typer.Option("--first", help="The first of them.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Interpreters to use.")] = 2,
    as_json: Json = False,
) -> None:
    """Run many seeds, some twice. Exit 1 if one failed, or was another run the second time."""
    from dynamo_ray.sim.soak import soak as run_many

    progress = render.Progress("seeds", seeds)

    def draw(found: Soak) -> None:
        rate = found.seeds / max(progress.seconds, 1e-3)
        words = f"{found.seeds:,} of {seeds:,}, {rate:,.1f}/s, {len(found.failed)} failed"
        progress.at(found.seeds, words)

    try:
        found = run_many(range(first, first + seeds), jobs, draw, clock=time.monotonic)
    finally:
        progress.end()
    if as_json:
        render.show_json({"schema": "dynamo_ray.soak/1", "ok": found.ok, **_soak_as_json(found)})
    else:
        render.show(found.report())
    if not found.ok:
        raise SystemExit(Exit.FAILED)


def _soak_as_json(found: Soak) -> dict[str, Any]:
    plain = asdict(found)
    plain["failed"] = [one.seed for one in found.failed]
    return plain
