"""The store itself, beside the floor and the peers, in the same rounds.

    python benchmarks/store.py [the options of floor.py]

Three storage nodes and one coordinator as Ray actors, so hops and processes are those of the floor;
durability as named. `make bench` runs this.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dynamo_ray
from benchmarks import floor, workloads
from benchmarks.served import Served
from dynamo_ray.cluster import Cluster


class Store(Served):
    """dynamo_ray with one coordinator, as a contestant."""

    in_flight = 1
    verbs: Sequence[str] = workloads.VERBS

    def __init__(
        self,
        name: str,
        durability: str = "written",
        coordination: str = "server",
        nodes: int = 3,
        coordinators: int = 1,
    ) -> None:
        self.name = name
        self._durability = durability
        self._coordination = coordination
        self._nodes = nodes
        self._coordinators = coordinators
        self._folder = ""
        self._cluster: Cluster | None = None

    async def start(self) -> None:
        """Found a cluster in a new folder."""
        self._folder = tempfile.mkdtemp(prefix="drb", dir="/tmp")
        name = "bench-" + "".join(c if c.isalnum() else "-" for c in self.name).strip("-")
        self._cluster = await asyncio.to_thread(
            dynamo_ray.start,
            name,
            nodes=self._nodes,
            coordinators=self._coordinators,
            durability=self._durability,
            data_dir=Path(self._folder) / "data",
        )
        if self._coordination == "client":
            self._client = await dynamo_ray.connect_async(name, coordination="client")
        else:
            place = self._cluster
            self._client = await dynamo_ray.connect_async(
                address=place.addresses, token=place.token
            )

    async def close(self) -> None:
        """Stop the cluster and remove its folder."""
        if self._client is not None:
            await self._client.close()
        if self._cluster is not None:
            await asyncio.to_thread(self._cluster.stop)
        shutil.rmtree(self._folder, ignore_errors=True)


def stores() -> list[Store]:
    """The variants that are compared; `--only NAME` chooses."""
    return [
        Store("dynamo_ray"),
        Store("dynamo_ray, client coordinates", coordination="client"),
        Store("dynamo_ray, memory", durability="memory"),
        Store("dynamo_ray, synced", durability="synced"),
        Store("dynamo_ray, 5 nodes", nodes=5, coordinators=2),
    ]


if __name__ == "__main__":
    floor.main(sys.argv[1:], extra=stores())
