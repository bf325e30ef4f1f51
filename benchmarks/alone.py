"""Storage nodes in a process of their own, and a client that coordinates itself. No Ray.

    this process                     the nodes' process
    client + coordinator ── wire ──► NodeServer, its log, its snapshots
             └─ a line on stdin ───► a question, or close; a line of JSON on stdout

`Apart` is any number of nodes; what they are asked is told by the module that they run. `Alone` is
one node, as in production: what is measured is what its disk, its log and its snapshots cost.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import uvloop

from benchmarks import workloads
from benchmarks.served import Served
from dynamo_ray.client import AsyncClient
from dynamo_ray.core.charter import Charter, charter_from
from dynamo_ray.core.membership import View, view_from
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings
from dynamo_ray.server.embedded import embedded_channel
from dynamo_ray.server.node import NodeServer, open_node
from dynamo_ray.session import Session

ROOT = Path(__file__).resolve().parents[1]
SERVE = "--serve"
ANSWER_S = 300.0
REACH_S = 5.0


class Apart(Served):
    """Nodes and their client, as a contestant of workloads.py."""

    in_flight = 1
    verbs: Sequence[str] = ("put",)

    def __init__(self, name: str, settings: Settings, nodes: int, module: str) -> None:
        self.name = name
        members = tuple(Member(os.urandom(8), f"n{i + 1}") for i in range(nodes))
        self.charter = Charter(os.urandom(16), "apart", settings, members)
        self.folder = ""
        self._module = module
        self._secrets = [os.urandom(32)]
        self._node: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the nodes in a new folder, or again in the one that they have, and connect."""
        self.folder = self.folder or tempfile.mkdtemp(prefix="dra", dir="/tmp")
        given = {
            "charter": self.charter.to_dict(),
            "secrets": [secret.hex() for secret in self._secrets],
            "folder": self.folder,
        }
        self._node = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            SERVE,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        told = await self.ask(json.dumps(given))
        rows = msgpack.unpackb(bytes.fromhex(told))
        channel = await embedded_channel(self.charter, self._secrets, view_from(rows))
        session = Session([], None, {"here": channel})
        await session.open(5.0)
        self._client = AsyncClient(session).with_options(timeout_s=5.0)

    async def ask(self, line: str) -> Any:
        """Tell the nodes' process something, and wait for its answer."""
        node = self._node
        assert node is not None and node.stdin is not None and node.stdout is not None
        node.stdin.write(line.encode() + b"\n")
        answer = await asyncio.wait_for(node.stdout.readline(), ANSWER_S)
        return json.loads(answer)

    async def stop(self) -> None:
        """Close the nodes; their folder stays."""
        if self._client is not None:
            await self._client.close()
        if self._node is not None:
            await self.ask("close")
            await self._node.wait()
        self._client = self._node = None

    async def close(self) -> None:
        """Close the nodes and remove their folder."""
        await self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Alone(Apart):
    """One node, with copies nowhere else."""

    def __init__(self, name: str, durability: str = "written", partitions: int = 256) -> None:
        settings = Settings(n=1, r=1, w=1, partitions=partitions, durability=durability)
        super().__init__(name, settings, 1, "benchmarks.alone")


async def load(node: Apart, space: workloads.Keyspace) -> None:
    """All keys of a keyspace, in batches."""
    for batch in space.batches:
        await node.put_many(batch)


# ---- in the nodes' process


def resident_bytes() -> int:
    """How much memory this process has in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def block_bytes() -> int:
    """How many bytes this process has caused to be written to the disk so far, in pages."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


async def serve(answer: Callable[[list[NodeServer], str], Awaitable[Any]]) -> None:
    """Open the nodes that stdin tells of, and answer its lines until one says to close."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    given = json.loads(await lines.readline())
    nodes = await _opened(given)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as actors/hosting.py
    _tell(msgpack.packb(nodes[0].view.to_rows()).hex())
    while (line := (await lines.readline()).decode().strip()) not in ("", "close"):
        _tell(await answer(nodes, line))
    for node in nodes:
        await node.close()
    _tell("closed")


async def _opened(given: dict[str, Any]) -> list[NodeServer]:
    """The nodes, which know each other and are connected."""
    charter = charter_from(given["charter"])
    secrets = [bytes.fromhex(one) for one in given["secrets"]]
    nodes: list[NodeServer] = []
    for member in charter.members:
        place = str(Path(given["folder"]) / member.name)
        nodes.append(await open_node(charter, secrets, member, place, "127.0.0.1", View()))
    for node in nodes:
        for other in nodes:
            node.learn(other.view)
        await node.reach_nodes(REACH_S)
    return nodes


async def _answer(nodes: list[NodeServer], line: str) -> Any:
    (node,) = nodes
    if line == "snapshot":
        return await node.snapshot()
    node.longest_hold_s, told = 0.0, node.status()
    return {**told, "resident": resident_bytes(), "blocks": block_bytes()}


def _tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(_answer))
