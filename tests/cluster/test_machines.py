"""A cluster on the machines of cluster.yaml, as hosts in namespaces: placed, hurt, whole again.

What the commands of cluster.yaml begin is used as the pages say, by the command line on the hosts.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.cable import Quality
from tests.cluster.conftest import FILE, START, Machines
from tests.cluster.running import (
    LASTS_S,
    all_connected,
    all_under_load,
    no_hints,
    p99s,
    profile,
    under_load,
    wait,
    watched,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(700)]

GAP_S = 2.0
# How long a machine is cut off: `make cluster-test cut=600` for ten minutes.
CUT_S = float(os.environ.get("DYNAMO_RAY_CUT_S", "12"))
SLOW = {
    "50 ms more each way, 10 ms more or less": Quality(delay_s=0.05, jitter_s=0.01),
    "1 % lost": Quality(loss=0.01),
    "1 Mbit/s": Quality(bytes_a_s=125_000),
}
SLOW_MS = 1000.0
AROUND_S = 4.0
LATER_S = 30.0
CONNECTED_S = 2.0
MOVED_S = 300.0
EQUAL_S = 120.0
ONE, TWO, THREE = FILE["provider"]["worker_ips"]
LISTENS = "import socket; socket.create_connection(('{}', {}), 5)"


@pytest.fixture(scope="module")
def carts(machines: Machines) -> Machines:
    """The cluster, started on the head, with what `start` does by default."""
    machines.store(START.removeprefix("dynamo-ray "))
    return machines


def is_whole(carts: Machines) -> bool:
    status = carts.status()
    return all(one["state"] == "up" for one in (*status["nodes"], *status["coordinators"]))


def pids_of(carts: Machines) -> dict[str, int]:
    """Of all members, by name."""
    status = carts.status()
    return {one["name"]: one["pid"] for one in (*status["nodes"], *status["coordinators"])}


@contextmanager
def a_spare(carts: Machines) -> Iterator[str]:
    """A fourth node meanwhile, that can stand in for others; its name."""
    before = set(carts.states())
    carts.store("node add -c carts --yes", timeout_s=MOVED_S)
    [added] = set(carts.states()) - before
    yield added
    carts.store(f"node remove {added} -c carts --yes", timeout_s=MOVED_S)


def be_equal(carts: Machines) -> float:
    """Wait until all owners hold the same; how long that took in seconds."""
    found: dict[str, Any] = {}

    def is_so() -> bool:
        found.update(json.loads(carts.head.run("dynamo-ray verify -c carts --json || true")))
        return bool(found["equal"])

    try:
        return wait(is_so, EQUAL_S, "equal copies")
    except AssertionError:
        print(found, carts.status()["nodes"], carts.machines_in_ray())
        raise


# ---- where members are


def test_each_machine_has_one_node_and_the_head_none(carts: Machines) -> None:
    nodes = {node["name"]: node for node in carts.status()["nodes"]}
    hosts = [host.address for host in carts.storage.values()]
    assert [nodes[name]["address"].split(":")[0] for name in ("n1", "n2", "n3")] == hosts
    assert [nodes[name]["zone"] for name in ("n1", "n2", "n3")] == ["a", "b", "c"]
    for name, host in carts.hosts.items():
        there = host.run("ls /var/lib/dynamo_ray/carts || true").split()
        assert there == (["CLUSTER.json"] if name == "head" else [f"n{name[1:]}"])
        commands = host.run("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
        assert ("ray::NodeActor" in commands) is (name != "head")
        assert "ray::CoordinatorActor" not in commands or name != "head"


def test_coordinators_are_on_different_machines(carts: Machines) -> None:
    assert carts.addresses_of_pool() == [ONE, TWO]


def test_members_listen_at_their_machine_s_address_alone(carts: Machines) -> None:
    for node in carts.status()["nodes"]:
        address, port = node["address"].split(":")
        host = next(one for one in carts.hosts.values() if one.address == address)
        host.run(f'python -c "{LISTENS.format(address, port)}"')
        assert "refused" in host.refused(f'python -c "{LISTENS.format("127.0.0.1", port)}"')


def test_copies_of_a_key_are_in_all_zones(carts: Machines) -> None:
    told = json.loads(carts.store("where -c carts some-key --json"))
    assert sorted(told["owners"]) == ["n1", "n2", "n3"]


def test_more_copies_than_machines_are_refused_in_words(carts: Machines) -> None:
    said = carts.head.refused(f"RAY_ADDRESS={carts.ray} dynamo-ray start more --n 4 --w 3")
    assert "n is 4 and 3 machines of the Ray cluster have the label" in " ".join(said.split())


def test_a_node_that_joins_has_a_machine_too(carts: Machines) -> None:
    """And copies of a key stay on three of them, though four nodes are there, two on one."""
    carts.store("node add -c carts --yes")
    nodes = {node["name"]: node for node in carts.status()["nodes"]}
    assert nodes["n4"]["address"].startswith(f"{ONE}:") and nodes["n4"]["zone"] == "a"
    assert carts.hosts["m1"].run("ls /var/lib/dynamo_ray/carts").split() == ["n1", "n4"]
    for key in range(8):
        owners = set(json.loads(carts.store(f"where -c carts key{key} --json"))["owners"])
        assert owners > {"n2", "n3"} and len(owners) == 3
    carts.store("node remove n4 -c carts --yes")
    assert set(carts.states()) == {"n1", "n2", "n3"}


# ---- what happens to them


def test_a_machine_crashes_and_comes_back(carts: Machines) -> None:
    """All that runs on it is killed: its raylet, its node, its coordinator."""
    host = carts.hosts["m2"]
    told = under_load(carts, host.crash)
    assert told["failed"] == [] and told["lost"] == [] and told["gap_s"] < GAP_S, told
    assert carts.states() == {"n1": "up", "n2": "down", "n3": "up"}
    either = [ONE, ONE], [ONE, THREE]  # Ray takes any machine that is left
    wait(lambda: carts.addresses_of_pool() in either, 60, "a coordinator's new machine")
    carts.start_worker("m2")
    wait(lambda: is_whole(carts), 120, "a whole cluster")
    n2 = next(one for one in carts.status()["nodes"] if one["name"] == "n2")
    assert n2["address"].startswith(f"{host.address}:"), "it waited for its machine"
    assert n2["recovery"]["records"] > 0, "and read its data there"


@pytest.mark.timeout(900 + 2 * CUT_S)
@pytest.mark.parametrize("name", ["m3", "head"])
def test_a_machine_is_cut_off_for_a_while(carts: Machines, name: str) -> None:
    """Ray starts nothing again, and the store is whole as soon as the network is."""
    profile(carts, "m1")
    with a_spare(carts) as spare, watched(carts, "m1") as watch:
        pids, took = pids_of(carts), {}

        def cut() -> None:
            carts.hosts[name].unplug()
            time.sleep(CUT_S)
            carts.hosts[name].plug()
            healed = time.monotonic()
            took.update(healed=healed, equal_s=round(be_equal(carts), 1))

        told = under_load(carts, cut, "m1", lasts_s=CUT_S + AROUND_S)
        time.sleep(min(CUT_S, LATER_S))  # for what Ray might still do
        assert pids_of(carts) == pids and is_whole(carts)
    healed = took.pop("healed")
    took["connected_s"] = watch.first(healed, all_connected)
    took["home_s"] = watch.first(healed, no_hints)
    print(name, took, watch.suspicions(healed - CUT_S))
    assert told["failed"] == [] and told["lost"] == [] and told["gap_s"] < GAP_S, told
    assert took["connected_s"] is not None and took["connected_s"] < CONNECTED_S
    assert took["home_s"] is not None, f"{spare} keeps copies for others"


@pytest.mark.timeout(900)
def test_a_machine_has_a_slow_link(carts: Machines) -> None:
    """Slow is not dead: nothing fails, nobody is given up for long, and then all is as before.

    On the machine are a storage node and a coordinator.
    """
    with a_spare(carts):
        for name, quality in SLOW.items():
            be_slow(carts, name, quality)


def be_slow(carts: Machines, name: str, quality: Quality) -> None:
    """Once, for so long, under a load that more than fills the narrowest link."""
    times = []

    def slow() -> None:
        times.append(time.monotonic())
        with carts.hosts["m2"].slow(quality):
            time.sleep(LASTS_S)
            times.append(time.monotonic())

    with watched(carts) as watch:
        told = under_load(carts, slow, lasts_s=LASTS_S + 2 * AROUND_S, workers=4, size=2000)
        be_equal(carts)
    begun, ended = times
    suspicions = watch.suspicions(begun)
    whole_s = watch.first(ended, lambda last: all_connected(last) and no_hints(last))
    slow_ms, after_ms = p99s(told["took"], begun, ended), p99s(told["took"], ended + 1.0)
    print(name, {"slow": slow_ms, "after": after_ms, "whole_s": whole_s}, suspicions)
    assert told["failed"] == [] and told["lost"] == [] and told["gap_s"] < GAP_S, told
    assert max(slow_ms) < SLOW_MS and max(after_ms) < SLOW_MS / 2
    assert all(lasted < GAP_S for _, _, _, lasted in suspicions), suspicions
    assert whole_s is not None and whole_s < CONNECTED_S


def test_the_machines_are_split_in_two(carts: Machines) -> None:
    """Two of three storage nodes on one side: there W is reached, and on the other side it is not.

    The head, and with it the GCS, is with the one.
    """
    away = [carts.hosts["m2"], carts.hosts["m3"]]
    for count in (1, 2):  # after the loss of a machine both may be on one side
        carts.store(f"coordinator scale {count} -c carts --yes")
    wait(lambda: carts.addresses_of_pool() == [ONE, TWO], 30, "a coordinator on each side")
    profile(carts, "m2")

    def split() -> None:
        for host in away:
            host.split_off()
        time.sleep(LASTS_S / 2)
        for host in away:
            host.rejoin()

    lesser, greater = all_under_load(carts, split, "head", "m2")
    assert greater["failed"] == [] and greater["gap_s"] < GAP_S, greater
    assert lesser["puts"] and lesser["failed"], lesser
    assert all(re.match("Unavailable|OperationTimeout", one) for one in lesser["failed"]), lesser
    assert greater["lost"] == lesser["lost"] == []
    assert wait(lambda: is_whole(carts), 60, "a whole cluster") < 30


def test_the_head_crashes_and_is_started_again(carts: Machines) -> None:
    """Its GCS is on disk: nothing else has to be started again, and the cluster is found."""
    profile(carts, "m1")
    pids = {node["name"]: node["pid"] for node in carts.status()["nodes"]}

    def crash() -> None:
        carts.head.crash()
        carts.start_head()

    told = under_load(carts, crash, host="m1")
    assert told["failed"] == [] and told["lost"] == [] and told["gap_s"] < GAP_S, told
    assert is_whole(carts)
    assert {node["name"]: node["pid"] for node in carts.status()["nodes"]} == pids
    carts.store("node snapshot n1 -c carts")  # it is found through Ray again


def test_all_is_stopped_and_started_while_a_machine_has_no_power(carts: Machines) -> None:
    """Ray takes it for alive for long: nobody has said that its processes are gone."""
    carts.store("put -c carts kept yes")
    carts.hosts["m3"].power_off()
    carts.store("stop carts --yes")
    begun = time.monotonic()
    said = carts.store(f"{START} 2>&1".removeprefix("dynamo-ray "), timeout_s=MOVED_S)
    print({"start_s": round(time.monotonic() - begun)})
    assert "carts is up" in said and "machine m3 at 192.0.2.13 does not answer" in said
    assert "n3 starts when its machine m3 is there" in said
    assert carts.store("get -c carts kept") == "yes"
    assert carts.states() == {"n1": "up", "n2": "up", "n3": "down"}
    carts.hosts["m3"].power_on()
    carts.start_worker("m3")
    print({"whole_s": wait(lambda: is_whole(carts), 180, "a whole cluster")})
