"""Bare actors: the hops and bytes of a quorum request, and a dict update at the end of them.

No versions, no log, no deadlines, no failures. A put goes client → coordinator → first replica →
back → the two others, and is answered at the second acknowledgement; a get asks three replicas and
is answered at the second reply. Whatever comes third is read and dropped. `WireFloor` does it over
streams between Ray actors (length-prefixed msgpack on asyncio streams and uvloop, calls
multiplexed by number), `RayFloor` over Ray actor calls (a threaded coordinator and single-threaded
replicas). Both are contestants as workloads.py describes them.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import msgpack
import ray

from benchmarks.peers import RayContestant
from benchmarks.workloads import VERBS

PUT, GET, PUT_MANY, GET_MANY = range(4)
HOST = "127.0.0.1"
LENGTH = struct.Struct(">I")
# Above a frame of 1,000 keys, so that no read of one is paused by flow control.
STREAM_LIMIT = 2**20
# Task events are reports to Ray's dashboard: off, as the store's actors have them.
ACTOR = {"num_cpus": 0, "enable_task_events": False}


def frame(*fields: object) -> bytes:
    payload: bytes = msgpack.packb(fields)
    return LENGTH.pack(len(payload)) + payload


async def read_frames(reader: asyncio.StreamReader, on_frame: Callable[[list[Any]], None]) -> None:
    """Whole chunks, then as many frames as they hold: one wake-up for all that has arrived."""
    held = b""
    while chunk := await reader.read(STREAM_LIMIT):
        held = held + chunk if held else chunk
        at = 0
        while len(held) - at >= LENGTH.size:
            begin = at + LENGTH.size
            end = begin + LENGTH.unpack_from(held, at)[0]
            if end > len(held):
                break
            on_frame(msgpack.unpackb(held[begin:end]))
            at = end
        held = held[at:]


class Listener:
    """A Ray actor's door: a stream server on the actor's own loop (uvloop, if Ray finds it)."""

    async def listen(self) -> int:
        if type(asyncio.get_running_loop()).__module__.split(".")[0] != "uvloop":
            raise RuntimeError("this actor's loop is not uvloop")
        self._server = await asyncio.start_server(self._accept, HOST, 0, limit=STREAM_LIMIT)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frames(reader, lambda fields: self.on_request(writer, *fields))

    def on_request(self, writer: asyncio.StreamWriter, call: int, kind: int, *fields: Any) -> None:
        raise NotImplementedError


class WireReplica(Listener):
    """A dict behind a stream."""

    def __init__(self) -> None:
        self._map: dict[bytes, bytes] = {}

    def on_request(self, writer: asyncio.StreamWriter, call: int, kind: int, *fields: Any) -> None:
        if kind == PUT:
            self._map[fields[0]] = fields[1]
            writer.write(frame(call))
        elif kind == GET:
            writer.write(frame(call, self._map.get(fields[0])))
        elif kind == PUT_MANY:
            self._map.update(zip(*fields, strict=True))
            writer.write(frame(call))
        else:
            writer.write(frame(call, [self._map.get(key) for key in fields[0]]))


class Flying:
    """A request in the coordinator: to whom the answer goes, and how many replicas replied."""

    __slots__ = ("call", "client", "replies", "request")

    def __init__(self, client: asyncio.StreamWriter, call: int, request: bytes | None) -> None:
        self.client = client
        self.call = call
        self.request = request  # what the other two replicas get after the first; None for a get
        self.replies = 0


class WireCoordinator(Listener):
    """Counts replies. Callbacks and no task for each request: a floor has nothing to await."""

    async def attach(self, ports: list[int]) -> None:
        self._calls = count(1)
        self._flying: dict[int, Flying] = {}
        self._peers: list[asyncio.StreamWriter] = []
        self._reading = []
        for port in ports:
            reader, writer = await asyncio.open_connection(HOST, port, limit=STREAM_LIMIT)
            self._peers.append(writer)
            reading = read_frames(reader, lambda fields: self._on_reply(*fields))
            self._reading.append(asyncio.create_task(reading))

    def on_request(self, writer: asyncio.StreamWriter, call: int, kind: int, *fields: Any) -> None:
        number = next(self._calls)
        request = frame(number, kind, *fields)
        if kind in (PUT, PUT_MANY):
            self._flying[number] = Flying(writer, call, request)
            self._peers[0].write(request)
        else:
            self._flying[number] = Flying(writer, call, None)
            for peer in self._peers:
                peer.write(request)

    def _on_reply(self, number: int, *found: Any) -> None:
        flying = self._flying[number]
        flying.replies += 1
        if flying.replies == 1 and flying.request is not None:
            for peer in self._peers[1:]:
                peer.write(flying.request)
            flying.request = None
        elif flying.replies == 2:
            flying.client.write(frame(flying.call, *found))
        elif flying.replies == 3:
            del self._flying[number]


class WireFloor:
    in_flight = 1
    verbs: Sequence[str] = VERBS

    def __init__(self, name: str = "wire floor") -> None:
        self.name = name
        self._calls = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._actors: list[Any] = []

    async def start(self) -> None:
        replicas: list[Any]
        coordinator: Any
        replicas = [ray.remote(WireReplica).options(**ACTOR).remote() for _ in range(3)]
        coordinator = ray.remote(WireCoordinator).options(**ACTOR).remote()
        self._actors = [*replicas, coordinator]
        await coordinator.attach.remote([await replica.listen.remote() for replica in replicas])
        port = await coordinator.listen.remote()
        reader, self._writer = await asyncio.open_connection(HOST, port, limit=STREAM_LIMIT)
        self._loop = asyncio.get_running_loop()
        self._reading = asyncio.create_task(read_frames(reader, self._on_answer))

    def _on_answer(self, fields: list[Any]) -> None:
        call, *found = fields
        self._waiting.pop(call).set_result(found[0] if found else None)

    def _ask(self, *request: object) -> asyncio.Future[Any]:
        call = next(self._calls)
        answer = self._waiting[call] = self._loop.create_future()
        self._writer.write(frame(call, *request))
        return answer

    async def put(self, key: bytes, value: bytes) -> None:
        await self._ask(PUT, key, value)

    async def get(self, key: bytes) -> bytes | None:
        found: bytes | None = await self._ask(GET, key)
        return found

    async def put_many(self, mapping: Mapping[bytes, bytes]) -> None:
        await self._ask(PUT_MANY, list(mapping), list(mapping.values()))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = await self._ask(GET_MANY, keys)
        return found

    async def close(self) -> None:
        self._writer.close()
        await asyncio.wait([self._reading], timeout=1)
        for actor in self._actors:
            ray.kill(actor)


class RayReplica:
    """A dict behind Ray calls; lists of bytes, which Ray carries faster than one packed string."""

    def __init__(self) -> None:
        self._map: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self._map[key] = value

    def get(self, key: bytes) -> bytes | None:
        return self._map.get(key)

    def put_many(self, keys: list[bytes], values: list[bytes]) -> None:
        self._map.update(zip(keys, values, strict=True))

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._map.get(key) for key in keys]


class RayCoordinator:
    """Blocking calls in 16 threads: measured a quarter faster than the asyncio form (README)."""

    def __init__(self, replicas: list[Any]) -> None:
        self._replicas = replicas

    def write(self, verb: str, *fields: Any) -> None:
        first, *others = (getattr(replica, verb) for replica in self._replicas)
        ray.get(first.remote(*fields))
        ray.wait([other.remote(*fields) for other in others], num_returns=1)

    def read(self, verb: str, *fields: Any) -> Any:
        asked = [getattr(replica, verb).remote(*fields) for replica in self._replicas]
        replied, _ = ray.wait(asked, num_returns=2)
        return ray.get(replied[0])


class RayFloor(RayContestant):
    name = "Ray floor"

    async def start(self) -> None:
        replicas = [ray.remote(RayReplica).options(**ACTOR).remote() for _ in range(3)]
        threads = {**ACTOR, "max_concurrency": 16}
        self.door = ray.remote(RayCoordinator).options(**threads).remote(replicas)
        self.actors = [self.door, *replicas]

    async def put(self, key: bytes, value: bytes) -> None:
        await self.answer(self.door.write.remote("put", key, value))

    async def get(self, key: bytes) -> bytes | None:
        found: bytes | None = await self.answer(self.door.read.remote("get", key))
        return found

    async def put_many(self, mapping: Mapping[bytes, bytes]) -> None:
        fields = list(mapping), list(mapping.values())
        await self.answer(self.door.write.remote("put_many", *fields))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = await self.answer(self.door.read.remote("get_many", keys))
        return found
