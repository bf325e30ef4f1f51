"""What `load` reads: a folder, NDJSON, CSV or Parquet, as a stream of items and refusals.

Memory stays bounded whatever the input: files and lines above the cluster's limits are refused
unread, and nothing is collected. A source counts how far it is, in bytes or in rows.
A row that cannot be loaded becomes a Refusal that says where and why; reading goes on.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dynamo_ray.pouring import Item, Refusal

from .exits import CommandError, Exit

DUMP_FORM = "dynamo_ray.dump/1"
SPARE_LINE_BYTES = 64 * 1024
PARQUET_ROWS = 256


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the cluster takes."""

    key_bytes: int = 1024
    value_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are key and value; without a value column the whole row is it, as JSON."""

    key: str | None = None
    value: str | None = None
    is_dump: bool = False


DUMP_COLUMNS = Columns("key", "value", is_dump=True)


class Source:
    """One input. Iterate it once; `done` of `total` tells how far it is."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.done: float = 0

    def __iter__(self) -> Iterator[Item | Refusal]:
        raise NotImplementedError


def open_source(path: Path, form: str | None, columns: Columns, bounds: Bounds) -> Source:
    """The source for a path: a folder, or a file by its ending or `form`. Raises CommandError."""
    if not path.exists():
        raise CommandError(Exit.USAGE, f"{path} does not exist")
    if path.is_dir():
        return Folder(path, bounds)
    form = form or path.suffix.lstrip(".").lower()
    if form in ("ndjson", "jsonl", "json"):
        return NdJson(path, columns, bounds)
    if form in ("csv", "tsv"):
        return Csv(path, columns, bounds, "\t" if form == "tsv" else ",")
    if form == "parquet":
        from .parquet import ParquetSource

        return ParquetSource(path, columns, bounds)
    raise CommandError(
        Exit.USAGE, f"{path} is no folder, .ndjson, .csv, .tsv or .parquet; --format says which"
    )


class Folder(Source):
    """One object per regular file; the key is the path below the folder, with `/` between."""

    def __init__(self, folder: Path, bounds: Bounds, skip: frozenset[str] = frozenset()) -> None:
        super().__init__(sum(length for _, _, length, _ in _walk(folder, skip)))
        self._folder, self._bounds, self._skip = folder, bounds, skip

    def __iter__(self) -> Iterator[Item | Refusal]:
        for path, key, length, why in _walk(self._folder, self._skip):
            yield self._one(path, key, length, why)
            self.done += length

    def _one(self, path: str, key: bytes, length: int, why: str) -> Item | Refusal:
        where = os.fsdecode(key)
        why = why or refused_because(key, length, self._bounds)
        if why:
            return Refusal(where, why)
        try:
            with open(path, "rb") as file:
                # One byte more than is allowed tells a file that grew since it was measured.
                value = file.read(self._bounds.value_bytes + 1)
        except OSError as error:
            return Refusal(where, error.strerror or str(error))
        why = refused_because(key, len(value), self._bounds)
        return Refusal(where, why) if why else Item(key, value)


def _walk(folder: Path, skip: frozenset[str]) -> Iterator[tuple[str, bytes, int, str]]:
    """Path, key, length and why it cannot be read, of every file below, in a steady order."""
    problems: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=problems.append):
        folders[:] = sorted(name for name in folders if name not in skip)
        yield from _unreadable(folder, problems)
        for name in folders:
            if os.path.islink(path := os.path.join(parent, name)):
                yield path, _key_of(folder, path), 0, "a link to a folder; links are not followed"
        for name in sorted(files):
            path = os.path.join(parent, name)
            key = _key_of(folder, path)
            try:
                found = os.stat(path)
            except OSError as error:
                yield path, key, 0, error.strerror or str(error)
                continue
            why = "" if stat.S_ISREG(found.st_mode) else "not a regular file"
            yield path, key, found.st_size, why
    yield from _unreadable(folder, problems)


def _unreadable(folder: Path, problems: list[OSError]) -> Iterator[tuple[str, bytes, int, str]]:
    while problems:
        error = problems.pop()
        path = os.fspath(error.filename or folder)
        yield path, _key_of(folder, path) + b"/", 0, error.strerror or str(error)


def _key_of(folder: Path, path: str) -> bytes:
    return os.fsencode(os.path.relpath(path, folder).replace(os.sep, "/"))


class NdJson(Source):
    """One JSON object per line."""

    def __init__(self, path: Path, columns: Columns, bounds: Bounds) -> None:
        super().__init__(path.stat().st_size)
        self._path, self._columns, self._bounds = path, columns, bounds

    def __iter__(self) -> Iterator[Item | Refusal]:
        with self._path.open("rb") as file:
            for number, line in enumerate(self._lines(file), start=1):
                if line is None:
                    yield Refusal(f"line {number}", "the line is longer than any value may be")
                elif line.strip() and (found := self._one(number, line)):
                    yield found

    def _lines(self, file: BinaryIO) -> Iterator[bytes | None]:
        """The lines; None for one that is too long to be read."""
        most = 2 * self._bounds.value_bytes + SPARE_LINE_BYTES
        while line := file.readline(most):
            self.done += len(line)
            if line.endswith(b"\n") or len(line) < most:
                yield line
                continue
            while rest := file.readline(most):
                self.done += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield None

    def _one(self, number: int, line: bytes) -> Item | Refusal | None:
        try:
            row = json.loads(line)
        except ValueError as error:
            return Refusal(f"line {number}", f"no JSON: {error}")
        if not isinstance(row, dict):
            return Refusal(f"line {number}", "no JSON object")
        if number == 1 and row.get("schema") == DUMP_FORM:
            self._columns = DUMP_COLUMNS
            return None
        return item_of(f"line {number}", row, self._columns, self._bounds, line.strip())


class Csv(Source):
    """A header and rows. Bytes that are not UTF-8 are kept as they are."""

    def __init__(self, path: Path, columns: Columns, bounds: Bounds, between: str) -> None:
        super().__init__(path.stat().st_size)
        self._path, self._columns, self._bounds, self._between = path, columns, bounds, between

    def __iter__(self) -> Iterator[Item | Refusal]:
        csv.field_size_limit(self._bounds.value_bytes)
        with self._path.open("rb") as file:
            rows = csv.reader(self._text(file), delimiter=self._between)
            heads = next(rows, None)
            if not heads:
                raise CommandError(Exit.USAGE, f"{self._path} has no header line")
            check_columns(self._columns, heads)
            while True:
                try:
                    cells = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield Refusal(f"line {rows.line_num}", str(error))
                    continue
                if cells:
                    yield self._one(f"line {rows.line_num}", heads, cells)

    def _text(self, file: BinaryIO) -> Iterator[str]:
        first = True
        while line := file.readline(2 * self._bounds.value_bytes + SPARE_LINE_BYTES):
            self.done += len(line)
            yield line.removeprefix(b"\xef\xbb\xbf" if first else b"").decode(
                errors="surrogateescape"
            )
            first = False

    def _one(self, where: str, heads: list[str], cells: list[str]) -> Item | Refusal:
        if len(cells) != len(heads):
            return Refusal(where, f"it has {len(cells)} columns, the header {len(heads)}")
        row = dict(zip(heads, cells, strict=True))
        return item_of(where, row, self._columns, self._bounds)


def check_columns(columns: Columns, heads: Iterable[str]) -> None:
    """Raises CommandError (usage) for a column that is not there."""
    known = list(heads)
    for given in (columns.key or "key", columns.value):
        if given and given not in known and f"{given}_base64" not in known:
            raise CommandError(
                Exit.USAGE,
                f"there is no column {given!r}; --key and --value are among {', '.join(known)}",
            )


def item_of(
    where: str, row: dict[str, Any], columns: Columns, bounds: Bounds, text: bytes | None = None
) -> Item | Refusal:
    """A row as an item; `text` is the row's own JSON if it came as JSON."""
    try:
        key = _cell(row, columns.key or "key")
        if columns.value:
            value = _cell(row, columns.value)
        else:
            value = (
                json.dumps(row, ensure_ascii=False, default=_plain).encode()
                if text is None
                else text
            )
    except (ValueError, TypeError) as error:
        return Refusal(where, str(error))
    why = refused_because(key, len(value), bounds)
    if why:
        return Refusal(where, why)
    return Item(key, value, beside=columns.is_dump and bool(row.get("sibling")))


def refused_because(key: bytes, length: int, bounds: Bounds) -> str:
    """Why the cluster would not take it, or nothing."""
    if not 1 <= len(key) <= bounds.key_bytes:
        return f"the key has {len(key)} bytes; a key has 1 to {bounds.key_bytes}"
    if length > bounds.value_bytes:
        return f"{length:,} bytes; the most is {bounds.value_bytes:,}"
    return ""


def _cell(row: dict[str, Any], column: str) -> bytes:
    """A cell as bytes: text as UTF-8, numbers and structures as JSON. Raises ValueError."""
    found = row.get(column)
    if found is None and (coded := row.get(f"{column}_base64")) is not None:
        try:
            return base64.b64decode(coded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise ValueError(f"{column}_base64 is not base64") from None
    if found is None:
        raise ValueError(f"it has no {column!r}")
    if isinstance(found, bytes):
        return found
    if isinstance(found, str):
        return found.encode(errors="surrogateescape")
    return json.dumps(found, ensure_ascii=False, default=_plain).encode()


def _plain(value: Any) -> str:
    """What JSON has no form for: bytes in base64, the rest (dates, decimals) as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
