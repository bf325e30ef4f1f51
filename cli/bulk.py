"""load and dump: many keys at a time, from and to files."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TextIO

import typer

from . import render
from .exits import CommandError, Exit
from .options import Json, Quorum, Target, Ttl, W, command
from .reach import Connection, connected

if TYPE_CHECKING:
    from dynamo_ray.core import sweep
    from dynamo_ray.pouring import Tally
    from dynamo_ray.resolvers import Sibling

    from .sources import Bounds, Source

LISTED = 20


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, "load", rich_help_panel="Keys")(load)
    command(app, "dump", rich_help_panel="Keys")(dump)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a row of a file means."""

    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="COLUMN",
            show_default=False,
            help="The column (or field) that is the key; by default `key`.",
        ),
    ] = None
    value: Annotated[
        str | None,
        typer.Option(
            "--value",
            metavar="COLUMN",
            show_default=False,
            help="The column that is the value; by default the whole row, as JSON.",
        ),
    ] = None
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            show_default=False,
            help="ndjson, csv, tsv or parquet, where the file's ending does not say.",
        ),
    ] = None


async def load(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="A folder, or a .ndjson, .csv, .tsv or .parquet file.",
        ),
    ],
    target: Target,
    quorum: Quorum,
    rows: Rows,
    ttl: Ttl = None,
    w: W = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put every file of a folder, or every row of a file, into the cluster.

    In a folder the key is a file's path below it. What cannot be read or is too large is listed at
    the end and does not stop the rest; then the exit code is 1. A file that `dump` wrote needs no
    --key and --value.
    """
    from dynamo_ray.pouring import Manner, pour

    from .sources import Columns, open_source

    manner = Manner(ttl, w, quorum.strict, quorum.timeout)
    async with connected(target) as connection:
        source = open_source(path, rows.form, Columns(rows.key, rows.value), _bounds(connection))
        progress = render.Progress("would load" if dry_run else "loading", source.total)

        def draw(tally: Tally) -> None:
            progress.at(source.done, _rate(tally, progress.seconds))

        try:
            if dry_run:
                tally = _count(source, draw)
            else:
                tally = await pour(connection.client, source, manner, draw)
        finally:
            progress.end()
    _report(tally, progress.seconds, dry_run, as_json)


def _bounds(connection: Connection) -> Bounds:
    from .sources import Bounds

    limits = connection.client.session.charter.get("settings", {}).get("limits", {})
    default = Bounds()
    return Bounds(
        int(limits.get("key_bytes", default.key_bytes)),
        int(limits.get("value_bytes", default.value_bytes)),
    )


def _count(source: Source, draw: Any) -> Tally:
    from dynamo_ray.pouring import Refusal, Tally

    tally = Tally()
    for item in source:
        if isinstance(item, Refusal):
            tally.refuse(item)
        else:
            tally.objects += 1
            tally.bytes += len(item.value)
        draw(tally)
    return tally


def _rate(tally: Tally, seconds: float) -> str:
    seconds = max(seconds, 1e-3)
    return (
        f"{tally.objects:,} objects, {render.size(tally.bytes)}, "
        f"{tally.objects / seconds:,.0f}/s, {render.size(tally.bytes / seconds)}/s"
    )


def _report(tally: Tally, seconds: float, dry_run: bool, as_json: bool) -> None:
    if as_json:
        render.show_json(
            {
                "schema": "dynamo_ray.load/1",
                "dry_run": dry_run,
                "objects": tally.objects,
                "bytes": tally.bytes,
                "seconds": round(seconds, 3),
                "retried": tally.retried,
                "refused": tally.refused,
                "refusals": [refusal._asdict() for refusal in tally.refusals],
            }
        )
    render.say(f"{'would load' if dry_run else 'loaded'} {_rate(tally, seconds)}")
    if not tally.refused:
        return
    render.say(f"not loaded: {tally.refused:,}", "yellow")
    for refusal in tally.refusals[:LISTED]:
        render.say(
            f"  {render.glimpse(refusal.where.encode(errors='surrogateescape'))}: {refusal.why}"
        )
    if tally.refused > LISTED:
        render.say(f"  … and {tally.refused - LISTED:,} more (--json lists up to 1,000)")
    raise SystemExit(Exit.FAILED)


class Sink(Protocol):
    """Where a dump goes."""

    def write(self, rows: list[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


class NdJsonSink:
    """A header line and then an object per value; bytes that are not UTF-8 in base64."""

    def __init__(self, file: TextIO) -> None:
        from .sources import DUMP_FORM

        self._file = file
        self._line({"schema": DUMP_FORM})

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""
        for row in rows:
            self._line(
                {**render.named("key", row["key"]), **render.named("value", row["value"])}
                | {name: row[name] for name in ("sibling", "siblings", "wall_ms")}
            )

    def close(self) -> None:
        """Nothing is left to write; the file is its owner's to close."""
        self._file.flush()

    def _line(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")


async def dump(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="A .parquet or .ndjson file; - writes NDJSON to the standard output.",
        ),
    ],
    target: Target,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write every key and value to a file; `load` takes it back.

    Concurrent values are rows of their own. Expiry is not part of a dump. It holds what was written
    before it began; keys that change meanwhile are in it with an old or a new value.
    """
    path = None if file == "-" else Path(file)
    if path is not None and path.exists() and not overwrite:
        raise CommandError(Exit.REFUSED, f"{path} is there already; --overwrite replaces it")
    if path is not None and path.suffix not in (".parquet", ".ndjson", ".jsonl"):
        raise CommandError(Exit.USAGE, "FILE ends in .parquet or .ndjson, or is -")
    async with connected(target, members_only=True) as connection:
        counts = await _dump_to(path, connection)
    if as_json and path is not None:
        render.show_json({"schema": "dynamo_ray.dump/1", "file": file, **counts})
    render.say(
        f"dumped {counts['keys']:,} keys, {counts['values']:,} values, "
        f"{render.size(counts['bytes'])}"
    )


async def _dump_to(path: Path | None, connection: Connection) -> dict[str, int]:
    if path is None:
        return await _fill(NdJsonSink(sys.stdout), connection)
    # Written aside and moved into place, so that half a dump never looks like a whole one.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".parquet":
            from .parquet import ParquetSink

            counts = await _fill(ParquetSink(aside), connection)
        else:
            with aside.open("w", encoding="utf-8") as file:
                counts = await _fill(NdJsonSink(file), connection)
        aside.replace(path)
        return counts
    finally:
        aside.unlink(missing_ok=True)


async def _fill(sink: Sink, connection: Connection) -> dict[str, int]:
    from dynamo_ray.sweep import reading

    counts = {"keys": 0, "values": 0, "bytes": 0}
    progress = render.Progress("dumping", 1)
    try:
        async with reading(connection.client.session, connection.credentials) as reader:
            partitions = reader.charter.settings.partitions
            for partition in range(partitions):
                async for page in reader.states(partition):
                    sink.write(_counted(page, counts))
                text = f"{counts['keys']:,} keys, {render.size(counts['bytes'])}"
                progress.at((partition + 1) / partitions, text)
    finally:
        progress.end()
        sink.close()
    return counts


def _counted(page: sweep.Rows, counts: dict[str, int]) -> list[dict[str, Any]]:
    """The values that a page of states shows now, a row each."""
    from dynamo_ray.found import shown_at

    now_ms = time.time_ns() // 1_000_000
    rows = []
    for key, state in zip(page.keys, page.states, strict=True):
        siblings = shown_at(state, now_ms)
        rows += _rows_of(key, siblings)
        counts["keys"] += bool(siblings)
        counts["bytes"] += sum(len(one.value) for one in siblings)
    counts["values"] += len(rows)
    return rows


def _rows_of(key: bytes, siblings: Sequence[Sibling]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "value": sibling.value,
            "sibling": position,
            "siblings": len(siblings),
            "wall_ms": sibling.wall_ms,
        }
        for position, sibling in enumerate(siblings)
    ]
