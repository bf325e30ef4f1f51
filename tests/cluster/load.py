"""`python -m tests.cluster.load SECONDS PREFIX WORKERS BYTES`: put and get beside what happens.

    ready ─► each worker: put, get, a pause ─► SECONDS are over ─► stdin ends ─► all is read again

For each put: acknowledged, or in which way not. What was acknowledged is read again in the end, not
before stdin ends: a read repairs, and whoever asks when copies are equal does not want help.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import dynamo_ray

PAUSE_S = 0.01
PAGE = 500


class Load:
    """What came of it. `took`: when each round began, and its put and its get, in seconds."""

    def __init__(self, client: Any, prefix: str, size: int) -> None:
        self.client, self.prefix, self.size = client, prefix, size
        self.acknowledged: list[str] = []
        self.failed: list[str] = []
        self.took: list[tuple[float, float, float]] = []
        self.gap_s = 0.0

    def value(self, key: str) -> bytes:
        """What belongs to a key."""
        return key.encode().ljust(self.size, b".")

    async def work(self, worker: int, until: float) -> None:
        """Put and get until then, one after the other, each key once."""
        last, number = time.monotonic(), 0
        while (begun := time.monotonic()) < until:
            key, number = f"{self.prefix}:{worker}:{number}", number + 1
            try:
                await self.client.put(key, self.value(key))
                middle = time.monotonic()
                found = await self.client.get(key)
                assert found.value == self.value(key), found
                self.acknowledged.append(key)
                self.took.append((begun, middle - begun, time.monotonic() - middle))
            except dynamo_ray.DynamoError as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            now = time.monotonic()
            self.gap_s, last = max(self.gap_s, now - last), now
            await asyncio.sleep(PAUSE_S)

    async def lost(self) -> list[str]:
        """What was acknowledged and is not there."""
        found: list[str] = []
        for at in range(0, len(self.acknowledged), PAGE):
            keys = self.acknowledged[at : at + PAGE]
            read = await self.client.get_many(keys, timeout_s=10)
            found += [key for key in keys if read[key].value != self.value(key)]
        return found


async def main(seconds: float, prefix: str, workers: int, size: int) -> None:
    """Tell what came of it as JSON."""
    async with await dynamo_ray.connect_async("carts") as client:
        load = Load(client, prefix, size)
        print("ready", flush=True)
        until = time.monotonic() + seconds
        await asyncio.gather(*(load.work(worker, until) for worker in range(workers)))
        await asyncio.to_thread(sys.stdin.read)
        lost = await load.lost()
    puts = len(load.acknowledged)
    told = {"puts": puts, "failed": load.failed, "gap_s": load.gap_s, "lost": lost}
    print(json.dumps({**told, "took": load.took}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
