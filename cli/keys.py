"""get, put, delete and where: one key at a time."""

from __future__ import annotations

import base64
import binascii
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .exits import CommandError, Exit
from .options import QUORUM, Json, Key, Quorum, Target, Ttl, W, command, key_bytes
from .reach import connected

if TYPE_CHECKING:
    from dynamo_ray.client import AsyncClient
    from dynamo_ray.found import Found, Written

R = Annotated[
    int | None,
    typer.Option(
        "-r",
        "--read",
        metavar="R",
        min=1,
        show_default=False,
        rich_help_panel=QUORUM,
        help="Answers to wait for; by default the cluster's R.",
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="BASE64",
        show_default=False,
        help="Replace exactly what was read: the context that `get --json` printed.",
    ),
]


@dataclass(frozen=True, slots=True)
class Writing:
    """How a value is written."""

    context: Context = None
    concurrent: Annotated[
        bool, typer.Option("--concurrent", help="Add a value beside what is there.")
    ] = False
    ttl: Ttl = None
    w: W = None


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, "get", rich_help_panel="Keys")(get)
    command(app, "put", rich_help_panel="Keys")(put)
    command(app, "delete", rich_help_panel="Keys")(delete)


async def get(
    key: Key,
    target: Target,
    quorum: Quorum,
    r: R = None,
    every: Annotated[
        bool, typer.Option("--all", help="Print every concurrent value, as lines of JSON.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what KEY holds, byte for byte.

    If it holds several concurrent values: exit 6, and a list of them on stderr.
    """
    async with connected(target) as (client, _):
        found = await client.get(
            key_bytes(key), r=r, strict=quorum.strict, timeout_s=quorum.timeout
        )
    if found.degraded:
        render.say(
            "degraded: fewer owners than R answered; this is what they and stand-ins hold", "yellow"
        )
    if as_json:
        render.show_json(_found_as_json(key, found))
    elif every:
        for position, sibling in enumerate(found.siblings):
            render.show_json({"sibling": position, **_sibling_as_json(sibling)}, pretty=False)
    elif len(found.values) == 1:
        _write_raw(found.values[0])
    _end_get(key, found, several_are_fine=every)


def _end_get(key: str, found: Found, several_are_fine: bool) -> None:
    if not found.found:
        raise CommandError(Exit.NOT_FOUND, f"{key!r} holds nothing")
    if len(found.values) > 1 and not several_are_fine:
        for position, value in enumerate(found.values):
            render.say(f"  {position}  {render.size(len(value)):>9}  {render.glimpse(value)}")
        raise CommandError(
            Exit.CONFLICT,
            f"{key!r} has {len(found.values)} concurrent values; --all prints them, "
            "`put --context` with the context from --json replaces them by one",
        )


def _write_raw(value: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(value)
    if sys.stdout.isatty() and not value.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _found_as_json(key: str, found: Found) -> dict[str, Any]:
    return {
        **render.named("key", key_bytes(key)),
        "found": found.found,
        "values": [_sibling_as_json(sibling) for sibling in found.siblings],
        "context": base64.b64encode(found.context).decode(),
        "degraded": found.degraded,
    }


def _sibling_as_json(sibling: Any) -> dict[str, Any]:
    return {**render.as_text(sibling.value), "wall_ms": sibling.wall_ms}


async def put(
    key: Key,
    target: Target,
    quorum: Quorum,
    writing: Writing,
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="VALUE|-",
            show_default=False,
            help="The value, as text; - reads it from the standard input.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f",
            "--file",
            metavar="FILE",
            show_default=False,
            help="Take the value from this file.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write KEY: VALUE, the bytes of a file (-f FILE), or the standard input (-).

    Without --context it replaces what is there, like any key-value store.
    """
    if writing.concurrent and writing.context is not None:
        raise CommandError(Exit.USAGE, "--concurrent and --context exclude each other")
    seen = b"" if writing.concurrent else _context_bytes(writing.context)
    content = _content(value, file)
    async with connected(target) as (client, _):
        _check_size(client, content)
        chosen = client.with_options(w=writing.w, strict=quorum.strict, timeout_s=quorum.timeout)
        written = await chosen.put(key_bytes(key), content, seen, ttl_s=writing.ttl)
    _tell(f"put {key!r}: {render.size(len(content))}", key, written, as_json)


async def delete(
    key: Key,
    target: Target,
    quorum: Quorum,
    context: Context = None,
    w: W = None,
    as_json: Json = False,
) -> None:
    """Delete KEY; with --context only what was read."""
    seen = _context_bytes(context)
    async with connected(target) as (client, _):
        written = await client.delete(
            key_bytes(key), seen, w=w, strict=quorum.strict, timeout_s=quorum.timeout
        )
    _tell(f"deleted {key!r}", key, written, as_json)


def _check_size(client: AsyncClient, content: bytes) -> None:
    """Refuse here what may be too long even for being refused by the cluster."""
    from dynamo_ray.errors import ValueTooLargeError

    limits = client.session.charter.get("settings", {}).get("limits", {})
    most = int(limits.get("value_bytes", len(content)))
    if len(content) > most:
        raise ValueTooLargeError(most, len(content))


def _tell(sentence: str, key: str, written: Written, as_json: bool) -> None:
    if as_json:
        context = base64.b64encode(written.context).decode()
        render.show_json({**render.named("key", key_bytes(key)), "context": context})
    else:
        render.say(sentence)


def _context_bytes(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        context = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        context = b""
    if not context:
        # An empty context means "replace nothing": it must never come about by a typing mistake.
        raise CommandError(Exit.USAGE, "--context is not base64; take it from `get --json`")
    return context


def _content(value: str | None, file: Path | None) -> bytes:
    if (value is None) == (file is None):
        raise CommandError(Exit.USAGE, "give either VALUE, or - for the standard input, or -f FILE")
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise CommandError(
                Exit.USAGE, f"{file} cannot be read: {error.strerror or error}"
            ) from error
    # Text from the command line may hold bytes that are not UTF-8; they are stored as they are.
    return (
        sys.stdin.buffer.read() if value == "-" else (value or "").encode(errors="surrogateescape")
    )
