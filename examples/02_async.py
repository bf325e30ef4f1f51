"""The same from asyncio, as a web server would: thousands of requests at once share round trips.

    python examples/02_async.py

A server outside the Ray cluster connects with an address and a token, and needs no Ray:
`await dynamo_ray.connect_async(address="10.0.0.5:7400", token=...)`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time

import dynamo_ray


async def visit(client: dynamo_ray.AsyncClient, visitor: int) -> None:
    """One request of a web server: read a session, write it back."""
    key = f"session:{visitor % 500}"
    found = await client.get(key)
    seen = int(found.values[0]) if found.found else 0
    await client.put(key, str(seen + 1).encode())


async def serve(addresses: list[str], token: str) -> None:
    """Many visitors at the same time."""
    async with await dynamo_ray.connect_async(address=addresses, token=token) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(visit(client, visitor) for visitor in range(5000)))
        took_s = time.perf_counter() - begun
        print(f"5,000 visits, a read and a write each, in {took_s:.2f} s")

        # A copy with other promises shares the connections.
        quick = client.with_options(r=1, timeout_s=0.5)
        print("one answer is enough:", (await quick.get("session:7")).found)

        try:
            await client.get("x" * 2000)
        except dynamo_ray.KeyTooLargeError as error:
            print("errors are typed:    ", error)


def main() -> None:
    """The whole example."""
    with (
        tempfile.TemporaryDirectory() as folder,
        dynamo_ray.start("visits", nodes=3, data_dir=folder) as cluster,
    ):
        asyncio.run(serve(cluster.addresses, cluster.token))


if __name__ == "__main__":
    main()
