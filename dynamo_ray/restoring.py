"""Restoring a backup into a running cluster: whole states are merged in, nothing is overwritten.

    file ─► checked ─► batches of one set of owners ─► Merge(durable) at all of them ─► W took it

The cluster may have another size or other partitions than the one that the backup is of: each key
goes to its owners under the cluster's own ring, and if that changes meanwhile, to whoever they are
then. Merging is what replicas do among themselves, so whatever is newer there stays, whatever was
deleted stays deleted for as long as the tombstone is there, and doing it twice changes nothing.
Clocks keep the dots of the backup's writers; nobody
mints under a writer id that comes back by a merge (core/lives.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from dynamo_ray.backup import OnProgress, verify
from dynamo_ray.core.agreeing import OWNERS
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.encoding import BadMessageError, from_fields, to_fields
from dynamo_ray.core.following import Following
from dynamo_ray.core.kinds import VIEW, VIEWED
from dynamo_ray.core.membership import View, view_from
from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import Code, Fetch, Fetched, Merge, Merged, Refused
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.slots import placed
from dynamo_ray.errors import BackupRefusedError, UnavailableError
from dynamo_ray.storage import archive
from dynamo_ray.storage.archive import Backup
from dynamo_ray.storage.disk import Folder
from dynamo_ray.storage.errors import StorageError
from dynamo_ray.wire.connections import Connection
from dynamo_ray.wire.errors import CallError, WireError
from dynamo_ray.wire.greeting import connect
from dynamo_ray.wire.keys import peer_credentials

BATCH_KEYS = 500
BATCH_BYTES = 1024 * 1024
BATCHES_AT_ONCE = 4
ASK_S = 10.0
RETRY_FOR_S = 15.0
RETRY_FIRST_S, RETRY_MOST_S = 0.05, 1.0
PASSING = frozenset({Code.OVERLOADED, Code.NOT_READY, Code.EXPIRED})


class Inside(NamedTuple):
    """A running cluster, and its secrets: whoever holds them may merge states in."""

    charter: Charter
    view: View
    secrets: list[bytes]


@dataclass(slots=True)
class Comparison:
    """How many keys of a backup the cluster does not hold, or holds older, beside, or already."""

    new: int = 0
    newer_in_backup: int = 0
    concurrent: int = 0
    covered: int = 0

    def count(self, held: bytes | None, state: bytes) -> None:
        """Count one key."""
        together = state if held is None else merge(held, state)
        if held is None:
            self.new += 1
        elif together == held:
            self.covered += 1
        elif together == state:
            self.newer_in_backup += 1
        else:
            self.concurrent += 1


@dataclass(slots=True)
class Restored:
    """What was done: keys merged in (or compared), and the owners that did not take part in all."""

    keys: int
    behind: list[str]
    comparison: Comparison | None = None


def inside(name: str, ray_address: str | None = None) -> Inside:
    """The running cluster `name`, found through Ray. Raises ClusterNotFoundError."""
    from dynamo_ray.actors import fleet

    fleet.attach_ray(ray_address)
    place = fleet.locate(name)
    return Inside(place.charter, place.view, place.secrets)


async def restore(
    cluster: Inside,
    folder: Folder,
    backup: Backup,
    on_progress: OnProgress,
    dry_run: bool = False,
) -> Restored:
    """Merge a backup into a cluster, or with `dry_run` compare the two.

    Raises BackupRefusedError before the first write if any file is damaged, UnavailableError where
    fewer than W owners of a key took its state: then do it again, which does no harm.
    """
    damaged = await asyncio.to_thread(verify, folder, backup, _silently)
    if damaged:
        names = ", ".join(sorted(damaged))
        raise BackupRefusedError(
            f"{folder.name}/{backup.name} is damaged ({names}); nothing was restored", damaged
        )
    owners = _Owners(cluster)
    restoring = _Restoring(owners, folder, backup, on_progress, dry_run)
    try:
        return await restoring.run()
    finally:
        owners.close()


class _PartedError(Exception):
    """Some of whom a batch was meant for know other owners of it."""

    def __init__(self, nodes: list[bytes]) -> None:
        self.nodes = nodes


class _Batch(NamedTuple):
    """Keys that have the same owners, who are asked under their epoch."""

    owners: tuple[bytes, ...]
    epoch: bytes
    keys: list[bytes]
    partitions: list[int]
    states: list[bytes]


class _Restoring:
    def __init__(
        self,
        owners: _Owners,
        folder: Folder,
        backup: Backup,
        on_progress: OnProgress,
        dry_run: bool,
    ) -> None:
        self._owners, self._folder, self._backup = owners, folder, backup
        self._on_progress, self._dry_run = on_progress, dry_run
        self._comparison = Comparison()
        self._done = self._keys = self._bytes = 0

    async def run(self) -> Restored:
        under_way: set[asyncio.Task[None]] = set()
        try:
            for partition in sorted(self._backup.files):
                batches = await asyncio.to_thread(self._batches_of, partition)
                for batch in batches:
                    under_way.add(asyncio.create_task(self._handle(batch)))
                    under_way = await _at_most(BATCHES_AT_ONCE - 1, under_way)
                self._done += 1
                self._tell()
            await _at_most(0, under_way)
        finally:
            for task in under_way:
                task.cancel()
        found = self._comparison if self._dry_run else None
        return Restored(self._keys, self._owners.behind(), found)

    def _batches_of(self, partition: int) -> list[_Batch]:
        """A file's keys by their owners in the cluster; called in a thread."""
        try:
            columns = archive.read_file(self._folder, self._backup, partition)
        except StorageError as error:  # it was sound a moment ago
            raise BackupRefusedError(f"{error}; restoring stopped there") from error
        return list(_batches(self._owners.place_of, columns.keys, columns.states))

    async def _handle(self, batch: _Batch) -> None:
        """Merge a batch, or compare it; if its owners have parted, in parts to those of today."""
        following, left = Following(), [batch]
        while left:
            part = left.pop()
            try:
                await self._merge_or_compare(part)
            except _PartedError as parted:
                await self._owners.follow(following, part.epoch, parted.nodes)
                left += _batches(self._owners.place_of, part.keys, part.states)
        self._keys += len(batch.keys)
        self._bytes += sum(map(len, batch.states))
        self._tell()

    async def _merge_or_compare(self, batch: _Batch) -> None:
        if self._dry_run:
            held = await self._owners.fetch(batch)
            for key, state in zip(batch.keys, batch.states, strict=True):
                self._comparison.count(held[key], state)
        else:
            await self._owners.merge(batch)

    def _tell(self) -> None:
        self._on_progress(self._done, len(self._backup.files), self._keys, self._bytes)


class _Owners:
    """The cluster's nodes, asked as a peer asks them."""

    def __init__(self, cluster: Inside) -> None:
        self._charter = cluster.charter
        self._placement = placed(cluster.charter, cluster.view)
        self._credentials = peer_credentials(cluster.secrets[0], cluster.charter.cluster_id)
        self._connections: dict[bytes, Connection] = {}
        self._behind: set[bytes] = set()

    def place_of(self, key: bytes) -> tuple[int, tuple[bytes, ...], bytes]:
        """A key's partition, its owners as they are known by now, and their epoch."""
        ring = self._placement.ring
        partition = partition_of(key, ring.partitions)
        return partition, ring.owners(partition), ring.epoch_of(partition)

    def behind(self) -> list[str]:
        """The names of the owners that did not take part in everything, sorted."""
        members = self._placement.ring.members
        return sorted(member.name for member in members if member.node in self._behind)

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections.values():
            connection.close()

    async def merge(self, batch: _Batch) -> None:
        """Have all owners merge the batch and fsync it. UnavailableError if fewer than W did."""
        message = Merge(batch.keys, batch.partitions, batch.states, b"", True)
        answers = await self._ask_all(batch.owners, OWNERS, message)
        took = sum(isinstance(answer, Merged) for answer in answers)
        w = self._charter.settings.w
        if took < w:
            raise UnavailableError(
                w,
                took,
                f"{took} owners of some keys took what the backup has of them, and {w} must"
                f" ({', '.join(self.behind())} did not); what was restored so far stays, and"
                " of that batch",
            )

    async def fetch(self, batch: _Batch) -> dict[bytes, bytes | None]:
        """What the owners hold of a batch, merged. UnavailableError if fewer than R answer."""
        message = Fetch(batch.keys, batch.partitions)
        answers = await self._ask_all(batch.owners, batch.epoch, message)
        told = [answer for answer in answers if isinstance(answer, Fetched)]
        if len(batch.keys) > 1 and any(_is_too_long(answer) for answer in answers):
            return {**await self.fetch(_part(batch, 0)), **await self.fetch(_part(batch, 1))}
        r = self._charter.settings.r
        if len(told) < r:
            raise UnavailableError(r, len(told))
        held: dict[bytes, bytes | None] = dict.fromkeys(batch.keys)
        for answer in told:
            for key, state in zip(batch.keys, answer.states, strict=True):
                other = held[key]
                held[key] = merge(other, state) if other and state else other or state
        return held

    async def follow(self, following: Following, epoch: bytes, nodes: list[bytes]) -> None:
        """These nodes know others than the owners of this epoch: learn, or ask them no more."""
        pause_s = following.pause_s(epoch)
        if pause_s is None:
            self._behind.update(nodes)
            return
        await asyncio.sleep(pause_s)
        for node in nodes:
            with suppress(CallError, WireError, TypeError, ValueError, IndexError):
                connection = self._connections.get(node) or await self._connect(node)
                kind, fields = await connection.request(VIEW, (), ASK_S)
                if kind == VIEWED:
                    self._placement = self._placement.learn(view_from(fields[0]))

    async def _ask_all(self, owners: Sequence[bytes], epoch: bytes, message: Any) -> list[Any]:
        asked = (self._ask(node, epoch, message) for node in owners)
        answers = list(await asyncio.gather(*asked))
        told = zip(owners, answers, strict=True)
        if parted := [node for node, answer in told if _is_other_ring(answer)]:
            raise _PartedError(parted)
        return answers

    async def _ask(self, node: bytes, epoch: bytes, message: Any) -> Any:
        """A node's answer; None if it gives none for a while, and then it is not asked again."""
        loop = asyncio.get_running_loop()
        deadline, wait_s = loop.time() + RETRY_FOR_S, RETRY_FIRST_S
        while node not in self._behind:
            answer = await self._asked_once(node, epoch, message)
            refused_for_now = isinstance(answer, Refused) and answer.code in PASSING
            if answer is not None and not refused_for_now:
                is_refused = isinstance(answer, Refused) and not _is_too_long(answer)
                if is_refused and not _is_other_ring(answer):
                    self._behind.add(node)
                return answer
            if loop.time() + wait_s > deadline:
                self._behind.add(node)
                break
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MOST_S)
        return None

    async def _asked_once(self, node: bytes, epoch: bytes, message: Any) -> Any:
        try:
            connection = self._connections.get(node) or await self._connect(node)
            expires_ms = connection.remote_expiry(int(ASK_S * 1000))
            fields = (expires_ms, epoch, *to_fields(message))
            return from_fields(*await connection.request(message.KIND, fields, ASK_S))
        except (CallError, WireError, BadMessageError):
            lost = self._connections.pop(node, None)
            if lost is not None:
                lost.close()
            return None

    async def _connect(self, node: bytes) -> Connection:
        fact = self._placement.view.nodes().get(node)
        if fact is None:
            raise WireError("nobody knows where it is")
        connection = await connect(fact.host, fact.port, self._credentials)
        other = self._connections.setdefault(node, connection)
        if other is not connection:
            connection.close()
        return other


def _batches(
    place_of: Callable[[bytes], tuple[int, tuple[bytes, ...], bytes]],
    keys: Sequence[bytes],
    states: Sequence[bytes | None],
) -> Iterator[_Batch]:
    """The keys by their owners, in parts of a bounded number of keys and bytes."""
    open_ones: dict[tuple[bytes, ...], _Batch] = {}
    sizes: dict[tuple[bytes, ...], int] = {}
    for key, state in zip(keys, states, strict=True):
        partition, owners, epoch = place_of(key)
        batch = open_ones.setdefault(owners, _Batch(owners, epoch, [], [], []))
        batch.keys.append(key)
        batch.partitions.append(partition)
        batch.states.append(state or b"")
        sizes[owners] = sizes.get(owners, 0) + len(key) + len(state or b"")
        if len(batch.keys) >= BATCH_KEYS or sizes[owners] >= BATCH_BYTES:
            yield open_ones.pop(owners)
            sizes[owners] = 0
    yield from open_ones.values()


def _part(batch: _Batch, which: int) -> _Batch:
    middle = len(batch.keys) // 2
    part = slice(None, middle) if which == 0 else slice(middle, None)
    columns = batch.keys[part], batch.partitions[part], batch.states[part]
    return _Batch(batch.owners, batch.epoch, *columns)


def _is_too_long(answer: Any) -> bool:
    return isinstance(answer, Refused) and answer.code == Code.TOO_LONG


def _is_other_ring(answer: Any) -> bool:
    return isinstance(answer, Refused) and answer.code == Code.OTHER_EPOCH


async def _at_most(most: int, tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until at most so many are under way. Raises what one of them raised."""
    while len(tasks) > most:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    return tasks


def _silently(*_: int) -> None:
    """Progress that nobody follows."""
