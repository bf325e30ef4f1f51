"""Ray's own parts killed under load: a raylet with the members on it, and the GCS (rule 18).

Two Ray nodes on one machine. Ray places actors that ask for no CPU at random, so members are killed
until each is where the test wants it; then n4, n5 and c2 are on the second Ray node.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos.clusters import ROOT, Hurt, environment, parent_of, wait
from tests.chaos.drills import Drilled, Outside, drill
from tests.chaos.test_members import GAP_S, assert_nothing_failed, assert_writes_went_on

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(400)]

RAYLETS = 2
ON_SECOND = {"n4", "n5", "c2"}
TRIES = 15
BY_NAME = """
import dynamo_ray
with dynamo_ray.connect("{name}") as client:
    client.put("new:{key}", b"by name")
    assert client.get("new:{key}").value == b"by name"
"""
Keep = Callable[[Drilled], Drilled]


def test_a_raylet_is_killed(cluster: Hurt, keep: Keep) -> None:
    """The members on it end with it; Ray starts them again on the other, with their data."""
    first, second = sorted(cluster.ray_pids("raylet"))
    for name in sorted(cluster.pids()):
        _place(cluster, name, second if name in ON_SECOND else first)
    wait(cluster.is_whole, what="a whole cluster")
    before = cluster.pids()
    lost = {name: before[name] for name in ON_SECOND}
    drilled = keep(
        drill(
            cluster,
            "a raylet with two nodes and a coordinator is killed",
            lambda: os.kill(second, signal.SIGKILL),
            lambda: cluster.wait_until_back(lost, 90),
            victims=ON_SECOND,
        )
    )
    assert_writes_went_on(drilled)
    after = cluster.pids()
    assert {name: after[name] for name in before.keys() - ON_SECOND} == {
        name: before[name] for name in before.keys() - ON_SECOND
    }


def test_the_gcs_is_killed(cluster: Hurt, keep: Keep, folder: Path) -> None:
    """Clients of every kind go on, and new ones come; but nobody is started again.

    Ray's memory dies with its GCS here, so this is the last that is done with the cluster.
    """
    wait(cluster.is_whole, what="a whole cluster")
    (gcs,) = cluster.ray_pids("gcs_server")
    home = folder / "home"
    with Outside(cluster, home, "ray") as outside:

        def kill() -> None:
            os.kill(gcs, signal.SIGKILL)
            asyncio.run(_new_by_address(cluster))
            _new_by_name(cluster, home)

        drilled = keep(drill(cluster, "the GCS is killed", kill, lasts_s=6.0, outside=outside))
    assert_nothing_failed(drilled)
    assert cluster.ray_pids("gcs_server") == []
    assert_no_restart_without_gcs(cluster, keep)


def assert_no_restart_without_gcs(cluster: Hurt, keep: Keep) -> None:
    """A node that is killed now stays away; requests go on."""
    pids = cluster.pids()
    drilled = keep(
        drill(
            cluster,
            "a node is killed while the GCS is away",
            lambda: os.kill(pids["n2"], signal.SIGKILL),
            lasts_s=6.0,
            victims=["n2"],
            settles=False,
        )
    )
    assert drilled.puts_failed + drilled.puts_unknown + drilled.gets_failed == 0, drilled.errors
    assert drilled.longest_gap_s < GAP_S
    assert drilled.found == {} and drilled.lost == 0
    states = {node.name: node.state for node in cluster.status().nodes}
    assert states.pop("n2") == "down"
    assert set(states.values()) == {"up"}


async def _new_by_address(cluster: Hurt) -> None:
    async with await cluster.client() as client:
        await client.put("new:address", b"by address")
        assert (await client.get("new:address")).value == b"by address"


def _new_by_name(cluster: Hurt, home: Path) -> None:
    """A program that is not attached to Ray finds the cluster by its profile."""
    env = environment(cluster.ray, home)
    del env["RAY_ADDRESS"]
    code = BY_NAME.format(name=cluster.name, key=time.monotonic_ns())
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=30)


def _place(cluster: Hurt, name: str, raylet: int) -> None:
    """Kill a member until Ray starts it on that Ray node."""
    for _ in range(TRIES):
        with suppress(OSError):  # it has just ended
            if parent_of(cluster.pids()[name]) == raylet:
                return
        cluster.wait_until_back(cluster.signal(signal.SIGKILL, name))
    pytest.skip(f"Ray did not start {name} on the other Ray node in {TRIES} tries")
