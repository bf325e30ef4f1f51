"""The acts of the demo, each measured: load while a node dies, recover, compare, merge a cart.

    load ──► at a third: kill -9 ──► go on writing (stand-ins, hints) ──► the node is back
         ──► its hints are home ──► read everything, compare SHA-256 ──► two writers, one cart

One writer waits for each answer before its next request, so its longest wait is a pause that a user
would have felt. No request is ever repeated: one that fails counts as failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamo_ray.pouring import Refusal

from . import render
from .sources import Bounds, Folder

if TYPE_CHECKING:
    from dynamo_ray.client import AsyncClient
    from dynamo_ray.survey import NodeStatus, Status

SKIPPED = frozenset({"site-packages", "dist-packages"})
KILL_AT = 1 / 3
BATCH_KEYS, BATCH_BYTES = 64, 512 * 1024
READ_KEYS = 64
LOOK_EVERY_S = 0.15
RECOVERY_MOST_S = 60.0
TIMEOUT_S = 5.0
REFUSALS_SHOWN = 5
CART = "cart:14075"


@dataclass(slots=True)
class Measures:
    """What the demo counted and timed."""

    objects: int = 0
    bytes: int = 0
    refused: int = 0
    requests: int = 0
    failed_requests: int = 0
    lost: int = 0
    longest_pause_s: float = 0.0
    killed: str = ""
    suspected_s: float = -1.0
    recovery_s: float = -1.0
    hints_home_s: float = -1.0
    most_hints: int = 0
    recovery: dict[str, Any] = field(default_factory=dict)
    siblings: int = 0
    merged_items: int = 0
    start_s: float = 0.0
    load_s: float = 0.0
    compare_s: float = 0.0
    total_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if nothing was lost, nothing failed, and everything came back."""
        came_back = self.recovery_s >= 0 and self.hints_home_s >= 0
        merged = self.siblings == 2 and self.merged_items == 3
        return (
            self.objects > 0 and not self.failed_requests and not self.lost and came_back and merged
        )


class Teller:
    """Says on stderr what happens, with the seconds since the beginning."""

    def __init__(self, begun: float) -> None:
        self._begun = begun

    def tell(self, sentence: str, took_s: float | None = None) -> None:
        """One line of the story."""
        took = f"  ({took_s:.1f} s)" if took_s is not None else ""
        render.say(f"[{time.monotonic() - self._begun:5.1f} s] {sentence}{took}")


class Story:
    """The acts, in their order."""

    def __init__(
        self, addresses: list[str], token: str, folder: Path, seed: int, teller: Teller
    ) -> None:
        self._addresses, self._token = addresses, token
        self._folder, self._teller = folder, teller
        self._chance = random.Random(seed)
        self._sums: dict[bytes, bytes] = {}
        self._killed_at = 0.0
        self._back = asyncio.Event()
        self.measures = Measures()

    async def play(self) -> Measures:
        """All acts; the watcher looks at the cluster from the kill until the hints are home."""
        client = await self._connect()
        watcher: asyncio.Task[None] | None = None
        try:
            watcher = await self._load(client)
            await self._recover(watcher)
            await self._compare(client)
            await self._shop(client)
        finally:
            if watcher is not None:
                watcher.cancel()
            await client.close(0.2)
        return self.measures

    # ---- loading

    async def _load(self, client: AsyncClient) -> asyncio.Task[None]:
        """Write every file; at a third of the bytes, kill a node and go on."""
        source = Folder(self._folder, Bounds(), SKIPPED)
        self._teller.tell(f"loading {self._folder}, {render.size(source.total)}")
        progress = render.Progress("loading", source.total)
        watcher: asyncio.Task[None] | None = None
        begun = time.monotonic()
        for batch in self._batches(source):
            await self._put(client, batch)
            found = self.measures
            progress.at(source.done, f"{found.objects:,} objects, {render.size(found.bytes)}")
            if watcher is None and source.done >= source.total * KILL_AT:
                progress.end()
                watcher = await self._kill_one()
        progress.end()
        self.measures.load_s = round(time.monotonic() - begun, 3)
        self._teller.tell(
            f"loaded {self.measures.objects:,} objects, {render.size(self.measures.bytes)}; "
            f"{self.measures.refused} refused, {self.measures.failed_requests} requests failed",
            self.measures.load_s,
        )
        return watcher or await self._kill_one()

    def _batches(self, source: Folder) -> Iterator[dict[bytes, bytes]]:
        batch: dict[bytes, bytes] = {}
        for item in source:
            if isinstance(item, Refusal):
                self._note_refusal(item)
                continue
            batch[item.key] = item.value
            if len(batch) >= BATCH_KEYS or sum(map(len, batch.values())) >= BATCH_BYTES:
                yield batch
                batch = {}
        if batch:
            yield batch

    def _note_refusal(self, refusal: Refusal) -> None:
        self.measures.refused += 1
        if self.measures.refused <= REFUSALS_SHOWN:
            self._teller.tell(f"refused {refusal.where}: {refusal.why}")

    async def _put(self, client: AsyncClient, batch: dict[Any, bytes]) -> None:
        from dynamo_ray.errors import BatchError

        begun = time.monotonic()
        written: Any = batch
        try:
            await client.put_many(batch)
        except BatchError as error:
            written = error.results
            self._note_failures(error)
        pause = time.monotonic() - begun
        self.measures.longest_pause_s = max(self.measures.longest_pause_s, round(pause, 4))
        self.measures.requests += len(batch)
        self.measures.objects += len(written)
        self.measures.bytes += sum(len(batch[key]) for key in written)
        self._sums.update((key, sha256(batch[key]).digest()) for key in written)

    def _note_failures(self, error: Any) -> None:
        self.measures.failed_requests += len(error.failures)
        kept = [f"{key!r}: {why}" for key, why in error.failures.items()]
        self.measures.failures += kept[: max(0, 10 - len(self.measures.failures))]

    # ---- the kill, and what is seen of it

    async def _kill_one(self) -> asyncio.Task[None]:
        """SIGKILL to a node's process, as in a crash; then somebody watches."""
        victim = self._chance.choice([node for node in (await self._look()).nodes if node.pid])
        os.kill(victim.pid, signal.SIGKILL)
        self._killed_at = time.monotonic()
        self.measures.killed = victim.name
        self._teller.tell(f"kill -9 {victim.pid}: {victim.name} is dead; the writer goes on")
        return asyncio.create_task(self._watch(victim))

    async def _watch(self, victim: NodeStatus) -> None:
        """Note when the others suspect it, when it serves again, and when its hints are home."""
        measures = self.measures
        while not self._back.is_set():
            known = await self._look()
            since = round(time.monotonic() - self._killed_at, 3)
            node = next(one for one in known.nodes if one.name == victim.name)
            hints = sum(one.hints.get(victim.name, 0) for one in known.nodes)
            if measures.suspected_s < 0 and node.pid != victim.pid and node.state != "up":
                measures.suspected_s = since
                self._teller.tell(f"{victim.name} is {node.state}: others stand in for it", since)
            if hints and not measures.most_hints:
                keepers = [one.name for one in known.nodes if victim.name in one.hints]
                self._teller.tell(
                    f"hints for {victim.name} are kept by {', '.join(keepers)}", since
                )
            measures.most_hints = max(measures.most_hints, hints)
            if node.state == "up" and node.pid != victim.pid:
                self._note_back(node, hints, since)
            await asyncio.sleep(LOOK_EVERY_S)

    def _note_back(self, node: NodeStatus, hints: int, since: float) -> None:
        if self.measures.recovery_s < 0:
            self.measures.recovery_s = since
            self.measures.recovery = dict(node.recovery)
            self._teller.tell(
                f"{node.name} is back as process {node.pid}; it read "
                f"{node.recovery.get('records', 0):,} records from its log",
                since,
            )
        if not hints:
            most = self.measures.most_hints
            self._teller.tell(f"every hint is home (at most {most:,} were kept)", since)
            self.measures.hints_home_s = since
            self._back.set()

    async def _look(self) -> Status:
        """The cluster as it is now; connected anew, for a restarted node has another address."""
        from dynamo_ray.connecting import credentials_of
        from dynamo_ray.survey import status

        client = await self._connect()
        try:
            return await status(client.session, credentials_of(self._token))
        finally:
            await client.close(0)

    async def _recover(self, watcher: asyncio.Task[None]) -> None:
        """Wait, bounded, until the node serves and has what others kept for it."""
        waiting = asyncio.create_task(self._back.wait())
        await asyncio.wait(
            {waiting, watcher}, timeout=RECOVERY_MOST_S, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        if self._back.is_set():
            return
        if watcher.done():
            watcher.result()
        self._teller.tell(f"{self.measures.killed} did not come back in {RECOVERY_MOST_S:.0f} s")

    # ---- comparing

    async def _compare(self, client: AsyncClient) -> None:
        """Read every object back and compare its SHA-256 with what was acknowledged."""
        keys = list(self._sums)
        self._teller.tell(f"reading all {len(keys):,} objects back")
        progress = render.Progress("reading", len(keys))
        begun = time.monotonic()
        for at in range(0, len(keys), READ_KEYS):
            await self._compare_some(client, keys[at : at + READ_KEYS])
            progress.at(at, f"{at:,} of {len(keys):,}")
        progress.end()
        self.measures.compare_s = round(time.monotonic() - begun, 3)
        same = len(keys) - self.measures.lost
        self._teller.tell(
            f"{same:,} of {len(keys):,} have the same SHA-256", self.measures.compare_s
        )

    async def _compare_some(self, client: AsyncClient, keys: list[bytes]) -> None:
        from dynamo_ray.errors import BatchError

        self.measures.requests += len(keys)
        try:
            found: Any = await client.get_many(keys)
        except BatchError as error:
            self._note_failures(error)
            found = error.results
        for key in keys:
            values = found[key].values if key in found else ()
            if [sha256(value).digest() for value in values] != [self._sums[key]]:
                self.measures.lost += 1

    # ---- the cart

    async def _shop(self, client: AsyncClient) -> None:
        """Two writers change what both have read; both carts survive, a resolver merges them."""
        from dynamo_ray.resolvers import union_of_sets

        other = await self._connect()
        try:
            await client.put(CART, _cart("book"))
            mine, theirs = await client.get(CART), await other.get(CART)
            await asyncio.gather(
                client.put(CART, _cart("book", "lamp"), mine.context),
                other.put(CART, _cart("book", "chair"), theirs.context),
            )
            found = await client.get(CART)
        finally:
            await other.close(0)
        self.measures.siblings = len(found.values)
        both = " and ".join(value.decode() for value in found.values)
        self._teller.tell(f"two writers changed one cart at once; both survive: {both}")
        await client.update(CART, lambda value: value, resolver=union_of_sets)
        merged = (await client.get(CART)).value or b"[]"
        self.measures.merged_items = len(json.loads(merged))
        self._teller.tell(f"a resolver merged them: {merged.decode()}")

    async def _connect(self) -> AsyncClient:
        from dynamo_ray.connecting import connect_async

        return await connect_async(address=self._addresses, token=self._token, timeout_s=TIMEOUT_S)


def _cart(*items: str) -> bytes:
    return json.dumps(list(items)).encode()
