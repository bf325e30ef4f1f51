"""The door of `dynamo-ray`: gathers the commands and turns every failure into code and sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from . import (
    backup,
    bulk,
    cluster,
    coordinators,
    copies,
    demo,
    directories,
    keys,
    nodes,
    places,
    rings,
    simulate,
)
from .exits import Exit, ending_of
from .options import command, remember_target
from .render import say

TRACEBACK_VARIABLE = "DYNAMO_RAY_TRACEBACK"


def _application() -> typer.Typer:
    # Panels and colours are for people: in a pipe, help is plain text.
    application = typer.Typer(
        name="dynamo-ray",
        help="A highly available, replicated key-value store on Ray, after Amazon's Dynamo.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    remember_target(application)
    parts = (cluster, nodes, coordinators, directories, keys, bulk, backup)
    for part in (*parts, places, rings, copies, simulate, demo):
        part.add_to(application)
    command(application, "version", rich_help_panel="Try it")(places.version)
    return application


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: codes in exits.py, one sentence on stderr for a failure."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _application()(given, prog_name="dynamo-ray")
    except SystemExit as ending:
        _leave(ending.code)
    except BaseException as error:
        _leave(_explained(error))
    _leave(Exit.OK)


def _explained(error: BaseException) -> int:
    ending = ending_of(error)
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        traceback.print_exception(error)
    if ending is None:
        say(
            f"error: {type(error).__name__}: {error} (a mistake of this program; "
            f"{TRACEBACK_VARIABLE}=1 shows where)"
        )
        return Exit.FAILED
    if ending.sentence:
        say(f"error: {ending.sentence}" if ending.code != Exit.INTERRUPTED else ending.sentence)
    return ending.code


def _leave(code: Any) -> NoReturn:
    """Exit, with what is buffered written; a reader that went away is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(int(code or 0))
