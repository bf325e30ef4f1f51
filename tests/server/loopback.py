"""Whole clusters of servers in one process over loopback: real sockets, real logs, no Ray.

A node is killed by cutting its connections and closing its listener without a word, which is what
the others see of a SIGKILL; its log keeps what was written, as the page cache would. The power
never fails here, so nothing waits for this machine's disk: see `Powered`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

import uvloop

from dynamo_ray.client import AsyncClient
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.membership import View
from dynamo_ray.core.ring import Member, partition_of
from dynamo_ray.core.settings import Settings
from dynamo_ray.server import vault
from dynamo_ray.server.coordinator import CoordinatorServer, open_coordinator
from dynamo_ray.server.node import NodeServer, open_node
from dynamo_ray.session import Session
from dynamo_ray.storage.disk import RealDisk
from dynamo_ray.storage.errors import SyncFailedError
from dynamo_ray.wire.keys import Credentials, client_credentials, client_token

HOST = "127.0.0.1"


class Powered(RealDisk):
    """A directory on a machine whose power never fails: a sync has nothing left to do.

    Real files, and real threads that sync them when the server says so. Only the system's fsync is
    left out: nothing here could show that it happened, five nodes and a pool of threads share one
    disk, and its pace would decide whether their timeouts are met. That a sync reaches the disk is
    shown in tests/storage, what a loss of power takes under the simulator.
    """

    def sync(self, path: str) -> None:
        if path not in self._open and not self.exists(path):
            raise SyncFailedError(self._where(path), "there is no such file")

    def sync_dir(self, path: str) -> None:
        if path and not self.exists(path):
            raise SyncFailedError(self._where(path), "there is no such directory")


# For every server that this process opens.
vault.RealDisk = Powered  # type: ignore[misc]


class Loopback:
    """A cluster of servers in the running loop."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 5,
        coordinators: int = 2,
        settings: Settings | None = None,
        zones: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.secrets = [os.urandom(32)]
        members = tuple(
            Member(os.urandom(8), f"n{i + 1}", zones[i % len(zones)] if zones else "")
            for i in range(nodes)
        )
        self.charter = Charter(os.urandom(16), "loopback", settings or Settings(), members)
        self.nodes: dict[str, NodeServer] = {}
        self.coordinators: dict[str, CoordinatorServer] = {}
        self._pool = [f"c{i + 1}" for i in range(coordinators)]
        self._clients: list[AsyncClient] = []

    @property
    def token(self) -> str:
        return client_token(self.secrets[0])

    @property
    def credentials(self) -> Credentials:
        return client_credentials(self.token)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        facts = [server.fact for server in self.coordinators.values()]
        return [(fact.host, fact.port) for fact in facts if fact is not None]

    def view(self) -> View:
        servers = [*self.nodes.values(), *self.coordinators.values()]
        return View().with_facts(server.fact for server in servers if server.fact is not None)

    async def __aenter__(self) -> Loopback:
        await self.start_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close(0.1)
        await self.stop_all()

    async def settled(self, timeout_s: float = 5.0) -> None:
        """Until every running server is connected to every running node and suspects nobody."""
        await until(self._is_settled, timeout_s)

    def _is_settled(self) -> bool:
        alive = {server.me for server in self.nodes.values()}
        servers: list[Any] = [*self.coordinators.values(), *self.nodes.values()]
        return all(
            server.peers[node].connected and node not in server.detector.suspected
            for server in servers
            for node in alive
            if node != server.me
        )

    async def start_node(self, name: str, first_start: bool = True) -> NodeServer:
        member = self.charter.member(name)
        folder = str(self.folder / name)
        server = await open_node(
            self.charter, self.secrets, member, folder, HOST, self.view(), first_start
        )
        self.nodes[name] = server
        return server

    async def start_coordinator(self, name: str) -> CoordinatorServer:
        server = await open_coordinator(self.charter, self.secrets, name, HOST, self.view())
        self.coordinators[name] = server
        return server

    async def kill_node(self, name: str) -> None:
        """As SIGKILL: nothing is synced or said; what was written stays."""
        server = self.nodes.pop(name)
        await _cut(server)
        server.vault.abandon()

    async def kill_coordinator(self, name: str) -> None:
        await _cut(self.coordinators.pop(name))

    async def end_coordinator(self, name: str, timeout_s: float = 5.0) -> None:
        """As a pool that shrinks does it."""
        server = self.coordinators[name]
        await server.leave(timeout_s)
        await server.close()
        del self.coordinators[name]

    async def kill_all(self) -> None:
        """Every process at once, as when the power of a machine with a good disk fails."""
        for name in tuple(self.coordinators):
            await self.kill_coordinator(name)
        for name in tuple(self.nodes):
            await self.kill_node(name)

    async def stop_all(self) -> None:
        """Every server closes in order."""
        servers: list[Any] = [*self.coordinators.values(), *self.nodes.values()]
        await asyncio.gather(*(server.close() for server in servers))
        self.coordinators.clear()
        self.nodes.clear()

    async def start_all(self) -> None:
        """Start whoever does not run."""
        for member in self.charter.members:
            if member.name not in self.nodes:
                await self.start_node(member.name)
        for server in self.nodes.values():
            server.learn(self.view())
        for name in self._pool:
            if name not in self.coordinators:
                await self.start_coordinator(name)
        await self.settled()

    def hang(self, name: str) -> None:
        """As SIGSTOP: its sockets stay open, and nothing that arrives there is heeded."""
        for transport in self._transports(name):
            transport.pause_reading()
        listener = (self.nodes.get(name) or self.coordinators[name]).listener
        if listener is not None:
            vars(listener)["bear"] = _ignore_stranger
        if name in self.coordinators:  # nor does it notice, or tell, that it hears nobody
            vars(self.coordinators[name])["_perform"] = _do_nothing
            vars(self.coordinators[name].detector)["on_tick"] = _judge_nobody

    def wake(self, name: str) -> None:
        """As SIGCONT: what has arrived meanwhile is heeded now."""
        for transport in self._transports(name):
            if not transport.is_closing():
                transport.resume_reading()
        listener = (self.nodes.get(name) or self.coordinators[name]).listener
        if listener is not None:
            vars(listener).pop("bear", None)
        if name in self.coordinators:
            vars(self.coordinators[name]).pop("_perform", None)
            vars(self.coordinators[name].detector).pop("on_tick", None)

    def _transports(self, name: str) -> list[Any]:
        server = self.nodes.get(name) or self.coordinators[name]
        listening = list(server.listener.connections) if server.listener else []
        dialled = [peer.connection for peer in server.peers.values() if peer.connection]
        return [connection._transport for connection in [*listening, *dialled]]

    async def connect(self, nodes_too: bool = False, **options: Any) -> AsyncClient:
        """A client; `nodes_too`: as by name, it knows every member's address."""
        seeds = self.addresses
        if nodes_too:
            seeds += [(fact.host, fact.port) for fact in self.view().nodes().values()]
        session = Session(seeds, client_credentials(self.token))
        await session.open(5.0)
        client = AsyncClient(session).with_options(**options)
        self._clients.append(client)
        return client

    def states_of(self, key: bytes) -> dict[str, bytes | None]:
        """What each running node holds of a key."""
        partition = partition_of(key, self.charter.settings.partitions)
        return {
            name: server.node.replica.maps[partition].get(key)
            for name, server in self.nodes.items()
        }

    async def compared(self, timeout_s: float = 20.0) -> None:
        """Until no node has anything left to compare: from then on none does so by itself."""
        await until(self._is_compared, timeout_s)

    def _is_compared(self) -> bool:
        """What follows counts, too: who saw another come late compares what that one leads."""
        rounds = [server.node.rounds for server in self.nodes.values()]
        others = [other for one in rounds for other in one._others.values()]
        return not any(one._taken for one in rounds) and all(
            not other.again
            and all(began > other.away_ms for _, began in [*other.leads, *other.follows])
            for other in others
        )

    def differing(self, keys: Iterable[bytes]) -> list[bytes]:
        """The keys whose owners do not all hold the same bytes."""
        differing = []
        for key in keys:
            states = self.states_of(key)
            if len({states.get(owner) for owner in self.owners_of(key)}) > 1:
                differing.append(key)
        return differing

    def hints(self) -> int:
        """How many copies are kept for others, in the whole cluster."""
        kept = [server.node.replica.hints for server in self.nodes.values()]
        return sum(hints.count_for(owner) for hints in kept for owner in hints.owners())

    def owners_of(self, key: bytes) -> list[str]:
        ring = self.charter.ring()
        names = {member.node: member.name for member in self.charter.members}
        partition = partition_of(key, self.charter.settings.partitions)
        return [names[node] for node in ring.owners(partition)]


def _do_nothing(effects: Any) -> None:
    """What a killed server makes of anything."""


def _judge_nobody(now: float) -> frozenset[bytes]:
    """What a stopped process makes of the silence."""
    return frozenset()


def _ignore_stranger(stranger: Any) -> None:
    """Taken in by the kernel, and not met. Its transport begins to read when this has returned."""
    asyncio.get_running_loop().call_soon(stranger.transport.pause_reading)


async def _cut(server: Any) -> None:
    server._closing = True
    server._perform = _do_nothing  # a dead process does not notice that its connections close
    for task in tuple(server._tasks):
        task.cancel()
    for peer in server.peers.values():
        peer.close()
    for connection in tuple(server.listener.connections):
        connection.abort()
    await server.listener.close()


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Wait, bounded, until the condition holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {condition}")
        await asyncio.sleep(0.01)


def run(work: Coroutine[Any, Any, Any], timeout_s: float = 50.0) -> Any:
    """Run a test's coroutine on uvloop, bounded."""

    async def bounded() -> Any:
        return await asyncio.wait_for(work, timeout_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


class Threaded:
    """A loopback cluster in a thread of its own, for tests of synchronous code."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.cluster = Loopback(folder, **options)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def __enter__(self) -> Threaded:
        self.run(self.cluster.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.cluster.__aexit__())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()

    @property
    def address(self) -> list[str]:
        return [f"{host}:{port}" for host, port in self.cluster.addresses]
