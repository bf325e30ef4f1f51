"""`python -m tests.cluster.watch`: what each member says of the others, as it changes.

It asks every member ten times a second, each over a connection of its own, so that one that is cut
off or slow delays nobody's answer. Times are those of this machine's monotonic clock, which all
hosts share. Told when stdin ends, as JSON: [time, member, what it said], one for each change.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import dynamo_ray
from dynamo_ray.config import load_profile
from dynamo_ray.connecting import credentials_of
from dynamo_ray.core.kinds import STATUS
from dynamo_ray.core.pool import serving
from dynamo_ray.wire.connections import Connection
from dynamo_ray.wire.errors import CallError, WireError
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import Credentials
from dynamo_ray.wire.options import Options

EACH_S = 0.1
ASK_S = 1.0
OPTIONS = Options(connect_s=0.5)


def of_interest(status: dict[str, Any]) -> dict[str, Any]:
    """Of a member's status what is watched; `hints` only whether it keeps any."""
    known = {name: sorted(status[name]) for name in ("suspected", "connected")}
    return {**known, "slow": status.get("slow", []), "hints": any(status.get("hints", {}).values())}


class Watch:
    """The changes that were seen."""

    def __init__(self, credentials: Credentials) -> None:
        self.seen: list[tuple[float, str, dict[str, Any]]] = []
        self._credentials = credentials

    async def follow(self, name: str, host: str, port: int) -> None:
        """Ask a member for ever; what it says while it is not reached is not known."""
        last: dict[str, Any] = {}
        while True:
            with contextlib.suppress(WireError, CallError):
                connection = await connect(host, port, self._credentials, options=OPTIONS)
                try:
                    await self._ask(connection, name, last)
                finally:
                    connection.close()
            await asyncio.sleep(EACH_S)

    async def _ask(self, connection: Connection, name: str, last: dict[str, Any]) -> None:
        while True:
            _, fields = await connection.request(STATUS, (), ASK_S)
            said = of_interest(json.loads(fields[0]))
            if said != last:
                self.seen.append((time.monotonic(), name, said))
                last.clear()
                last.update(said)
            await asyncio.sleep(EACH_S)


async def main() -> None:
    """Watch until stdin ends."""
    profile = load_profile("carts")
    assert profile is not None
    watch = Watch(credentials_of(profile.token))
    async with await dynamo_ray.connect_async("carts") as client:
        view = client.session.view
        members = [*view.nodes().values(), *serving(view)]
    following = [asyncio.create_task(watch.follow(f.name, f.host, f.port)) for f in members]
    while len({name for _, name, _ in watch.seen}) < len(members):
        await asyncio.sleep(EACH_S)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in following:
        task.cancel()
    print(json.dumps(watch.seen), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
