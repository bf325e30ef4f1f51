"""`ray up cluster.yaml` over ssh, from a host that is no part of the cluster, all in namespaces.

The file is used as it is, but for what these hosts do not have: docker, a package index to install
from, and a user `ubuntu`. `ray stop` is left out, too: it is for what ran before, and nothing did.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import FILE, START, Machines, bare
from tests.cluster.hosts import NEEDED, SSH_NEEDED, missing
from tests.cluster.running import wait
from tests.cluster.test_machines import is_whole

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(500)]

DESK = {"desk": "192.0.2.1"}
LEFT_OUT = "ray stop"
UP_S = 240.0
CUT_S = 45.0


def adapted() -> dict[str, Any]:
    """cluster.yaml for these hosts."""
    given = {name: one for name, one in FILE.items() if name not in ("docker", "setup_commands")}
    given["auth"] = {"ssh_user": "root", "ssh_private_key": FILE["auth"]["ssh_private_key"]}
    mounts = FILE["file_mounts"].items()
    given["file_mounts"] = {to: what for to, what in mounts if not what.endswith(".whl")}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        given[commands] = [one for one in FILE[commands] if one != LEFT_OUT]
    return given


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Machines]:
    """What `ray up` has begun."""
    if lacks := missing(NEEDED | SSH_NEEDED):
        pytest.skip(f"this test needs {'; '.join(lacks)}")
    with bare(folder / "b", DESK) as found:
        desk = found.others["desk"]
        desk.run("mkdir -m 700 ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
        for host in found.hosts.values():
            host.begin_sshd((desk.folder / "home/.ssh/id_ed25519.pub").read_text())
        (desk.folder / "home/.ray/auth_token").write_text(secrets.token_hex(32))
        (desk.folder / "home/cluster.yaml").write_text(yaml.safe_dump(adapted()))
        (desk.folder / "home/constraints.txt").write_text("")
        desk.run("cd && ray up cluster.yaml --yes --no-config-cache", UP_S)
        yield found


def test_all_machines_are_in_the_cluster(up: Machines) -> None:
    """The head starts Ray on the others, over ssh."""
    wait(lambda: len(up.machines_in_ray()) == len(up.hosts), UP_S, "Ray on all machines")
    assert sorted(map(str, up.machines_in_ray())) == ["None", "m1", "m2", "m3"]


def test_a_store_runs_on_them(up: Machines) -> None:
    desk = up.others["desk"]
    desk.run(f"cd && ray exec cluster.yaml 'export RAY_ADDRESS={up.ray}; {START}'", UP_S)
    assert is_whole(up)
    addresses = [node["address"].split(":")[0] for node in up.status()["nodes"]]
    assert addresses == [host.address for host in up.storage.values()]
    up.store("put -c carts key value")
    assert up.store("get -c carts key") == "value"


def test_a_machine_that_was_cut_off_is_left_alone(up: Machines) -> None:
    """For longer than the launcher waits for a sign of life (30 s): Ray is not started again."""
    pids = {node["name"]: node["pid"] for node in up.status()["nodes"]}
    up.hosts["m2"].unplug()
    time.sleep(CUT_S)
    assert up.store("get -c carts key") == "value"
    up.hosts["m2"].plug()
    wait(lambda: is_whole(up), 90, "a whole cluster")
    time.sleep(10)  # for what the launcher might still do
    assert is_whole(up)
    assert {node["name"]: node["pid"] for node in up.status()["nodes"]} == pids


def test_ray_comes_back_by_itself_on_a_machine_that_crashed(up: Machines) -> None:
    """The launcher's monitor on the head notices, and starts it again; the node has its data."""
    host = up.hosts["m1"]
    host.crash()
    host.run("/usr/sbin/sshd -f ~/.ssh/sshd_config -E ~/.ssh/log")
    took = wait(lambda: "m1" in up.machines_in_ray() and is_whole(up), UP_S, "a whole cluster")
    print(json.dumps({"back_s": round(took)}))
    assert up.store("get -c carts key") == "value"
