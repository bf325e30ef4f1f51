"""sim run and sim soak: the deterministic simulator, where one seed is one whole disaster."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import render
from .exits import Exit
from .options import Json, command

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dynamo_ray.sim.run import Result

SHOWN = 3


class Outcome(NamedTuple):
    """What one seed came to; small, because it crosses from another process."""

    seed: int
    ok: bool
    digest: str
    report: str
    virtual_seconds: float
    writes: int


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
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes to use.")] = 2,
    as_json: Json = False,
) -> None:
    """Run many seeds. Exit 1 if any failed; each is listed with the command that repeats it."""
    progress = render.Progress("seeds", seeds)
    failed: list[Outcome] = []
    done, virtual_s, writes = 0, 0.0, 0
    try:
        for outcome in _outcomes(range(first, first + seeds), jobs):
            done, virtual_s = done + 1, virtual_s + outcome.virtual_seconds
            writes += outcome.writes
            if not outcome.ok:
                failed.append(outcome)
                progress.end()
                render.say(f"seed {outcome.seed} FAILED")
            rate = done / max(progress.seconds, 1e-3)
            progress.at(done, f"{done:,} of {seeds:,}, {rate:,.1f}/s, {len(failed)} failed")
    finally:
        progress.end()
    failed.sort(key=lambda outcome: outcome.seed)
    if as_json:
        render.show_json(
            {
                "schema": "dynamo_ray.soak/1",
                "seeds": done,
                "first": first,
                "failed": [outcome.seed for outcome in failed],
                "seconds": round(progress.seconds, 3),
                "virtual_seconds": round(virtual_s, 1),
                "writes": writes,
            }
        )
    else:
        render.show(
            f"{done:,} seeds, {len(failed)} failed, {writes:,} writes, {virtual_s:,.0f} virtual "
            f"seconds in {progress.seconds:,.1f} s"
        )
    for outcome in failed[:SHOWN]:
        render.say(outcome.report)
    if failed:
        raise SystemExit(Exit.FAILED)


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    """Each seed's outcome, as they come; never more under way than twice the jobs."""
    if jobs == 1:
        yield from map(_outcome, seeds)
        return
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

    waiting = iter(seeds)
    with ProcessPoolExecutor(jobs, initializer=_leave_interrupts_alone) as pool:
        try:
            under_way = {pool.submit(_outcome, seed) for seed in islice(waiting, 2 * jobs)}
            while under_way:
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                under_way |= {pool.submit(_outcome, seed) for seed in islice(waiting, len(ended))}
                yield from _results(ended)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _results(ended: set[Future[Outcome]]) -> Iterator[Outcome]:
    return (future.result() for future in ended)


def _leave_interrupts_alone() -> None:
    """Ctrl-C reaches every process of the group; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(seed: int) -> Outcome:
    from dynamo_ray.sim.run import run_seed

    result = run_seed(seed)
    report = "" if result.ok else result.report()
    return Outcome(seed, result.ok, result.digest, report, result.virtual_seconds, result.writes)
