"""demo: the whole story in two minutes, on a cluster of its own that is gone afterwards.

This file sets the stage and clears it; the acts are in story.py. The cluster gets a temporary
directory and a Ray of its own, so it never touches another one; both are ended and removed however
the demo ends, except by SIGKILL.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import render
from .cluster import end_ray
from .exits import CommandError, Exit
from .interrupts import deaf, signals_interrupt
from .options import Json, command

if TYPE_CHECKING:
    from dynamo_ray.config import Profile

    from .story import Measures, Teller

NAME = "demo"
NODES, N, R, W = 5, 3, 2, 2
SHAPE = (f"--nodes={NODES}", f"--n={N}", f"--r={R}", f"--w={W}")
START_S = 150.0
HOME_VARIABLE = "DYNAMO_RAY_HOME"
FOREIGN = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    command(app, "demo", rich_help_panel="Try it")(demo)


def demo(
    tree: Annotated[
        Path | None,
        typer.Option(
            "--tree",
            metavar="DIR",
            show_default=False,
            help="Load this folder; by default Python's own library.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides which node is killed.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the data directory, and say where it is.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Watch a cluster lose a node and nothing else: start, load, kill, recover, compare, merge.

    Exit 0 only if no request failed, no write was lost and everything came back.
    """
    folder = tree or Path(sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        raise CommandError(Exit.USAGE, f"{folder} is no folder")
    measures = _play(folder, seed, keep)
    if as_json:
        render.show_json({"schema": "dynamo_ray.demo/1", "ok": measures.ok, **asdict(measures)})
    else:
        _show(measures)
    if not measures.ok:
        raise CommandError(Exit.FAILED, "the demo did not end as it should; see the lines above")


def _play(folder: Path, seed: int, keep: bool) -> Measures:
    import asyncio

    from . import story

    begun = time.monotonic()
    teller = story.Teller(begun)
    with signals_interrupt(), _stage(keep, teller) as place:
        teller.tell(f"starting {NODES} storage nodes and a Ray of their own, data in {place}")
        with _cluster_in(place) as profile:
            took_s = time.monotonic() - begun
            teller.tell(f"up: every key on {N} nodes, reads take {R} answers, writes {W}", took_s)
            acts = story.Story(profile.addresses, profile.token, folder, seed, teller)
            measures = asyncio.run(acts.play())
            measures.start_s = round(took_s, 3)
            teller.tell("the end; stopping everything")
    measures.total_s = round(time.monotonic() - begun, 3)
    return measures


@contextmanager
def _stage(keep: bool, teller: Teller) -> Iterator[Path]:
    """A temporary directory, and an environment that knows no other cluster."""
    place = Path(tempfile.mkdtemp(prefix="dynamo-ray-demo-"))
    before = dict(os.environ)
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ[HOME_VARIABLE] = str(place / "home")
    try:
        yield place
    finally:
        os.environ.clear()
        os.environ.update(before)
        if keep:
            teller.tell(f"the data is kept in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _cluster_in(place: Path) -> Iterator[Profile]:
    """A cluster in a Ray of its own, begun as a user would; both end with the block.

    `start` runs in an interpreter and a session of its own: so an interrupt never reaches it half
    way, and this one needs no Ray and sees none of its talk.
    """
    from dynamo_ray.config import load_profile

    starting = subprocess.Popen(
        [sys.executable, "-c", _begin_as_a_user(), str(place / "data"), *SHAPE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, said = starting.communicate(timeout=START_S)
        profile = load_profile(NAME)
        if starting.returncode or profile is None:
            words = said.decode(errors="replace").strip().splitlines()
            raise CommandError(Exit.FAILED, words[-1].removeprefix("error: ") if words else "?")
        yield profile
    finally:
        with deaf():
            _end(starting)


def _begin_as_a_user() -> str:
    """The command line in another interpreter, by the name that this package has in this one."""
    return (
        f"import sys; sys.path[:] = {sys.path!r}; from {__package__}.main import run; "
        f"run(['start', {NAME!r}, '--data-dir', *sys.argv[1:]])"
    )


def _end(starting: subprocess.Popen[bytes]) -> None:
    """Let `start` come to its end, then end what it began, by pid: whatever state it is in."""
    from dynamo_ray.config import load_profile

    try:
        starting.wait(START_S)
    except subprocess.TimeoutExpired:
        starting.kill()
    profile = load_profile(NAME)
    if profile is not None:
        end_ray(profile.ray)


def _show(measures: Measures) -> None:
    found = measures
    rows = [
        ("objects", f"{found.objects:,}"),
        ("bytes", render.size(found.bytes)),
        ("refused", f"{found.refused:,}  (not read, or over the limits)"),
        ("failed requests", f"{found.failed_requests:,} of {found.requests:,}"),
        ("lost writes", f"{found.lost:,}"),
        (
            "longest pause",
            f"{found.longest_pause_s * 1000:,.0f} ms  (of the writer, for one answer)",
        ),
        ("hints", f"{found.most_hints:,} at most; home {found.hints_home_s:.1f} s after the kill"),
        ("recovery", f"{found.recovery_s:.1f} s from the kill until the node served again"),
        ("siblings", f"{found.siblings} concurrent carts, merged to {found.merged_items} items"),
        (
            "load",
            f"{found.bytes / max(found.load_s, 1e-3) / 1e6:,.1f} MB/s, "
            f"{found.objects / max(found.load_s, 1e-3):,.0f} objects/s",
        ),
        ("total", f"{found.total_s:.1f} s"),
    ]
    for line in render.table(("", ""), rows, right=frozenset())[1:]:
        render.show(line)
    verdict = "nothing was lost" if found.ok else "NOT as it should be"
    render.show(verdict, "green" if found.ok else "red")
