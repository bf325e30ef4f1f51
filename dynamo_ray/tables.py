"""Whole tables for Ray Data: a cluster's keys and values as Arrow, read and written in parallel.

    read_dataset   tasks ─► a share of the partitions each ─► all nodes (sweep.py) ─► Arrow blocks
    write_dataset  tasks ─► the rows of a block ─► put_many in batches, retried (pouring.py)

Ray itself is asked for in actors/datasets.py only, and only when one of the two is called. Tasks
get an address and the client token, so they look nothing up in Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from dynamo_ray.client import AsyncClient
from dynamo_ray.codecs import codec as codec_named
from dynamo_ray.connecting import Way, credentials_of, located, open_async, way_to
from dynamo_ray.core.charter import charter_from
from dynamo_ray.core.sweep import Rows
from dynamo_ray.errors import BadRequestError, BatchError, ConflictError
from dynamo_ray.found import shown_at
from dynamo_ray.pouring import Item, Manner, Tally, pour
from dynamo_ray.resolvers import Resolver, Sibling
from dynamo_ray.rows import key_bytes, value_bytes
from dynamo_ray.sweep import reading

TABLE_ROWS = 4096
TABLE_BYTES = 8 << 20
ERROR, LIST = "error", "list"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the tasks of a read do; plain values that travel to them."""

    way: Way
    siblings: str | Resolver
    codec: str | None

    @property
    def schema(self) -> pa.Schema | None:
        """The blocks' schema; None where the codec decides it."""
        if self.codec is not None:
            return None
        value = pa.list_(pa.binary()) if self.siblings == LIST else pa.binary()
        return pa.schema([pa.field("key", pa.binary()), pa.field("value", value)])


@dataclass(frozen=True, slots=True)
class Writing:
    """What the tasks of a write do."""

    way: Way
    columns: tuple[str, str]
    codec: str | None
    manner: Manner


def read_dataset(
    cluster: str | None = None,
    *,
    address: str | Sequence[str] | None = None,
    token: str | None = None,
    siblings: str | Resolver = ERROR,
    codec: str | None = None,
    tasks: int | None = None,
) -> Any:
    """A Ray Dataset of every key and value of a cluster: columns `key` and `value`, as bytes.

    The cluster is meant by name, or by address and token. Deleted and expired keys are left out.
    `siblings` says what to do with concurrent values: "error" raises ConflictError, "list" makes
    `value` a list of all, a resolver makes one of several. `codec` names what turns bytes into
    objects. The partitions are shared out over `tasks` tasks, by default as Ray Data likes.

    Each key is there once, and every write that W nodes acknowledged before the read began, also
    while nodes come and go; UnavailableError is raised where too few nodes answer for that. It is
    lazy, as datasets are, and
    each reading of it shows the cluster at that time. Needs `pip install 'dynamo-ray[data]'`.
    """
    if siblings not in (ERROR, LIST) and not callable(siblings):
        raise BadRequestError('siblings is "error", "list" or a resolver')
    if codec is not None:
        codec_named(codec)
    way = _reachable(cluster, address, token)
    read = Reading(way, siblings, codec)
    from dynamo_ray.actors.datasets import dataset_of

    return dataset_of(partial(tables, read), _beside(_partitions(way)), read.schema, tasks)


def write_dataset(
    dataset: Any,
    cluster: str | None = None,
    *,
    address: str | Sequence[str] | None = None,
    token: str | None = None,
    columns: tuple[str, str] = ("key", "value"),
    codec: str | None = None,
    **manner: Any,
) -> Tally:
    """Put every row of a Ray Dataset into a cluster; how many objects and bytes that were.

    `columns` are those of the key (text or bytes) and of the value (bytes, or what `codec` takes).
    `manner` is ttl_s, w, strict and timeout_s. A value replaces what is there; of rows with equal
    keys any may be the last. What fails for a reason that may pass is tried again for a while.

    Raises BatchError with the first thousand keys that could not be written: the others are. Ray
    may run a task again whose process died, which puts the same values once more.
    """
    if codec is not None:
        codec_named(codec)
    how = Manner(**manner)
    writing = Writing(_reachable(cluster, address, token), columns, codec, how)
    from dynamo_ray.actors.datasets import write_to

    total = Tally()
    for tally in write_to(dataset, partial(write_tables, writing)):
        total.objects += tally.objects
        total.bytes += tally.bytes
        total.retried += tally.retried
        total.refused += tally.refused
        total.failures |= tally.failures
    if total.failures:
        raise BatchError(total.failures, {"objects": total.objects})
    return total


def tables(read: Reading, partitions: Sequence[int]) -> Iterator[pa.Table]:
    """The keys and values of some partitions, in tables of a bounded size. Runs a loop of its own.

    Raises ConflictError (with the key), UnavailableError.
    """
    with asyncio.Runner() as runner:
        source = _tables(read, partitions)
        try:
            while (table := runner.run(_next(source))) is not None:
                yield table
        finally:
            runner.run(source.aclose())


def write_tables(writing: Writing, given: Iterable[pa.Table]) -> Tally:
    """Put every row of some tables; what became of them. Runs a loop of its own."""
    return asyncio.run(_write(writing, given))


def _reachable(cluster: str | None, address: str | Sequence[str] | None, token: str | None) -> Way:
    way = way_to(cluster, address, token, None, "server", "wire", {})
    return located(way) if way.address is None else way


def _beside(work: Any) -> Any:
    """Run a coroutine in a thread of its own, as the caller may run a loop."""
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(asyncio.run, work).result()


async def _partitions(way: Way) -> int:
    client = await open_async(way, members_only=True)
    try:
        return charter_from(client.session.charter).settings.partitions
    finally:
        await client.close(0)


async def _next(source: AsyncGenerator[pa.Table, None]) -> pa.Table | None:
    return await anext(source, None)


async def _tables(read: Reading, partitions: Sequence[int]) -> AsyncGenerator[pa.Table, None]:
    client = await open_async(read.way, members_only=True)
    try:
        async with reading(client.session, credentials_of(read.way.token or "")) as reader:
            keys: list[bytes] = []
            values: list[Any] = []
            size = 0
            for partition in partitions:
                async for rows in reader.states(partition):
                    size += _add(read, rows, keys, values)
                    if len(keys) >= TABLE_ROWS or size >= TABLE_BYTES:
                        yield _table(read, keys, values)
                        keys, values, size = [], [], 0
            if keys:
                yield _table(read, keys, values)
    finally:
        await client.close(0)


def _add(read: Reading, rows: Rows, keys: list[bytes], values: list[Any]) -> int:
    """Add what a page shows now; how many bytes that is."""
    now_ms, size = time.time_ns() // 1_000_000, 0
    for key, state in zip(rows.keys, rows.states, strict=True):
        siblings = shown_at(state, now_ms)
        if siblings:
            keys.append(key)
            values.append(_value(read, key, siblings))
            size += len(key) + sum(len(one.value) for one in siblings)
    return size


def _value(read: Reading, key: bytes, siblings: Sequence[Sibling]) -> Any:
    decode = codec_named(read.codec).decode if read.codec is not None else bytes
    if read.siblings == LIST:
        return [decode(one.value) for one in siblings]
    if len(siblings) == 1:
        return decode(siblings[0].value)
    if callable(read.siblings):
        return decode(read.siblings(siblings))
    raise ConflictError([one.value for one in siblings], key)


def _table(read: Reading, keys: list[bytes], values: list[Any]) -> pa.Table:
    if read.schema is not None:
        return pa.table([pa.array(keys, pa.binary()), values], schema=read.schema)
    return pa.table({"key": pa.array(keys, pa.binary()), "value": values})


async def _write(writing: Writing, given: Iterable[pa.Table]) -> Tally:
    client: AsyncClient = await open_async(writing.way)
    try:
        return await pour(client, _items(writing, given), writing.manner, _nobody)
    finally:
        await client.close()


def _items(writing: Writing, given: Iterable[pa.Table]) -> Iterator[Item]:
    key_column, value_column = writing.columns
    encode = codec_named(writing.codec).encode if writing.codec is not None else value_bytes
    for table in given:
        for name in writing.columns:
            if name not in table.column_names:
                has = ", ".join(table.column_names)
                raise BadRequestError(f"the dataset has no column {name!r}; it has {has}")
        for batch in table.select(list(writing.columns)).to_batches(TABLE_ROWS):
            keys, values = batch[key_column].to_pylist(), batch[value_column].to_pylist()
            for key, value in zip(keys, values, strict=True):
                yield Item(key_bytes(key), encode(value))


def _nobody(tally: Tally) -> None:
    """Nobody follows the progress of a task."""
