"""From samples to a page: percentiles, medians over rounds, ratios, a table and JSON.

A figure of a contestant is the median over rounds of that figure in each round. Its ratio is the
median over rounds of (its figure / the baseline's figure in the same round): both ran within a
second of each other, so what the neighbours on the machine did to that round cancels. Where a round
holds too few calls for a percentile, all rounds are pooled and the cell is marked; where even
those are too few, the cell stays empty, because a p99.9 of 300 calls is only their maximum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

PERCENTILES = {"p50_ms": 500, "p99_ms": 990, "p999_ms": 999}  # in thousandths: exact ranks
FIGURES = (*PERCENTILES, "keys_per_s")
HEADINGS = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms", "keys_per_s": "keys/s"}
TABLE_WIDTH = 124


@dataclass(frozen=True)
class Round:
    """One workload of one contestant in one round."""

    latencies_s: tuple[float, ...]
    elapsed_s: float
    keys_per_call: int = 1

    @property
    def keys_per_s(self) -> float:
        return len(self.latencies_s) * self.keys_per_call / self.elapsed_s


class Figure(NamedTuple):
    """A number on the page; `ratio` is to the baseline; `pooled` if a round held too few calls."""

    value: float | None
    ratio: float | None
    pooled: bool


def percentile(latencies: Sequence[float], thousandths: int) -> float | None:
    """Nearest rank, a latency that was really seen; None unless some call lies above that rank."""
    rank = -(-len(latencies) * thousandths // 1000)
    return sorted(latencies)[rank - 1] if rank < len(latencies) else None


def figure_of(taken: Round, name: str) -> float | None:
    if name == "keys_per_s":
        return taken.keys_per_s
    found = percentile(taken.latencies_s, PERCENTILES[name])
    return None if found is None else found * 1000


def pool(rounds: Sequence[Round]) -> Round:
    latencies = tuple(latency for taken in rounds for latency in taken.latencies_s)
    return Round(latencies, sum(taken.elapsed_s for taken in rounds), rounds[0].keys_per_call)


def ratios(rounds: Sequence[Round], baseline: Sequence[Round], name: str) -> list[float]:
    """Round by round, where both have the figure."""
    ours = (figure_of(taken, name) for taken in rounds)
    theirs = (figure_of(taken, name) for taken in baseline)
    pairs = zip(ours, theirs, strict=True)
    return [mine / base for mine, base in pairs if mine is not None and base]


def figure(rounds: Sequence[Round], baseline: Sequence[Round], name: str) -> Figure:
    by_round = [figure_of(taken, name) for taken in rounds]
    known = [value for value in by_round if value is not None]
    whole = len(known) == len(by_round)
    value = median(known) if whole else figure_of(pool(rounds), name)
    paired = ratios(rounds, baseline, name)
    if len(paired) == len(by_round):
        return Figure(value, median(paired), pooled=False)
    ours, theirs = figure_of(pool(rounds), name), figure_of(pool(baseline), name)
    return Figure(value, ours / theirs if ours is not None and theirs else None, pooled=not whole)


def summarise(
    results: Mapping[tuple[str, str], Sequence[Round]], baseline: str
) -> list[dict[str, Any]]:
    """One plain dict for each workload and contestant, in the order given: what JSON holds."""
    lines = []
    for (workload, contestant), rounds in results.items():
        base = results.get((workload, baseline), rounds)
        spread = ratios(rounds, base, "p50_ms")
        lines.append(
            {
                "workload": workload,
                "contestant": contestant,
                "calls": sum(len(taken.latencies_s) for taken in rounds),
                "figures": {name: figure(rounds, base, name)._asdict() for name in FIGURES},
                "p50_ratio_by_round": spread,
                "rounds": [_plain(taken) for taken in rounds],
            }
        )
    return lines


def _plain(taken: Round) -> dict[str, Any]:
    return {
        "calls": len(taken.latencies_s),
        "elapsed_s": taken.elapsed_s,
        **{name: figure_of(taken, name) for name in FIGURES},
    }


def ordered(
    lines: Sequence[dict[str, Any]], workloads: Sequence[str], contestants: Sequence[str]
) -> list[dict[str, Any]]:
    """Rounds rotate, so results come in any order; a page wants the same one every time."""
    return sorted(
        lines,
        key=lambda line: (
            workloads.index(line["workload"]),
            contestants.index(line["contestant"]),
        ),
    )


def table(lines: Sequence[dict[str, Any]], baseline: str) -> Table:
    title = f"× is the ratio to the {baseline}, the median over rounds"
    page = Table(title=title, title_justify="left")
    page.add_column("", no_wrap=True)
    for name in FIGURES:
        page.add_column(HEADINGS[name], justify="right")
        page.add_column("×", justify="right", style="dim")
    page.add_column("p50 × by round", justify="right", style="dim")
    page.add_column("calls", justify="right", style="dim")
    workload = None
    for line in lines:
        if line["workload"] != workload:
            workload = line["workload"]
            page.add_section()
            page.add_row(f"[bold]{workload}[/bold]")
        page.add_row(*_cells(line))
    return page


def _cells(line: dict[str, Any]) -> list[str]:
    cells = ["  " + line["contestant"]]
    for name in FIGURES:
        found = Figure(**line["figures"][name])
        cells += [
            number(found.value) + ("*" if found.pooled and found.value else ""),
            times(found.ratio),
        ]
    spread = line["p50_ratio_by_round"]
    cells.append(f"{min(spread):.2f} … {max(spread):.2f}" if spread else "–")
    cells.append(f"{line['calls']:,}")
    return cells


def number(value: float | None) -> str:
    """Three significant digits are more than a shared machine gives."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{round(value, -len(str(int(value))) + 3):,.0f}"
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def times(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median of a figure by round, and how far rounds lie apart: half of them, and all."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    quarter, middle, three = quantiles(values, n=4, method="inclusive") if low < high else [low] * 3
    shown = [f"{value:.{digits}f}" for value in (middle, quarter, three, low, high)]
    return "{} (half of the rounds {} … {}, all {} … {})".format(*shown)


def show(lines: Sequence[dict[str, Any]], baseline: str, notes: Sequence[str]) -> None:
    console = Console()
    if console.width < TABLE_WIDTH:
        console = Console(width=TABLE_WIDTH)  # a pipe or a narrow window: wrap lines, not cells
    console.print(table(lines, baseline))
    for note in ("* rounds too short for this percentile: all rounds pooled", *notes):
        console.print(note, style="dim", markup=False, highlight=False)


def save(path: Path, lines: Sequence[dict[str, Any]], facts: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({**facts, "results": list(lines)}, indent=1) + "\n")
