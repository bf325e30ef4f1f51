"""Load: writers and readers that go on until told to stop, and remember what they were told.

Each writer owns its keys, so that it knows what may be in them: after every acknowledged put the
value of that put or of a later one, and never more than one. It puts with the context of its last
put, as a careful program does; then a put that was made twice shows as a sibling, in `doubled`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from dynamo_ray.errors import DynamoError


class Load:
    """Use as `async with Load(client) as load:`; inside, things happen to the cluster."""

    def __init__(self, client: Any, workers: int = 8, keys: int = 10, name: str = "load") -> None:
        self.client = client
        self.keys = [[f"{name}:{w}:{i}" for i in range(keys)] for w in range(workers)]
        self.acknowledged: dict[str, int] = {}
        self.tried: dict[str, int] = {}
        self.errors: list[DynamoError] = []
        self.doubled: list[str] = []
        self.done: Counter[str] = Counter()
        self.longest_gap_s = 0.0  # in which nobody's operation ended
        self.slowest_s = 0.0  # operation of one worker
        self._contexts: dict[str, bytes] = {}
        self._last_end = time.monotonic()
        self._going = True
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._last_end = time.monotonic()
        self._tasks = [asyncio.create_task(self._work(keys)) for keys in self.keys]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    async def more(self, operations: int = 100, timeout_s: float = 8.0) -> None:
        """Wait, bounded, until so many more operations have ended well."""
        wanted = self.done.total() + operations
        deadline = time.monotonic() + timeout_s
        while self.done.total() < wanted:
            assert time.monotonic() < deadline, f"{self.done}, {self.errors[:3]}"
            await asyncio.sleep(0.005)

    async def _work(self, keys: list[str]) -> None:
        turn = 0
        while self._going:
            key = keys[turn % len(keys)]
            turn += 1
            began = time.monotonic()
            try:
                await self._put(key)
                began = self._ended("put", began)
                found = await self.client.get(key)
                self._ended("get", began)
                self._contexts[key] = found.context
                if len(found.siblings) > 1:
                    self.doubled.append(key)
            except DynamoError as error:
                self.errors.append(error)

    async def _put(self, key: str) -> None:
        number = self.tried[key] = self.tried.get(key, 0) + 1
        if key not in self._contexts:
            self._contexts[key] = (await self.client.get(key)).context
        context = self._contexts.pop(key)
        done = await self.client.put(key, b"%d" % number, context)
        self._contexts[key] = done.context
        self.acknowledged[key] = number

    def _ended(self, kind: str, began: float) -> float:
        now = time.monotonic()
        self.longest_gap_s = max(self.longest_gap_s, now - self._last_end)
        self.slowest_s = max(self.slowest_s, now - began)
        self._last_end = now
        self.done[kind] += 1
        return now

    async def check(self, client: Any, siblings: bool = False) -> None:
        """Nothing acknowledged is lost; without `siblings`, also nothing is there twice."""
        found = await client.get_many(self.acknowledged, r=3, strict=True, timeout_s=5)
        for key, number in self.acknowledged.items():
            values = [int(sibling.value) for sibling in found[key].siblings]
            assert max(values, default=0) >= number, f"{key}: {values}, acknowledged {number}"
            assert max(values) <= self.tried[key]
            assert siblings or len(values) == 1, f"{key}: {values}"
