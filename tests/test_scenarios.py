"""Plays the conversations in tests/scenarios and compares every word (`--rewrite` writes them).

A scenario is a list of blocks: comments, one command, `----`, and all that it caused. Review a
rewritten scenario as a diff: it is the behaviour.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.stage import Stage

SCENARIOS = sorted(Path(__file__).parent.glob("scenarios/*.txt"))
LINE = "----"


def play(text: str) -> str:
    """The scenario with what really happens under its commands."""
    stage, blocks = Stage(), []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        told = lines[: lines.index(LINE)] if LINE in lines else lines
        commands = [line for line in told if line and not line.startswith("#")]
        assert len(commands) <= 1, f"one command in a block: {commands}"
        for command in commands:
            told += [LINE, *stage.run(command)]
        blocks.append("\n".join(told))
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, rewrite: bool) -> None:
    written = path.read_text("utf-8")
    happened = play(written)
    if rewrite:
        path.write_text(happened, "utf-8")
    else:
        assert happened == written


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 8
