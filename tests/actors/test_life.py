"""Clusters started, found, used from tasks and ended in Ray; what is broken is in tests/chaos."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dynamo_ray
from tests.client.contract import LIMITS, fresh
from tests.server.load import Load
from tests.server.loopback import run

pytestmark = pytest.mark.ray


def wait(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.1)
    return found


def healthy(cluster: dynamo_ray.Cluster) -> bool:
    status = cluster.status()
    return status.healthy and all(one["state"] == "up" for one in status.coordinators)


def pids(cluster: dynamo_ray.Cluster) -> dict[str, int]:
    """The members' processes by name."""
    import ray

    from dynamo_ray.actors import fleet

    found = {}
    for role in (fleet.NODE, fleet.COORDINATOR):
        for name in fleet.member_names(cluster.name, role):
            found[name] = ray.get(fleet.find(cluster.name, role, name).pid.remote(), timeout=20)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_end_of_another_ray_leaves_this_one_connected(ray_here: str, tmp_path: Path) -> None:
    import ray

    from dynamo_ray.actors import local_ray

    local_ray.end({"temp_dir": str(tmp_path / "another"), "address": "127.0.0.1:1"})
    assert ray.is_initialized()


@pytest.fixture
def whole(cluster: dynamo_ray.Cluster) -> Iterator[dynamo_ray.Cluster]:
    """The cluster with everybody up, before and after."""
    wait(lambda: healthy(cluster))
    yield cluster
    wait(lambda: healthy(cluster))


def under_load(cluster: dynamo_ray.Cluster, act: Callable[[], Any]) -> Load:
    """Load by a client that knows the cluster by name, while `act` happens."""

    async def story() -> Load:
        client = await dynamo_ray.connect_async(cluster.name)
        async with client:
            async with Load(client, name=fresh("load")) as load:
                await load.more(300)
                await asyncio.to_thread(act)
                await load.more(600)
            await load.check(client, siblings=True)
        return load

    found: Load = run(story(), 40)
    return found


def test_snapshots_are_taken_under_load_when_asked_for(whole: dynamo_ray.Cluster) -> None:
    taken: dict[str, dict[str, Any]] = {}
    load = under_load(whole, lambda: taken.update(whole.snapshot(30)))
    assert load.errors == []
    assert taken.keys() == {"n1", "n2", "n3", "n4", "n5"}
    assert all(one["records"] > 0 and one["bytes"] > 0 for one in taken.values())
    told = {node.name: node.snapshot for node in whole.status().nodes}
    assert told == taken
    assert whole.snapshot(30, nodes=["n2"])["n2"]["generation"] > taken["n2"]["generation"]
    with pytest.raises(dynamo_ray.BadRequestError, match="no node 'n9'; it has n1"):
        whole.snapshot(nodes=["n9"])


def test_a_client_travels_into_a_task(whole: dynamo_ray.Cluster) -> None:
    import ray

    key, client = fresh(), whole.connect(timeout_s=5)

    @ray.remote(num_cpus=0)
    def task(client: dynamo_ray.Client, key: str) -> bytes | None:
        client.put(key, b"from a task")
        by_name = dynamo_ray.connect("real")
        return by_name.get(key).value

    assert ray.get(task.remote(client, key), timeout=40) == b"from a task"
    assert client.get(key).value == b"from a task"
    client.close()


def test_errors_travel_out_of_a_task(whole: dynamo_ray.Cluster) -> None:
    import ray

    client = whole.connect()

    @ray.remote(num_cpus=0)
    def task(client: dynamo_ray.Client) -> None:
        client.put("key", bytes(LIMITS["value_bytes"] + 1))

    with pytest.raises(dynamo_ray.ValueTooLargeError) as caught:
        ray.get(task.remote(client), timeout=40)
    assert caught.value.limit == LIMITS["value_bytes"]
    client.close()


def test_a_cluster_is_found_and_not_founded_twice(whole: dynamo_ray.Cluster) -> None:
    found = dynamo_ray.attach(whole.name)
    assert found.charter == whole.charter and found.token == whole.token
    with pytest.raises(dynamo_ray.ClusterExistsError, match="running already") as caught:
        dynamo_ray.start(whole.name, data_dir=whole.data_dir)
    assert isinstance(caught.value, ValueError)
    same = dynamo_ray.start(whole.name, data_dir=whole.data_dir, exist_ok=True)
    assert same.charter == whole.charter
    with pytest.raises(dynamo_ray.ClusterNotFoundError, match="nobody"):
        dynamo_ray.attach("nobody")
    for door in ({}, {"transport": "ray"}, {"coordination": "client"}):
        with pytest.raises(dynamo_ray.ClusterNotFoundError, match="nobody"):
            dynamo_ray.connect("nobody", **door)


def test_a_directory_of_another_cluster_is_refused(whole: dynamo_ray.Cluster) -> None:
    with pytest.raises(dynamo_ray.DataDirectoryError, match="belongs to cluster 'real'"):
        dynamo_ray.start("other", data_dir=whole.data_dir)
    assert not [name for name in pids(dynamo_ray.attach(whole.name)) if name.startswith("other")]


def test_settings_that_cannot_be_are_refused(ray_here: Any, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"n": 4, "nodes": 3},
        {"r": 4},
        {"w": 0},
        {"durability": "perhaps"},
        {"partitions": 0},
        {"limits": {"value_byte": 1}},
        {"limits": {"value_bytes": 0}},
        {"times": {"timeout_s": -1}},
        {"nodes": 3, "weights": [1, 1]},
    ]
    for options in wrong:
        with pytest.raises(dynamo_ray.SettingsError) as caught:
            dynamo_ray.start("never", data_dir=tmp_path / "never", **options)
        assert isinstance(caught.value, ValueError)
    for name in ("", "a/b", "..", "x" * 64):
        with pytest.raises(dynamo_ray.BadRequestError):
            dynamo_ray.start(name, data_dir=tmp_path / "never")
    with pytest.raises(dynamo_ray.BadRequestError, match="coordinators, not 0"):
        dynamo_ray.start("never", data_dir=tmp_path / "never", coordinators=0)
    assert not (tmp_path / "never").exists()


def test_a_whole_cluster_stops_and_starts_again(cluster: dynamo_ray.Cluster) -> None:
    """Nothing of it is left running in between, and nobody looks for those it has no more."""
    from dynamo_ray.actors import fleet

    key, place = fresh(), fleet.locate(cluster.name)
    larger = [replace(fact, name="c9") for fact in place.view.coordinators()[:1]]
    node = fleet.find(cluster.name, fleet.NODE, "n1")
    fleet.teach([node], place.view.with_facts(larger).to_rows())
    with cluster.connect() as client:
        done = client.put(key, b"kept", w=3)
    before = pids(cluster)
    cluster.stop()
    wait(lambda: not any(map(is_running, before.values())))
    with pytest.raises(dynamo_ray.ClusterNotFoundError):
        dynamo_ray.attach(cluster.name)
    with pytest.raises(dynamo_ray.ClusterNotFoundError):
        cluster.connect()
    again = dynamo_ray.start(cluster.name, data_dir=cluster.data_dir)
    cluster.addresses = again.addresses
    assert again.charter == cluster.charter and again.token == cluster.token
    with again.connect() as client:
        client.put(key, b"and changed", done.context)
        assert client.get(key, r=3, strict=True).values == (b"and changed",)
    assert not set(before.values()) & set(pids(again).values())
    assert [one["name"] for one in again.status().coordinators] == ["c1", "c2"]
    wait(lambda: healthy(again))
