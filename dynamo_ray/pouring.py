"""Writing a stream of items into a cluster: several requests at once, in bounded memory.

Items of one key keep their order: a key that is still on its way waits for it. What failed for a
reason that may pass (nodes away, too much in flight) is tried again for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dynamo_ray.client import AsyncClient
    from dynamo_ray.errors import DynamoError

BATCH_KEYS = 256
BATCH_BYTES = 1024 * 1024
AT_ONCE = 4
RETRY_FOR_S = 20.0
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 2.0
REFUSALS_KEPT = 1000


class Item(NamedTuple):
    """A key and its value; `beside`: the value goes beside the one before it of the same key."""

    key: bytes
    value: bytes
    beside: bool = False


class Refusal(NamedTuple):
    """Something that was not written: where it is, and why."""

    where: str
    why: str


@dataclass(slots=True)
class Tally:
    """What became of the items: `refusals` and `failures` keep the first thousand of each."""

    objects: int = 0
    bytes: int = 0
    retried: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    failures: dict[Any, DynamoError] = field(default_factory=dict)

    def refuse(self, refusal: Refusal) -> None:
        """Count it; the first thousand are kept to be listed."""
        self.refused += 1
        if len(self.refusals) < REFUSALS_KEPT:
            self.refusals.append(refusal)


@dataclass(frozen=True, slots=True)
class Manner:
    """How items are written."""

    ttl_s: float | None = None
    w: int | None = None
    strict: bool = False
    timeout_s: float = 2.0


async def pour(
    client: AsyncClient,
    items: Iterable[Item | Refusal],
    manner: Manner,
    on_progress: Callable[[Tally], None],
) -> Tally:
    """Write all items. Failures end up in the tally; only the loss of the cluster raises."""
    return await _Pouring(client, manner, on_progress).run(items)


class _Pouring:
    def __init__(
        self, client: AsyncClient, manner: Manner, on_progress: Callable[[Tally], None]
    ) -> None:
        self._client, self._manner, self._on_progress = client, manner, on_progress
        self._tally = Tally()
        self._batch: dict[bytes, Item] = {}
        self._batch_bytes = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._travelling: set[bytes] = set()

    async def run(self, items: Iterable[Item | Refusal]) -> Tally:
        try:
            for item in items:
                if isinstance(item, Refusal):
                    self._tally.refuse(item)
                else:
                    await self._add(item)
            await self._leave()
            await self._settle(0)
        finally:
            for task in self._under_way:
                task.cancel()
        return self._tally

    async def _add(self, item: Item) -> None:
        if item.key in self._batch or item.key in self._travelling:
            await self._leave()
            await self._settle(0)
        self._batch[item.key] = item
        self._batch_bytes += len(item.key) + len(item.value)
        if len(self._batch) >= BATCH_KEYS or self._batch_bytes >= BATCH_BYTES:
            await self._leave()

    async def _leave(self) -> None:
        if not self._batch:
            return
        await self._settle(AT_ONCE - 1)
        batch, self._batch, self._batch_bytes = self._batch, {}, 0
        self._travelling |= batch.keys()
        self._under_way.add(asyncio.create_task(self._write(batch)))

    async def _settle(self, most: int) -> None:
        """Wait until at most so many requests are under way."""
        while len(self._under_way) > most:
            done, self._under_way = await asyncio.wait(
                self._under_way, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            self._on_progress(self._tally)

    async def _write(self, batch: dict[bytes, Item]) -> None:
        left, wait_s = dict(batch), RETRY_FIRST_S
        deadline = time.monotonic() + RETRY_FOR_S
        while left:
            failures = await self._try(left)
            self._count(left, failures)
            passing = {key for key, error in failures.items() if error.retryable}
            if time.monotonic() > deadline:
                passing = set()
            for key in failures.keys() - passing:
                where = key.decode(errors="surrogateescape")
                if len(self._tally.failures) < REFUSALS_KEPT:
                    self._tally.failures[key] = failures[key]
                self._tally.refuse(Refusal(where, str(failures[key])))
            left = {key: left[key] for key in left if key in passing}
            if left:
                self._tally.retried += len(left)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_MOST_S)
        self._travelling -= batch.keys()

    def _count(self, tried: dict[bytes, Item], failures: dict[Any, DynamoError]) -> None:
        written = [item for key, item in tried.items() if key not in failures]
        self._tally.objects += len(written)
        self._tally.bytes += sum(len(item.value) for item in written)

    async def _try(self, items: dict[bytes, Item]) -> dict[bytes, DynamoError]:
        from dynamo_ray.errors import BatchError
        from dynamo_ray.found import CONCURRENT

        manner = self._manner
        try:
            await self._client.put_many(
                {key: item.value for key, item in items.items()},
                contexts={key: CONCURRENT for key, item in items.items() if item.beside},
                ttl_s=manner.ttl_s,
                w=manner.w,
                strict=manner.strict,
                timeout_s=manner.timeout_s,
            )
        except BatchError as error:
            return error.failures
        return {}
