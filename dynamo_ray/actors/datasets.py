"""The ends of Ray Data: what reads and writes a dataset's blocks in Ray tasks (see tables.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from dynamo_ray.actors.fleet import attach_ray

try:
    import ray.data as ray_data
    from ray.data.block import BlockAccessor, BlockMetadata
except ImportError as error:  # pandas and numpy come with the extra only
    raise ImportError(
        f"Ray Data cannot be used here ({error}); pip install 'dynamo-ray[data]'"
    ) from error

Read = Callable[[Sequence[int]], Iterator[pa.Table]]
Write = Callable[[Iterable[pa.Table]], Any]


class ClusterSource(ray_data.Datasource):
    """The partitions of a cluster, shared out over tasks."""

    def __init__(self, read: Read, partitions: int, schema: pa.Schema | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._read = read
        self._partitions = partitions
        self._schema = schema

    def get_name(self) -> str:
        """What Ray calls the tasks."""
        return "DynamoRay"

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody knows before it is read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[Any]:
        """A task per share."""
        shares = max(1, min(parallelism, self._partitions))
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ray_data.ReadTask(
                partial(self._read, range(i, self._partitions, shares)),
                unknown,
                schema=self._schema,
                per_task_row_limit=per_task_row_limit,
            )
            for i in range(shares)
        ]


class ClusterSink(ray_data.Datasink[Any]):
    """Takes blocks to the cluster; keeps what the tasks told."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write
        self.told: list[Any] = []

    def get_name(self) -> str:
        """What Ray calls the tasks."""
        return "DynamoRay"

    def write(self, blocks: Iterable[Any], ctx: Any) -> Any:
        """In a task: write its blocks."""
        return self._write(BlockAccessor.for_block(block).to_arrow() for block in blocks)

    def on_write_complete(self, write_result: Any) -> None:
        """In the process that asked: all tasks are done."""
        self.told = list(write_result.write_returns)


def dataset_of(read: Read, partitions: int, schema: pa.Schema | None, tasks: int | None) -> Any:
    """A lazy Dataset that `read` fills."""
    attach_ray()
    source = ClusterSource(read, partitions, schema)
    return ray_data.read_datasource(source, override_num_blocks=tasks)


def write_to(dataset: Any, write: Write) -> list[Any]:
    """Have `write` take every block of a dataset; what it told, by task."""
    sink = ClusterSink(write)
    dataset.write_datasink(sink)
    return sink.told
