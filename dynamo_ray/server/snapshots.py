"""A snapshot while serving: slices copied on the loop between other work, written by a thread.

    thread  ─ which keys? ─►  loop      the keys of one partition, listed at once
            ◄─ the list ───
            ─ so many ─────►  loop      their states and hints as they are now
            ◄─ a slice ────             packs, hashes and writes it; rests (core/pace.py)

Between two slices the map changes, and that is right: a key that changed, came, was forgotten or
got another hint since the snapshot began has a record in the log after the snapshot's position, and
replay ends with that. So a slice may be newer, a key that is gone by now is left out, and one that
came later is not looked for. What must not be missed is a key that did *not* change: hence the list
of keys first. A dict's iterator would not do: an insertion that follows a deletion may move what it
has not reached yet, unnoticed. Before the snapshot counts, all that was copied is in the log; an
append that fails meanwhile makes it void.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo_ray.core.pace import rest_s
from dynamo_ray.core.replica import Replica
from dynamo_ray.storage.codec import Columns
from dynamo_ray.storage.errors import SnapshotFailedError, StorageError
from dynamo_ray.storage.snapshot import NewSnapshot

if TYPE_CHECKING:
    from dynamo_ray.server.node import NodeServer

# A slice is copied in a fraction of a millisecond, and packed in not much more, which the loop
# feels because the interpreter runs one thread at a time.
SLICE_KEYS = 512
SLICE_BYTES = 256 * 1024
LOOP_S = 30.0
Told = TypeVar("Told")
_log = logging.getLogger("dynamo_ray.server")


class Snapshotting:
    """One snapshot of one node. `hold_s`: the longest time that it held the loop."""

    def __init__(self, server: NodeServer) -> None:
        self.hold_s = 0.0
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._rested_at = self._ran_s = 0.0

    async def take(self) -> dict[str, Any]:
        """Take it, and let the log go that is covered; what was written, or the `problem`."""
        vault, began = self._server.vault, time.monotonic()
        try:
            taking = await self._server.with_the_log(vault.begin_snapshot)
            await self._in_thread(taking, self._write)
            await self._server.log_is_free()
            await self._in_thread(taking, NewSnapshot.finish)
            vault.on_snapshot(taking)
            await self._server.with_the_log(vault.cut_log)
        except StorageError as error:
            _log.warning("a snapshot was given up: %s", error)
            return {"problem": str(error)}
        return {
            "generation": taking.number,
            "files": len(taking.seals),
            "records": sum(seal.records for seal in taking.seals),
            "bytes": sum(seal.size for seal in taking.seals),
            "seconds": round(time.monotonic() - began, 3),
            "hold_ms": round(self.hold_s * 1000, 2),
            "at_ms": time.time_ns() // 1_000_000,
        }

    async def _in_thread(self, taking: NewSnapshot, act: Callable[[NewSnapshot], None]) -> None:
        """Let a thread do it; when the node closes, wait until it has let go of the directory."""

        def done_or_undone() -> None:
            try:
                act(taking)
            except BaseException:
                taking.abandon()
                raise

        working = asyncio.ensure_future(asyncio.to_thread(done_or_undone))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            self._stopped.set()
            await asyncio.wait([working])
            raise

    # ---- in the thread

    def _write(self, taking: NewSnapshot) -> None:
        self._rested_at, self._ran_s = time.monotonic(), time.thread_time()
        for partition in range(self._server.ring.partitions):
            taking.write_columns(partition, self._slices(partition))

    def _slices(self, partition: int) -> Iterator[Columns]:
        replica = self._server.node.replica
        keys = self._ask(lambda: list(replica.maps[partition]))
        at, size = 0, 0
        while at < len(keys):
            self._rest(size)
            some = keys[at : at + SLICE_KEYS]
            columns, looked_at = self._ask(partial(slice_of, replica, partition, some))
            at += looked_at
            size = sum(map(len, filter(None, columns.states)))
            if columns.keys:
                yield columns
        self._rest(size)

    def _rest(self, size: int) -> None:
        took_s, on_core_s = time.monotonic() - self._rested_at, time.thread_time() - self._ran_s
        self._stopped.wait(rest_s(took_s, on_core_s, size))
        self._rested_at, self._ran_s = time.monotonic(), time.thread_time()

    def _ask(self, look: Callable[[], Told]) -> Told:
        """Look at the maps on the loop that owns them; SnapshotFailedError if it is too late."""
        seen: Future[Told] = Future()
        self._loop.call_soon_threadsafe(self._look, look, seen)
        try:
            return seen.result(LOOP_S)
        except TimeoutError as error:
            raise SnapshotFailedError("the node did nothing for half a minute") from error

    # ---- on the loop

    def _look(self, look: Callable[[], Told], seen: Future[Told]) -> None:
        if self._stopped.is_set():
            seen.set_exception(SnapshotFailedError("the node is closing"))
            return
        began = time.perf_counter()
        try:
            seen.set_result(look())
        except Exception as error:
            seen.set_exception(error)
        self.hold_s = max(self.hold_s, self._server.held_since(began))


def slice_of(replica: Replica, partition: int, keys: list[bytes]) -> tuple[Columns, int]:
    """What is held of the first of these keys, bounded in bytes; and how many keys that took."""
    of, looked_at = replica.maps[partition], len(keys)
    states = list(map(of.get, keys))
    while looked_at > 1 and sum(map(len, filter(None, states))) > SLICE_BYTES:
        looked_at //= 2
        states = states[:looked_at]
    held = keys[:looked_at]
    if None in states:
        held = [key for key, state in zip(held, states, strict=True) if state is not None]
        states = [state for state in states if state is not None]
    hints = list(map(replica.hints.of, held)) if len(replica.hints) else []
    return Columns([partition] * len(held), held, states, hints), looked_at
