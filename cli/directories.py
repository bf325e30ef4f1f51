"""data inspect, data verify and data repair: nodes' directories while nobody runs on them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .cluster import agreed
from .exits import Exit
from .options import Change, Json, command

if TYPE_CHECKING:
    from dynamo_ray.offline import Act, Picture, Place, Verdict

PARTITIONS_SHOWN = 12
NAMES_SHOWN = 4

Directory = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        show_default=False,
        help="A node's directory, or a cluster's.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    data = typer.Typer(no_args_is_help=True, help="Data directories, while no node runs on them.")
    command(data, "inspect")(inspect)
    command(data, "verify")(verify)
    command(data, "repair")(repair)
    app.add_typer(data, name="data", rich_help_panel="Clusters")


# ---- inspect


def inspect(folder: Directory, as_json: Json = False) -> None:
    """Show what is in DIR: whose it is, its log and snapshot, and how much it holds."""
    from dynamo_ray import offline

    pictures = [offline.inspect(place) for place in offline.places(folder) if place.is_there]
    if as_json:
        nodes = [_picture_as_json(picture) for picture in pictures]
        render.show_json({"schema": "dynamo_ray.data_inspect/1", "nodes": nodes})
        return
    for picture in pictures:
        _show_picture(picture)


def _picture_as_json(picture: Picture) -> dict[str, Any]:
    identity, found = picture.examined.identity, picture.examined.found
    return {
        "directory": str(picture.place.folder),
        "used_by": picture.used_by or None,
        "cluster_id": identity.cluster_id.hex(),
        "node_id": identity.node_id.hex(),
        "name": identity.name,
        "format": picture.format,
        "partitions": identity.partitions,
        "durability": identity.durability,
        "created_ms": identity.created_ms,
        "incarnation": identity.incarnation.hex(),
        "incarnation_ms": _incarnation_ms(identity.incarnation),
        "doubted": sorted(found.doubted),
        "log": [asdict(one) for one in picture.segments],
        "snapshot": _snapshot_as_json(picture),
        "counts": {
            **_counts(picture),
            "hints": _hints(picture),
        },
        "quarantine": [{"name": name, "bytes": size} for name, size in picture.aside],
        "damages": len(picture.examined.damages),
        "notes": found.notes,
    }


def _counts(picture: Picture) -> dict[str, int]:
    counts = picture.counts
    return {
        "keys": counts.keys,
        "values": counts.values,
        "tombstones": counts.tombstones,
        "siblings": counts.siblings,
        "expired": counts.expired,
        "bytes": counts.size,
    }


def _hints(picture: Picture) -> dict[str, int]:
    names = picture.place.names()
    return {names.get(owner, owner.hex()): n for owner, n in sorted(picture.counts.hints.items())}


def _snapshot_as_json(picture: Picture) -> dict[str, Any] | None:
    generation = picture.examined.found.generation
    if generation is None:
        return None
    return {
        "number": generation.number,
        "position": generation.position,
        "files": len(generation.files),
        "records": sum(seal.records for seal in generation.files.values()),
        "bytes": picture.snapshot_bytes,
        "age_ms": picture.snapshot_age_ms,
    }


def _show_picture(picture: Picture) -> None:
    identity, found = picture.examined.identity, picture.examined.found
    render.show(f"{picture.place.folder}   node {identity.name}   {_state(picture)}", "bold")
    ids = f"{identity.node_id.hex()} of cluster {identity.cluster_id.hex()}"
    since = _time(_incarnation_ms(identity.incarnation))
    rows = [
        ("node", f"{ids}, format {picture.format}, {identity.partitions} partitions"),
        ("last start", f"{since}, {identity.durability or '-'}"),
        ("doubted", _listed(found.doubted, identity.partitions)),
        ("holds", ", ".join(f"{n:,} {what}" for what, n in _counts(picture).items())),
        ("hints", ", ".join(f"{n:,} for {who}" for who, n in _hints(picture).items()) or "none"),
        ("snapshot", _snapshot_in_words(picture)),
    ]
    for one in picture.segments:
        span = f"positions {one.first:,} to {one.last:,}" if one.frames else "empty"
        rows.append(
            ("log", f"{one.number:>6}  {render.size(one.size):>8}  {one.frames:,} frames, {span}")
        )
    rows.append(("quarantine", _aside_in_words(picture.aside)))
    for what, text in rows:
        render.show(f"  {what:<10} {text}")


def _aside_in_words(aside: list[tuple[str, int]]) -> str:
    if not aside:
        return "empty"
    names = ", ".join(name for name, _ in aside[:NAMES_SHOWN])
    more = f" and {len(aside) - NAMES_SHOWN} more" if len(aside) > NAMES_SHOWN else ""
    return f"{names}{more}; {render.size(sum(size for _, size in aside))}"


def _state(picture: Picture) -> str:
    if picture.used_by:
        return "IN USE: figures of a moment"
    damages = len(picture.examined.damages)
    return f"{damages} damages: `data verify` names them" if damages else "not in use"


def _snapshot_in_words(picture: Picture) -> str:
    said = _snapshot_as_json(picture)
    if said is None:
        return "none"
    age = (said["age_ms"] or 0) / 1000
    return (
        f"{said['number']}, up to position {said['position']:,}: {said['records']:,} records in"
        f" {said['files']} files, {render.size(said['bytes'])}, {age:,.0f} s old"
    )


def _incarnation_ms(incarnation: bytes) -> int | None:
    return int.from_bytes(incarnation[:6], "big") if incarnation else None


def _time(ms: int | None) -> str:
    if ms is None:
        return "never"
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return f"{ms} ms after 1970"


def _listed(partitions: frozenset[int], of: int) -> str:
    if not partitions:
        return "nothing"
    if len(partitions) == of:
        return "everything"
    shown = ", ".join(map(str, sorted(partitions)[:PARTITIONS_SHOWN]))
    more = len(partitions) - PARTITIONS_SHOWN
    return f"partitions {shown}" + (f" and {more} more" if more > 0 else "")


# ---- verify


def verify(folder: Directory, as_json: Json = False) -> None:
    """Read every byte in DIR with its checksum, and every state strictly. Exit 9 if damaged."""
    from dynamo_ray import offline

    verdicts = []
    for place in offline.places(folder):
        render.say(f"reading {place.folder} …", "dim")
        verdicts.append(offline.verify(place))
    if as_json:
        nodes = [_verdict_as_json(verdict) for verdict in verdicts]
        render.show_json({"schema": "dynamo_ray.data_verify/1", "nodes": nodes})
    else:
        for verdict in verdicts:
            _show_verdict(verdict)
    _leave_degraded(verdicts)


def _leave_degraded(verdicts: list[Verdict]) -> None:
    if not all(verdict.is_clean for verdict in verdicts):
        raise SystemExit(Exit.DEGRADED)


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "directory": str(verdict.place.folder),
        "clean": verdict.is_clean,
        "refused": verdict.refused or None,
        "damages": [{**one._asdict(), "at_a_start": one.consequence} for one in verdict.damages],
        "torn_bytes": verdict.torn_bytes,
        "doubted": verdict.doubted,
        "records": verdict.records,
        "notes": verdict.notes,
        "strangers": verdict.strangers,
    }


def _show_verdict(verdict: Verdict) -> None:
    state = "clean" if verdict.is_clean else f"{len(verdict.damages)} damages"
    style = "green" if verdict.is_clean else "red"
    render.show(f"{verdict.place.folder}: {state}, {verdict.records:,} records read", style)
    for one in verdict.damages:
        where = f"{one.path} at {one.start}..{one.end}" if one.end else one.path
        render.show(f"  {where}: {one.what}")
        render.show(f"    at a start {one.consequence}")
    said = {one.what for one in verdict.damages}
    for note in verdict.notes:
        if note not in said:
            render.show(f"  {note}", "dim")
    if verdict.doubted and verdict.is_clean:
        render.show(f"  {verdict.doubted} partitions wait to be compared with the other owners")
    for name in verdict.strangers:
        render.show(f"  {name} is no file of a node's; it is left alone", "dim")


# ---- repair


def repair(folder: Directory, change: Change, as_json: Json = False) -> None:
    """Do in DIR what a start would do about damage, and leave nothing damaged in it.

    No readable record is lost; damaged bytes are kept in `quarantine/`.
    """
    from dynamo_ray import offline

    hurt = [v.place for v in map(offline.verify, offline.places(folder)) if v.wants_repair]
    if not hurt:
        render.say("nothing to repair")
        return _show_repaired([], {}, as_json)
    plans = {place: offline.plan(place) for place in hurt}
    lines = [line for place, acts in plans.items() for line in _lines(place, acts)]
    go_on = agreed(change, "\n".join(lines))
    verdicts = [offline.repair(place) for place in hurt] if go_on else []
    _show_repaired(verdicts, plans, as_json)
    _leave_degraded(verdicts)


def _lines(place: Place, acts: list[Act]) -> list[str]:
    """The plan for people: what happens alike to a snapshot's files is one line."""
    groups: dict[str, list[Act]] = {}
    for act in acts:
        folder = act.path.rpartition("/")[0]
        many = folder.startswith("snap-")
        words = f"{act.verb:<6} {folder}/" if many else f"{act.verb:<6} {act.path}"
        if act.to:
            words += f" to {act.to.rpartition('/')[0]}/" if many else f" to {act.to}"
        groups.setdefault(words, []).append(act)
    lines = [f"repair {place.folder}:"]
    for words, alike in groups.items():
        files = f"  {len(alike)} files" if len(alike) > 1 else ""
        lines.append(f"  {words}{files}{_size(sum(act.size for act in alike))}")
    return lines


def _size(count: int) -> str:
    return f"  {render.size(count)}" if count else ""


def _show_repaired(verdicts: list[Verdict], plans: dict[Place, list[Act]], as_json: bool) -> None:
    if as_json:
        nodes = [
            {"directory": str(place.folder), "acts": [act._asdict() for act in acts]}
            for place, acts in plans.items()
        ]
        left = [_verdict_as_json(verdict) for verdict in verdicts]
        render.show_json({"schema": "dynamo_ray.data_repair/1", "nodes": nodes, "verified": left})
        return
    for verdict in verdicts:
        _show_verdict(verdict)
