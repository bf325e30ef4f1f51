"""`python -m tests.cluster.load SECONDS PREFIX`: put and get beside what happens to the machines.

For each put: acknowledged, or in which way not. What was acknowledged is read again in the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import dynamo_ray

PAUSE_S = 0.01


async def main(seconds: float, prefix: str) -> None:
    """Tell what came of it as JSON."""
    acknowledged: dict[str, bytes] = {}
    failed: list[str] = []
    longest = 0.0
    async with await dynamo_ray.connect_async("carts") as client:
        print("ready", flush=True)
        begun = last = time.monotonic()
        while time.monotonic() < begun + seconds:
            key = f"{prefix}:{len(acknowledged) + len(failed)}"
            try:
                await client.put(key, key.encode())
                found = await client.get(key)
                assert found.value == key.encode(), found
                acknowledged[key] = key.encode()
            except dynamo_ray.DynamoError as error:
                failed.append(f"{type(error).__name__}: {error}")
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            await asyncio.sleep(PAUSE_S)
        read = [await client.get(key) for key in acknowledged]
    lost = [k for k, f in zip(acknowledged, read, strict=True) if f.value != acknowledged[k]]
    told = {"puts": len(acknowledged), "failed": failed, "gap_s": longest, "lost": lost}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2]))
