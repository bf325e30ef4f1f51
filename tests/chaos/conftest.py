"""The table of the drills: gathered while they run, printed in the end, kept in docs/faults.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import table
from tests.chaos.clusters import ROOT, Hurt, hurt
from tests.chaos.drills import Drilled

DRILLED = pytest.StashKey[list[Drilled]]()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def cluster(folder: Path, request: pytest.FixtureRequest) -> Iterator[Hurt]:
    """Five nodes and two coordinators in a Ray of their own; `RAYLETS` of the module many of it."""
    raylets = getattr(request.module, "RAYLETS", 1)
    with hurt(folder, "chaos", second_raylet=raylets == 2) as started:
        yield started


@pytest.fixture
def keep(pytestconfig: pytest.Config) -> Callable[[Drilled], Drilled]:
    """Put what came out of a drill into the table, before anything is asserted of it."""

    def kept(drilled: Drilled) -> Drilled:
        pytestconfig.stash.setdefault(DRILLED, []).append(drilled)
        return drilled

    return kept


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    drilled = config.stash.get(DRILLED, [])
    if not drilled:
        return
    terminalreporter.section("drills")
    terminalreporter.write_line(table.markdown(drilled))
    if path := config.getoption("chaos_json"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps([one.to_dict() for one in drilled], indent=1))
    if config.getoption("rewrite"):
        table.rewrite(ROOT / "docs/faults.md", drilled)
