"""Tables, colours, sizes and progress: the only file that knows how things look.

Data goes to stdout, talk and progress to stderr. Colours and the moving bar are for terminals;
a pipe gets plain text, and NO_COLOR is honoured (no-color.org).
"""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
CLEAR_SCREEN = "\x1b[H\x1b[2J"
BAR_EVERY_S = 0.1
LINE_EVERY_S = 5.0
BAR_CELLS = 30


def coloured(stream: TextIO) -> bool:
    """True if the stream is a terminal that wants colours."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a style, or as it is where no colours are wanted."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if coloured(stream or sys.stdout) else text


def say(text: str = "", style: str = "") -> None:
    """A sentence for people, on stderr."""
    Progress.clear()
    print(styled(text, style, sys.stderr) if style else text, file=sys.stderr, flush=True)


@contextmanager
def saying(log: str) -> Iterator[None]:
    """What is told to the log of that name is said meanwhile, and told nobody else."""

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage(), "dim")

    logger, said = logging.getLogger(log), Said()
    before = logger.level, logger.propagate
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(said)
        logger.level, logger.propagate = before


def show(text: str = "", style: str = "") -> None:
    """A line of data, on stdout."""
    print(styled(text, style) if style else text)


def show_json(value: Any, *, pretty: bool = True) -> None:
    """JSON on stdout; on one line where it is one of many."""
    print(json.dumps(value, indent=1 if pretty else None, ensure_ascii=False, default=str))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int]) -> list[str]:
    """Aligned lines, heads first; the columns in `right` are flush right."""
    every = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(heads))]
    lines = []
    for row in every:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def size(count: float) -> str:
    """Bytes for people: `11.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def as_text(value: bytes) -> dict[str, str]:
    """Bytes for JSON: as they are where they are UTF-8, else in base64; the name tells which."""
    try:
        return {"utf8": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def named(name: str, value: bytes) -> dict[str, str]:
    """Bytes as a field of a JSON row: text, or base64 in a field whose name says so."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def glimpse(value: bytes, width: int = 60) -> str:
    """The beginning of a value on one line, for people."""
    text = value[: width * 4].decode(errors="backslashreplace")
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= width and len(value) <= width * 4 else line[: width - 1] + "…"


class Progress:
    """A bar on stderr while it is a terminal; elsewhere a plain line now and then."""

    _drawn = False

    def __init__(self, label: str, total: float) -> None:
        self._label = label
        self._total = total
        self._moving = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._next = self._begun + (0 if self._moving else LINE_EVERY_S)

    def at(self, done: float, text: str, *, now: bool = False) -> None:
        """Show how far it is: `done` of the total, and some words. Most calls draw nothing."""
        time_now = time.monotonic()
        if time_now < self._next and not now:
            return
        self._next = time_now + (BAR_EVERY_S if self._moving else LINE_EVERY_S)
        share = min(1.0, done / self._total) if self._total else 1.0
        if not self._moving:
            say(f"{self._label}: {share:4.0%} {text}")
            return
        filled = round(share * BAR_CELLS)
        bar = styled("━" * filled, "green", sys.stderr) + "─" * (BAR_CELLS - filled)
        room = max(10, shutil.get_terminal_size().columns - BAR_CELLS - len(self._label) - 9)
        sys.stderr.write(f"\r\x1b[K{self._label} {bar} {share:4.0%} {text[:room]}")
        sys.stderr.flush()
        Progress._drawn = True

    def end(self) -> None:
        """Take the bar away."""
        self.clear()

    @classmethod
    def clear(cls) -> None:
        """What is said next begins on a line of its own, not behind a bar."""
        if cls._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            cls._drawn = False

    @property
    def seconds(self) -> float:
        """How long it has been going."""
        return time.monotonic() - self._begun
