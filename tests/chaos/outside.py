"""Clients in a process of their own: `python -m tests.chaos.outside ray | address NAME PLACE`.

    ray      attached to Ray, where they find the cluster by its name; one coordinates by itself
    address  by the addresses and the token in CHAOS_ADDRESSES and CHAOS_TOKEN; needs no Ray

They write "ready", work until stdin ends, and pickle their history to stdout.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from typing import Any

import dynamo_ray
from tests.chaos.recording import Recorder

FIRST_NUMBER = 50_000_000


async def connected(how: str, name: str) -> dict[str, Any]:
    """The clients, by what they are."""
    if how == "ray":
        by_itself = await dynamo_ray.connect_async(name, coordination="client")
        return {"itself": by_itself, "name": await dynamo_ray.connect_async(name)}
    where = os.environ["CHAOS_ADDRESSES"].split(",")
    token = os.environ["CHAOS_TOKEN"]
    return {"outside": await dynamo_ray.connect_async(address=where, token=token)}


async def work(how: str, name: str, place: str) -> Recorder:
    """Work until somebody closes stdin."""
    recorder = Recorder(f"outside:{place}", FIRST_NUMBER, place)
    clients = await connected(how, name)
    working = asyncio.gather(*(recorder.run(one, who, own=1) for who, one in clients.items()))
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    await asyncio.to_thread(sys.stdin.read)
    recorder.going = False
    await working
    return recorder


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(asyncio.run(work(*sys.argv[1:])).history))
    sys.stdout.buffer.flush()
    os._exit(0)  # not by Ray's own end, which waits for a GCS that may be dead
