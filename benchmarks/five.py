"""Five nodes on real Ray actors, for benchmarks of a cluster whose nodes come and go."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dynamo_ray
from dynamo_ray.actors.local_ray import start_here

BATCH = 500


@contextmanager
def own_ray() -> Iterator[Path]:
    """A Ray for this run alone, and a folder, which is gone in the end."""
    folder = tempfile.mkdtemp(prefix="drb", dir="/tmp")
    os.environ["DYNAMO_RAY_HOME"] = folder
    start_here()  # it ends with this program
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def five_nodes(name: str, data_dir: Path, **options: Any) -> dynamo_ray.Cluster:
    """A new cluster, or the one whose data lies there; a context that stops it in the end."""
    return dynamo_ray.start(name, nodes=5, data_dir=data_dir, **options)


async def load(client: dynamo_ray.AsyncClient, keys: Sequence[str], value: bytes) -> None:
    """Put one value under all keys, in batches."""
    for at in range(0, len(keys), BATCH):
        await client.put_many(dict.fromkeys(keys[at : at + BATCH], value), timeout_s=10)


async def until_compared(cluster: dynamo_ray.Cluster) -> None:
    """Wait until all owners have compared their copies since they started: nothing is due then."""
    while not all(is_quiet(node.repair) for node in cluster.status().nodes):
        await asyncio.sleep(0.5)


def is_quiet(repair: dict[str, Any]) -> bool:
    """True if a node that says so of its comparisons has none to make now."""
    return bool(repair) and repair["round_s"] is not None and repair["running"] is None
