"""backup create, list, verify and restore: a whole cluster's data, somewhere else and back."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .cluster import Name, agreed, use_ray
from .exits import CommandError, Exit
from .options import Change, Json, Target, command
from .reach import connected, name_of

if TYPE_CHECKING:
    from dynamo_ray.backup import Backup, Listed
    from dynamo_ray.restoring import Inside, Restored

Place = Annotated[
    str,
    typer.Argument(
        metavar="URI",
        show_default=False,
        help="The folder of backups: a path, or an s3:// or gs:// URI.",
    ),
]
One = Annotated[
    str,
    typer.Argument(
        metavar="URI/NAME",
        show_default=False,
        help="One backup, by its folder and the name that `backup list` shows.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    backup = typer.Typer(no_args_is_help=True, help="Backups of a whole cluster.")
    command(backup, "create")(create)
    command(backup, "list")(show_list)
    command(backup, "verify")(verify)
    command(backup, "restore")(restore)
    app.add_typer(backup, name="backup", rich_help_panel="Clusters")


async def create(uri: Place, target: Target, as_json: Json = False) -> None:
    """Write a backup into a new folder below URI, while the cluster serves.

    It holds every write that was acknowledged by W nodes before it began. If W or more nodes do
    not answer, one may be missing: then there is no backup, and the exit code is 4.
    """
    import dynamo_ray
    from dynamo_ray.backup import create as write_backup

    async with connected(target, members_only=True) as connection:
        with _Drawn("backing up") as drawn:
            made = await write_backup(
                connection.client.session,
                connection.credentials,
                uri,
                dynamo_ray.__version__,
                drawn.draw,
            )
    if as_json:
        render.show_json({"schema": "dynamo_ray.backup/1", **_told(made)})
    else:
        render.show(_at(uri, made.name))
    missing = made.origin.missing
    render.say(f"backed up {_sizes(made)} in {drawn.seconds:.1f} s")
    if missing:
        render.say(f"not all was read of {', '.join(missing)}; what they hold others hold, too")


def show_list(uri: Place, as_json: Json = False) -> None:
    """Show the backups below URI. Only their manifests are read."""
    from dynamo_ray.backup import listing

    found = listing(uri)
    if as_json:
        backups = [_told_of(one) for one in found]
        render.show_json({"schema": "dynamo_ray.backups/1", "uri": uri, "backups": backups})
        return
    heads = ("name", "state", "cluster", "made", "keys", "bytes")
    for line in render.table(heads, [_row(one) for one in found], frozenset({4, 5})):
        render.show(line)


def verify(backup: One, as_json: Json = False) -> None:
    """Read a whole backup and check it: checksums, states, each key in its partition.

    If anything is damaged the files are named and the exit code is 9.
    """
    from dynamo_ray.backup import opened
    from dynamo_ray.backup import verify as check

    folder, found = opened(backup)
    with _Drawn("verifying") as drawn:
        damaged = check(folder, found, drawn.draw)
    if as_json:
        told = {"schema": "dynamo_ray.backup.verify/1", **_told(found), "damaged": damaged}
        render.show_json(told)
    for path, problem in damaged.items():
        render.say(f"{path}: {problem}", "red")
    if damaged:
        text = f"{len(damaged)} of {len(found.files)} files are damaged; use another backup"
        raise CommandError(Exit.DEGRADED, text)
    render.say(f"{found.name} is sound: {_sizes(found)}")


async def restore(
    backup: One,
    target: Target,
    change: Change,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Merge a backup into a running cluster, of any size. Nothing there is overwritten.

    What is newer in the cluster stays; what was deleted there stays deleted. All of the backup is
    checked before anything is written. Needs the cluster's Ray. The exit code is 9 if owners did
    not take their copies: they catch up when their keys are read, or when you do it again.
    """
    from dynamo_ray.backup import opened
    from dynamo_ray.restoring import restore as merge_in

    folder, found = await asyncio.to_thread(opened, backup)
    name = name or name_of(target)
    plan = f"restore {found.name} ({_sizes(found)}) into cluster {name}, by merging"
    if change.dry_run:
        render.say(f"{plan}; comparing")
    elif not agreed(change, plan):
        return
    inside = await asyncio.to_thread(_inside, name)
    with _Drawn("comparing" if change.dry_run else "restoring") as drawn:
        done = await merge_in(inside, folder, found, drawn.draw, change.dry_run)
    _report(name, found, done, as_json)


def _inside(name: str) -> Inside:
    """The running cluster, through its Ray: that alone has the secret that merging takes."""
    from dynamo_ray.config import load_profile
    from dynamo_ray.restoring import inside

    profile = load_profile(name)
    begun = profile.ray if profile and profile.ray.get("started_here") else {}
    address = os.environ.get("RAY_ADDRESS") or (profile.ray_address if profile else None)
    if begun:
        use_ray(begun)
        address = begun["address"]
    found = inside(name, address)
    if profile and found.charter.cluster_id.hex() != profile.cluster_id:
        raise CommandError(
            Exit.REFUSED,
            f"the cluster {name!r} in the Ray at {address} is another one than the profile's; "
            "nothing was changed",
        )
    return found


def _report(name: str, backup: Backup, done: Restored, as_json: bool) -> None:
    if as_json:
        told = {"schema": "dynamo_ray.backup.restore/1", "backup": backup.name, "cluster": name}
        render.show_json({**told, "dry_run": done.comparison is not None, **asdict(done)})
    if done.comparison is not None:
        of = done.comparison
        render.say(
            f"of {done.keys:,} keys {of.new:,} are new to {name}, {of.newer_in_backup:,} are newer "
            f"in the backup, {of.concurrent:,} are concurrent, {of.covered:,} are there already; "
            "nothing was changed"
        )
    else:
        render.say(f"restored {done.keys:,} keys into {name}", "green")
    if done.behind:
        raise CommandError(Exit.DEGRADED, f"not all was taken by {', '.join(done.behind)}")


def _told(backup: Backup) -> dict[str, Any]:
    return {
        "name": backup.name,
        "bytes": backup.bytes,
        **asdict(backup.counts),
        "origin": asdict(backup.origin),
    }


def _told_of(one: Listed) -> dict[str, Any]:
    told = {"name": one.name, "state": one.state, "problem": one.problem}
    return {**told, **(_told(one.backup) if one.backup else {})}


def _row(one: Listed) -> tuple[str, ...]:
    if one.backup is None:
        return (one.name, one.state, "", "", "", "")
    origin = one.backup.origin
    made = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(origin.created_ms / 1000))
    keys, size = f"{one.backup.counts.keys:,}", render.size(one.backup.bytes)
    return (one.name, one.state, origin.cluster, made, keys, size)


def _sizes(backup: Backup) -> str:
    of = backup.counts
    return (
        f"{of.keys:,} keys, {of.values:,} values, {of.tombstones:,} tombstones, "
        f"{render.size(backup.bytes)}"
    )


def _at(uri: str, name: str) -> str:
    path, mark, options = uri.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


class _Drawn:
    """A progress bar with its rate."""

    def __init__(self, label: str) -> None:
        self._progress = render.Progress(label, 1)

    def __enter__(self) -> _Drawn:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.end()

    @property
    def seconds(self) -> float:
        """How long it has been going."""
        return self._progress.seconds

    def draw(self, done: int, total: int, keys: int, size: int) -> None:
        """Show how far it is."""
        seconds = max(self.seconds, 1e-3)
        text = f"{keys:,} keys, {render.size(size)}, {keys / seconds:,.0f} keys/s"
        self._progress.at(done / max(1, total), text)
