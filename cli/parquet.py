"""Parquet in and out; alone in a file because pyarrow is slow to import."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dynamo_ray.pouring import Item, Refusal

from .exits import CommandError, Exit
from .sources import (
    DUMP_COLUMNS,
    DUMP_FORM,
    PARQUET_ROWS,
    Bounds,
    Columns,
    Source,
    check_columns,
    item_of,
)

FORM_KEY = b"dynamo_ray"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(), nullable=False),
        pa.field("value", pa.binary(), nullable=False),
        pa.field("sibling", pa.int32(), nullable=False),
        pa.field("siblings", pa.int32(), nullable=False),
        pa.field("wall_ms", pa.int64(), nullable=False),
    ],
    metadata={FORM_KEY: DUMP_FORM.encode()},
)


class ParquetSource(Source):
    """A row per item, a few hundred rows in memory at a time."""

    def __init__(self, path: Path, columns: Columns, bounds: Bounds) -> None:
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise CommandError(Exit.FAILED, f"{path} cannot be read: {error}") from error
        super().__init__(self._file.metadata.num_rows)
        metadata = self._file.schema_arrow.metadata or {}
        is_dump = metadata.get(FORM_KEY) == DUMP_FORM.encode()
        self._columns = DUMP_COLUMNS if is_dump else columns
        self._bounds = bounds
        check_columns(self._columns, self._file.schema_arrow.names)

    def __iter__(self) -> Iterator[Item | Refusal]:
        try:
            for batch in self._file.iter_batches(PARQUET_ROWS, columns=self._wanted()):
                for row in batch.to_pylist():
                    self.done += 1
                    yield item_of(f"row {int(self.done)}", row, self._columns, self._bounds)
        except (pa.ArrowException, OSError) as error:
            yield Refusal(f"rows from {int(self.done) + 1} on", f"cannot be read: {error}")
        finally:
            self._file.close()

    def _wanted(self) -> list[str] | None:
        if self._columns.value is None:
            return None
        known = self._file.schema_arrow.names
        wanted = (self._columns.key or "key", self._columns.value, "sibling")
        return [name for name in known if name in wanted or name.removesuffix("_base64") in wanted]


class ParquetSink:
    """Writes rows of a dump as they come, a row group per page."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows with the columns of SCHEMA."""
        self._writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))

    def close(self) -> None:
        """Write the footer; without it the file is no Parquet."""
        self._writer.close()
