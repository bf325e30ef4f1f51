"""A run as a message-sequence diagram in text: a column per host, a line per message of one key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo_ray.core.messages import GetDone, Merged, PutDone, Refused

WIDTH = 14
LINES_MAX = 400


def draw_ladder(
    trace: Sequence[tuple[int, str, str, Any]],
    hosts: Sequence[str],
    key: bytes,
    notes: Sequence[tuple[int, str]] = (),
) -> str:
    """The messages about `key`, and the replies, in the order in which they were sent."""
    columns = {name: 12 + i * WIDTH for i, name in enumerate(hosts)}
    lines = ["t (ms)".ljust(12) + "".join(name.ljust(WIDTH) for name in hosts)]
    noted = [(at, f"{at / 1000:10.2f}  ** {text} **") for at, text in notes]
    said = [
        (at, _arrow(at, columns[src], columns[dst], _label(message), columns))
        for at, src, dst, message in trace
        if src in columns and dst in columns and _speaks_of(message, key)
    ]
    rows = [line for _, line in sorted([*noted, *said], key=lambda row: row[0])]
    if len(rows) > LINES_MAX:
        rows = [*rows[:LINES_MAX], f"… and {len(rows) - LINES_MAX} more lines"]
    return "\n".join(lines + rows)


def _speaks_of(message: Any, key: bytes) -> bool:
    keys = getattr(message, "keys", None)
    return keys is None or key in keys


def _label(message: Any) -> str:
    name = type(message).__name__
    if isinstance(message, Refused):
        return f"Refused {int(message.code)}"
    if isinstance(message, PutDone | GetDone) and message.failures:
        return f"{name} failed {int(message.failures[0].code)}"
    if getattr(message, "hint_for", b""):
        return f"{name} (hint)"
    if isinstance(message, Merged):
        return name
    return f"{name}*" if getattr(message, "durable", False) else name


def _arrow(at: int, src: int, dst: int, label: str, columns: dict[str, int]) -> str:
    width = max(columns.values()) + WIDTH
    row = [" "] * width
    for column in columns.values():
        row[column] = "|"
    low, high = min(src, dst), max(src, dst)
    for i in range(low + 1, high):
        row[i] = "-"
    row[high - 1 if dst > src else low + 1] = ">" if dst > src else "<"
    text = label[: high - low - 4]
    start = low + max(2, (high - low - len(text)) // 2)
    row[start : start + len(text)] = text
    return (f"{at / 1000:10.2f}".ljust(12) + "".join(row)[12:]).rstrip()
