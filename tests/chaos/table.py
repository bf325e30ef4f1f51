"""The drills as a table for people; docs/faults.md keeps one between its `chaos` markers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.drills import Drilled

HEAD = (
    "| fault | lasted | puts | failed | unknown | gets | failed | strict refused | longest gap "
    "| p99 before | p99 after 1 s | detected | settled | lost |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def markdown(drilled: Sequence[Drilled]) -> str:
    """The table."""
    return "\n".join([HEAD, *map(_row, drilled)])


def _row(one: Drilled) -> str:
    counts = [one.puts, one.puts_failed, one.puts_unknown, one.gets, one.gets_failed]
    cells = [
        one.fault,
        f"{one.lasted_s:g} s",
        *(f"{count:,}" for count in (*counts, one.strict_failed)),
        f"{one.longest_gap_s:.2f} s",
        *(_with(" ms", value) for value in (one.p99_before_ms, one.p99_after_ms)),
        *(_with(" s", value) for value in (one.detected_s, one.settled_s)),
        f"{one.lost}",
    ]
    return f"| {' | '.join(cells)} |"


def _with(unit: str, value: float | None) -> str:
    return "–" if value is None else f"{value:g}{unit}"


def rewrite(page: Path, drilled: Sequence[Drilled]) -> None:
    """Put the table into a page, with its date and machine."""
    day, cores = time.strftime("%Y-%m-%d"), os.cpu_count()
    said = f"{day}, {cores} cores, shared with other work:\n\n{markdown(drilled)}\n"
    text = page.read_text("utf-8")
    between = re.compile(r"(<!-- chaos:begin -->\n).*?(<!-- chaos:end -->)", re.DOTALL)
    page.write_text(between.sub(lambda at: at[1] + said + at[2], text), "utf-8")
