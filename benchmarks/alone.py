"""One storage node in a process of its own, as in production, and a client that coordinates itself.

    this process                     the node's process
    client + coordinator ── wire ──► NodeServer, its log, its snapshots
             └─ a line on stdin ───► status, snapshot, close; a line of JSON on stdout

No Ray and no other node: what is measured is what a node's disk, its log and its snapshots cost.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import msgpack  # noqa: E402
import uvloop  # noqa: E402

from benchmarks import workloads  # noqa: E402
from benchmarks.served import Served  # noqa: E402
from dynamo_ray.client import AsyncClient  # noqa: E402
from dynamo_ray.core.charter import Charter, charter_from  # noqa: E402
from dynamo_ray.core.membership import View, view_from  # noqa: E402
from dynamo_ray.core.ring import Member  # noqa: E402
from dynamo_ray.core.settings import Settings  # noqa: E402
from dynamo_ray.server.embedded import embedded_channel  # noqa: E402
from dynamo_ray.server.node import open_node  # noqa: E402
from dynamo_ray.session import Session  # noqa: E402

NAME = "n1"
ANSWER_S = 300.0


class Alone(Served):
    """A node and its client, as a contestant of workloads.py."""

    in_flight = 1
    verbs: Sequence[str] = ("put",)

    def __init__(self, name: str, durability: str = "written", partitions: int = 256) -> None:
        self.name = name
        settings = Settings(n=1, r=1, w=1, partitions=partitions, durability=durability)
        self.charter = Charter(os.urandom(16), "alone", settings, (Member(os.urandom(8), NAME),))
        self.folder = ""
        self._secrets = [os.urandom(32)]
        self._node: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the node in a new folder, or again in the one that it has, and connect to it."""
        self.folder = self.folder or tempfile.mkdtemp(prefix="dra", dir="/tmp")
        given = {
            "charter": self.charter.to_dict(),
            "secrets": [secret.hex() for secret in self._secrets],
            "folder": self.folder,
        }
        self._node = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
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
        """Tell the node's process something, and wait for its answer."""
        node = self._node
        assert node is not None and node.stdin is not None and node.stdout is not None
        node.stdin.write(line.encode() + b"\n")
        answer = await asyncio.wait_for(node.stdout.readline(), ANSWER_S)
        return json.loads(answer)

    async def stop(self) -> None:
        """Close the node; its folder stays."""
        if self._client is not None:
            await self._client.close()
        if self._node is not None:
            await self.ask("close")
            await self._node.wait()
        self._client = self._node = None

    async def close(self) -> None:
        """Close the node and remove its folder."""
        await self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


async def load(node: Alone, space: workloads.Keyspace) -> None:
    """All keys of a keyspace, in batches."""
    for batch in space.batches:
        await node.put_many(batch)


# ---- in the node's process


def resident_bytes() -> int:
    """How much memory this process has in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def block_bytes() -> int:
    """How many bytes this process has caused to be written to the disk so far, in pages."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    given = json.loads(await lines.readline())
    charter = charter_from(given["charter"])
    secrets = [bytes.fromhex(one) for one in given["secrets"]]
    node = await open_node(
        charter, secrets, charter.members[0], given["folder"], "127.0.0.1", View()
    )
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as actors/hosting.py
    _tell(msgpack.packb(node.view.to_rows()).hex())
    while (line := (await lines.readline()).strip()) not in (b"", b"close"):
        if line == b"snapshot":
            _tell(await node.snapshot())
        else:
            node.longest_hold_s, told = 0.0, node.status()
            _tell({**told, "resident": resident_bytes(), "blocks": block_bytes()})
    await node.close()
    _tell("closed")


def _tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve())
