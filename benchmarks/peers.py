"""What people write or run when they have no such store: dict actors on Ray, and Redis beside it.

None of them is the store's equal: one dict actor dies with its contents, three dict actors behind
a coordinator have no versions and no disk, and Redis reads one copy and has a master. They show
what is paid for the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from benchmarks.workloads import VERBS, Missing

ACTOR = {"num_cpus": 0}


class RayContestant:
    """What Ray contestants share: how an answer is awaited, and how their actors end."""

    name = ""
    in_flight = 1
    verbs: Sequence[str] = VERBS
    door: Any
    actors: Sequence[Any] = ()

    async def answer(self, ref: Any) -> Any:
        """Alone, the blocking ray.get is a quarter of a millisecond faster than `await ref`."""
        return ray.get(ref) if self.in_flight == 1 else await ref

    async def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


class DictActor:
    def __init__(self) -> None:
        self._map: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self._map[key] = value

    def get(self, key: bytes) -> bytes | None:
        return self._map.get(key)

    def put_many(self, mapping: dict[bytes, bytes]) -> None:
        self._map.update(mapping)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._map.get(key) for key in keys]


class DictCoordinator:
    """As it is usually written: an async actor that gathers from three dict actors."""

    def __init__(self, replicas: list[Any]) -> None:
        self._replicas = replicas

    async def put(self, key: bytes, value: bytes) -> None:
        await _all([replica.put.remote(key, value) for replica in self._replicas])

    async def get(self, key: bytes) -> Any:
        return (await _all([replica.get.remote(key) for replica in self._replicas]))[0]

    async def put_many(self, mapping: dict[bytes, bytes]) -> None:
        await _all([replica.put_many.remote(mapping) for replica in self._replicas])

    async def get_many(self, keys: list[bytes]) -> Any:
        return (await _all([replica.get_many.remote(keys) for replica in self._replicas]))[0]


async def _all(refs: list[Any]) -> list[Any]:
    return await asyncio.gather(*refs)


class OneDictActor(RayContestant):
    """`ray.get(actor.put.remote(key, value))`: one copy, in memory."""

    name = "one dict actor"

    async def start(self) -> None:
        self.door = ray.remote(DictActor).options(**ACTOR).remote()
        self.actors = [self.door]

    async def put(self, key: bytes, value: bytes) -> None:
        await self.answer(self.door.put.remote(key, value))

    async def get(self, key: bytes) -> bytes | None:
        found: bytes | None = await self.answer(self.door.get.remote(key))
        return found

    async def put_many(self, mapping: Mapping[bytes, bytes]) -> None:
        await self.answer(self.door.put_many.remote(mapping))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = await self.answer(self.door.get_many.remote(keys))
        return found


class ThreeDictActors(OneDictActor):
    """Three copies behind a coordinator actor that waits for all three, as people write it."""

    name = "three dict actors"

    async def start(self) -> None:
        replicas = [ray.remote(DictActor).options(**ACTOR).remote() for _ in range(3)]
        self.door = ray.remote(DictCoordinator).options(**ACTOR).remote(replicas)
        self.actors = [self.door, *replicas]


class Redis:
    """A master with two replicas, append-only files flushed each second, through redis-py.

    A put is SET and WAIT 1 in one round trip: two copies in memory, like W=2. A get reads the
    master alone. Many keys: MSET and WAIT 1, MGET. One call at a time goes through the blocking
    client, more through the asyncio client with as many connections, each the faster one there.
    """

    name = "Redis"
    in_flight = 1
    verbs: Sequence[str] = VERBS
    _wait = ("WAIT", 1, 1000)

    async def start(self) -> None:
        try:
            import redis
            import redis.asyncio
        except ImportError:
            raise Missing("pip install redis") from None
        if shutil.which("redis-server") is None:
            raise Missing("apt-get install redis-server")
        self._servers = RedisServers()
        try:
            self._servers.start()
            port = self._servers.ports[0]
            self._blocking: Any = redis.Redis(port=port)
            _until(lambda: _online(self._blocking) == 2, "Redis replicas to be online")
        except BaseException:
            self._servers.stop()
            raise
        pool = redis.asyncio.BlockingConnectionPool(port=port, max_connections=64)
        self._waiting: Any = redis.asyncio.Redis(connection_pool=pool)

    async def put(self, key: bytes, value: bytes) -> None:
        client = self._blocking if self.in_flight == 1 else self._waiting
        pipe = client.pipeline(transaction=False)
        pipe.set(key, value)
        pipe.execute_command(*self._wait)
        acknowledged = pipe.execute() if self.in_flight == 1 else await pipe.execute()
        assert acknowledged[-1] >= 1, "no replica acknowledged"

    async def get(self, key: bytes) -> Any:
        return self._blocking.get(key) if self.in_flight == 1 else await self._waiting.get(key)

    async def put_many(self, mapping: Mapping[bytes, bytes]) -> None:
        pipe = self._blocking.pipeline(transaction=False)
        pipe.mset(mapping)
        pipe.execute_command(*self._wait)
        assert pipe.execute()[-1] >= 1, "no replica acknowledged"

    async def get_many(self, keys: Sequence[bytes]) -> Any:
        return self._blocking.mget(keys)

    async def close(self) -> None:
        await self._waiting.aclose()
        self._blocking.close()
        self._servers.stop()


class RedisPipelined(Redis):
    """1,000 SETs in a pipeline, then WAIT 1: for keys that have options of their own."""

    name = "Redis, pipelined SET"
    verbs: Sequence[str] = ("put_many",)

    async def put_many(self, mapping: Mapping[bytes, bytes]) -> None:
        pipe = self._blocking.pipeline(transaction=False)
        for key, value in mapping.items():
            pipe.set(key, value)
        pipe.execute_command(*self._wait)
        assert pipe.execute()[-1] >= 1, "no replica acknowledged"


class RedisServers:
    """Three redis-server processes in a folder of their own, ended by their ids."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(dir="/tmp"))
        self._running: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []

    def start(self) -> None:
        for number in range(3):
            self.ports.append(_free_port())
            folder = self._folder / str(number)
            folder.mkdir()
            command = ["redis-server", "--port", str(self.ports[-1]), "--bind", "127.0.0.1"]
            command += ["--dir", str(folder), "--save", "", "--repl-diskless-sync-delay", "0"]
            command += ["--appendonly", "yes", "--appendfsync", "everysec"]
            if number:
                command += ["--replicaof", "127.0.0.1", str(self.ports[0])]
            self._running.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=_end_with_parent)
            )
            _until(lambda: _listening(self.ports[-1]), "redis-server to listen")

    def stop(self) -> None:
        for server in self._running:
            server.terminate()
        for server in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=5)
                continue
            server.kill()
            server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _end_with_parent() -> None:
    """Linux: a killed benchmark must not leave servers behind."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _online(client: Any) -> int:
    facts = client.info("replication")
    return sum(isinstance(v, dict) and v.get("state") == "online" for v in facts.values())


def _until(true: Any, what: str, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)
