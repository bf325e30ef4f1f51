"""Every command has help and stands in docs/cli.md, with its options and the exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from cli.exits import Exit
from cli.main import _application
from tests.cli.conftest import ROOT

TEXT = (ROOT / "docs" / "cli.md").read_text()


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None or (path and command.invoke_without_command):
        yield path, command
    for name, one in (inner or {}).items():
        yield from _commands(one, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(_application())))


def _section(path: tuple[str, ...]) -> str:
    title = f"### dynamo-ray {' '.join(path)}"
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, f"docs/cli.md has no section {title!r}"
    return found[1]


def test_the_walk_sees_them_all() -> None:
    assert {("get",), ("node", "kill"), ("sim", "soak"), ("demo",)} <= COMMANDS.keys()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_has_help_and_a_section_with_its_options(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help and command.help.strip().splitlines()[0].endswith(".")
    section = _section(path)
    shared = {"--cluster", "--address", "--token", "--help", "--strict", "--timeout"}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{path}: {parameter.name} has no help"
            longest = max(parameter.opts, key=len)
            assert longest in shared or f"`{longest}" in section, f"{path}: {longest}"


def test_the_sections_name_no_command_that_is_not_there() -> None:
    written = set(re.findall(r"^### dynamo-ray (.+)$", TEXT, re.MULTILINE))
    assert written == {" ".join(path) for path in COMMANDS}


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_explained(code: Exit) -> None:
    assert re.search(rf"^\| {code.value} \|", TEXT, re.MULTILINE)


def test_what_several_commands_share_is_explained_once() -> None:
    for option in ("--cluster", "--address", "--token", "--strict", "--timeout", "--json"):
        assert f"`{option}" in TEXT
