"""The machines of cluster.yaml as hosts, started as it says, and a store in them."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import ROOT, RUN_S, Host, missing, switched

FILE: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
HEAD, ZONES = "head", "abc"
START = "dynamo-ray start carts --data-dir /var/lib/dynamo_ray/carts"

ALIVE = """
import json, ray
ray.init("auto", log_to_driver=False)
print(json.dumps([n["Labels"].get("dynamo-ray/machine") for n in ray.nodes() if n["Alive"]]))
"""


class Machines:
    """The hosts by name, with what is asked of them here."""

    def __init__(self, hosts: dict[str, Host]) -> None:
        self.hosts = hosts
        self.others: dict[str, Host] = {}
        self.head = hosts[HEAD]
        self.storage = {name: host for name, host in hosts.items() if name != HEAD}
        self.ray = f"{self.head.address}:6379"

    def start_head(self) -> None:
        """As cluster.yaml says, but for what `ray up` itself makes."""
        command = FILE["head_start_ray_commands"][-1]
        self.head.run(command.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", ""))

    def start_worker(self, name: str) -> None:
        """As cluster.yaml says; the launcher gives it the head's address."""
        command = FILE["worker_start_ray_commands"][-1]
        self.hosts[name].run(f"export RAY_HEAD_IP={self.head.address}; {command}")

    def store(self, line: str, host: str = HEAD, timeout_s: float = RUN_S) -> str:
        """What `dynamo-ray LINE` writes, on a host that is attached to nothing."""
        command = f"export RAY_ADDRESS={self.ray}; dynamo-ray {line}"
        return self.hosts[host].run(command, timeout_s)

    def status(self, host: str = HEAD) -> dict[str, Any]:
        """What the cluster says of itself."""
        # Its exit code says how the cluster is; here its words do.
        told = self.hosts[host].run("dynamo-ray status -c carts --json || true")
        found: dict[str, Any] = json.loads(told)
        return found

    def addresses_of_pool(self) -> list[str]:
        """Where coordinators answer, one for each."""
        pool = self.status()["coordinators"]
        return sorted(one["address"].split(":")[0] for one in pool if one["state"] == "up")

    def machines_in_ray(self) -> list[str]:
        """The names of the machines that Ray says are alive."""
        found: list[str] = json.loads(self.head.run(f"python -c '{ALIVE}'").splitlines()[-1])
        return found

    def states(self) -> dict[str, str]:
        """The state of each storage node, by its name."""
        return {node["name"]: node["state"] for node in self.status()["nodes"]}


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A short path: Ray's sockets are below it."""
    made = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def hosts_of() -> dict[str, str]:
    """The addresses of cluster.yaml by the names of its machines."""
    provider = FILE["provider"]
    workers = {f"m{i + 1}": address for i, address in enumerate(provider["worker_ips"])}
    return {HEAD: provider["head_ip"], **workers}


@contextmanager
def bare(folder: Path, extra: dict[str, str]) -> Iterator[Machines]:
    """The hosts, each with what somebody has put there by hand: its name, its zone."""
    with switched(folder, hosts_of() | extra) as hosts:
        found = Machines({name: host for name, host in hosts.items() if name not in extra})
        for name, host in hosts.items():
            host.run("mkdir -m 700 ~/.ray; mkdir /var/lib/dynamo_ray")
            (host.folder / "lib/dynamo_ray/machine").write_text(name + "\n")
        for zone, name in zip(ZONES, found.storage, strict=True):
            (hosts[name].folder / "lib/dynamo_ray/zone").write_text(zone + "\n")
        found.others = {name: hosts[name] for name in extra}
        yield found


@pytest.fixture(scope="module")
def machines(folder: Path) -> Iterator[Machines]:
    """Ray on all hosts, by the commands of cluster.yaml."""
    if lacks := missing():
        pytest.skip(f"this test needs {'; '.join(lacks)}")
    token = secrets.token_hex(32)
    with bare(folder / "a", {}) as found:
        for host in found.hosts.values():
            (host.folder / "home/.ray/auth_token").write_text(token)
        found.start_head()
        for name in found.storage:
            found.start_worker(name)
        yield found
