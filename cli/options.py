"""Options that many commands share, in groups: a command takes a group as one parameter.

Typer reads a function's signature. `command` gives it one in which each group (a frozen dataclass
whose fields are options) is spread out, and puts the group together again for the call. Options of
`Target` may also stand before the command's name; those after it win. Coroutines are run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

TTL_MAX_S = 100 * 366 * 24 * 3600  # as the library has it; importing that takes time

WHERE, QUORUM, PLAN = "Which cluster", "Quorum", "Changes"


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster a command is for."""

    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            "-c",
            metavar="NAME",
            show_default=False,
            rich_help_panel=WHERE,
            help="The cluster's name (or $DYNAMO_RAY_CLUSTER). By default the only one.",
        ),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            show_default=False,
            rich_help_panel=WHERE,
            help="Connect here instead; several addresses with commas between.",
        ),
    ] = None
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            show_default=False,
            rich_help_panel=WHERE,
            help="The client token, for --address. Better in $DYNAMO_RAY_TOKEN: others on this "
            "machine can read your command line.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Quorum:
    """How sure an operation must be, and how long it may take."""

    strict: Annotated[
        bool,
        typer.Option(
            "--strict", rich_help_panel=QUORUM, help="Count owners only, never stand-ins."
        ),
    ] = False
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.001,
            max=3599,
            rich_help_panel=QUORUM,
            help="How long to wait.",
        ),
    ] = 2.0


@dataclass(frozen=True, slots=True)
class Change:
    """How a change of the cluster is agreed on."""

    yes: Annotated[bool, typer.Option("--yes", "-y", rich_help_panel=PLAN, help="Do not ask.")] = (
        False
    )
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", rich_help_panel=PLAN, help="Say what would happen, and stop."),
    ] = False


W = Annotated[
    int | None,
    typer.Option(
        "-w",
        "--write",
        metavar="W",
        min=1,
        show_default=False,
        rich_help_panel=QUORUM,
        help="Copies to wait for; by default the cluster's W.",
    ),
]
Ttl = Annotated[
    float | None,
    typer.Option(
        "--ttl",
        metavar="SECONDS",
        min=0.001,
        max=TTL_MAX_S,
        show_default=False,
        help="What is written expires after so long.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The key, as text.")]
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def key_bytes(key: str) -> bytes:
    """A key from the command line: its bytes as they were typed, UTF-8 or not."""
    return key.encode(errors="surrogateescape")


def command(
    app: typer.Typer, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a function to `app` as a command, its groups of options spread out."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        app.command(name, **settings)(_spread(function))
        return function

    return register


def group(app: typer.Typer, function: Callable[..., Any]) -> None:
    """Let `app`, a group of commands, do `function` if none of them is named."""

    def alone(ctx: typer.Context, **given: Any) -> Any:
        if ctx.invoked_subcommand is None:
            return spread(ctx=ctx, **given)
        ctx.obj = _gathered(Target, given, ctx.obj)
        return None

    spread = _spread(function)
    _set_signature(alone, list(inspect.signature(spread).parameters.values()))
    alone.__doc__ = function.__doc__
    app.callback(invoke_without_command=True)(alone)


def remember_target(app: typer.Typer) -> None:
    """Let the options of a Target stand before the command's name, too."""

    def front(ctx: typer.Context, **given: Any) -> None:
        ctx.obj = Target(**given)

    context = inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context)
    _set_signature(front, [context, *_options_of(Target)])
    app.callback()(front)


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type] = {}
    parameters = [inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context)]
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and is_dataclass(hint):
            groups[parameter.name] = hint
            parameters += _options_of(hint)
        else:
            parameters.append(parameter.replace(annotation=hint, kind=_KEYWORD))

    @wraps(function)
    def call(ctx: typer.Context, **given: Any) -> Any:
        for name, group in groups.items():
            given[name] = _gathered(group, given, ctx.obj)
        result = function(**given)
        return _finished(result) if inspect.iscoroutine(result) else result

    _set_signature(call, parameters)
    return call


def _finished(work: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run(work)


def _set_signature(function: Any, parameters: list[inspect.Parameter]) -> None:
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {p.name: p.annotation for p in parameters}


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(one.name, _KEYWORD, default=one.default, annotation=hints[one.name])
        for one in fields(group)
    ]


def _gathered(group: type, given: dict[str, Any], before: Any) -> Any:
    """The group's options, taken out of `given`; a Target is completed by what stood in front."""
    made = group(**{one.name: given.pop(one.name) for one in fields(group)})
    if group is Target and isinstance(before, Target):
        missing = {f.name for f in fields(group) if getattr(made, f.name) is None}
        made = replace(made, **{name: getattr(before, name) for name in missing})
    return made
