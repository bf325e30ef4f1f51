"""A cluster on real Ray actors that may be hurt: started and ended by other processes and by pid.

The process of the tests is not attached to its Ray, so that nothing in it depends on Ray's parts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray import cluster as clusters
from dynamo_ray.actors import local_ray
from dynamo_ray.client import AsyncClient
from dynamo_ray.connecting import Way, credentials_of, open_async
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.kinds import COPY
from dynamo_ray.core.ring import partition_of
from dynamo_ray.errors import ClusterNotFoundError
from dynamo_ray.founding import _read
from dynamo_ray.server.embedded import embedded_channel
from dynamo_ray.session import Session
from dynamo_ray.survey import Status
from dynamo_ray.sweep import _page_of
from dynamo_ray.wire.errors import CallError, WireError
from dynamo_ray.wire.greeting import connect

ROOT = Path(__file__).resolve().parents[2]
# Of the members' code, where it is not installed.
PATH = os.pathsep.join([str(ROOT), str(ROOT / ".editable"), os.environ.get("PYTHONPATH", "")])
FOUND_S = 120.0
COMMAND = "from dynamo_ray_cli.main import run; run()"
PAGE_S = 5.0


def wait(condition: Callable[[], Any], timeout_s: float = 40.0, what: str = "it") -> Any:
    """What the condition gives once it gives something true; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.1)
    return found


class Hurt:
    """A running cluster, seen from outside Ray."""

    def __init__(self, name: str, folder: Path, ray: dict[str, Any], told: dict[str, Any]) -> None:
        self.name = name
        self.ray = ray
        self.addresses: list[str] = told["addresses"]
        self.token: str = told["token"]
        self.charter: Charter
        self.charter, self.secrets = _read(folder / clusters.CHARTER_FILE)
        self._ring = self.charter.ring()

    def status(self) -> Status:
        """How every member says it is."""
        return clusters.status(self.addresses, self.token)

    def is_whole(self) -> bool:
        """True if every member is up and no hint waits."""
        with suppress(ClusterNotFoundError):  # nobody answers
            status = self.status()
            return status.healthy and all(one["state"] == "up" for one in status.coordinators)
        return False

    def pids(self) -> dict[str, int]:
        """The pids of those members that answer, by name."""
        with suppress(ClusterNotFoundError):
            status = self.status()
            found = {node.name: node.pid for node in status.nodes if node.pid}
            pool = {one["name"]: one["pid"] for one in status.coordinators if one.get("pid")}
            return found | pool
        return {}

    def ports(self) -> set[int]:
        """Where members listen now; a coordinator that is started again listens elsewhere."""
        status = self.status()
        where = [node.address for node in status.nodes]
        where += [one["address"] for one in status.coordinators]
        return {int(one.rpartition(":")[2]) for one in where if one}

    # ---- what is done to it

    def signal(self, sign: signal.Signals, *names: str) -> dict[str, int]:
        """Send the members' processes a signal, one right after the other; their pids."""
        known = self.pids()
        pids = {name: known[name] for name in names}
        for pid in pids.values():
            os.kill(pid, sign)
        return pids

    def wait_until_back(self, killed: dict[str, int], timeout_s: float = 40.0) -> None:
        """Wait until Ray has started again whom it lost, and they answer."""

        def are_back() -> bool:
            now = self.pids()
            return all(now.get(name, pid) != pid for name, pid in killed.items())

        wait(are_back, timeout_s, what=f"the return of {', '.join(killed)}")

    def ray_pids(self, program: str) -> list[int]:
        """The processes of this Ray that run a program of Ray's (gcs_server, raylet)."""
        found = []
        for pid in sorted(local_ray._pids_of(self.ray["temp_dir"])):
            with suppress(OSError):
                first = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
                if Path(first).name == program:
                    found.append(pid)
        return found

    def command(self, home: Path, *words: str) -> str:
        """What `dynamo-ray` says on this cluster, as an operator gives it inside its Ray."""
        return _ran(
            [sys.executable, "-c", COMMAND, *words, "-c", self.name, "--yes"],
            self.ray,
            home,
        )

    # ---- clients

    async def client(self, **defaults: Any) -> AsyncClient:
        """A client by address."""
        settled = tuple(sorted(defaults.items()))
        return await open_async(
            Way(address=",".join(self.addresses), token=self.token, defaults=settled)
        )

    async def client_by_itself(self) -> AsyncClient:
        """A client with a coordinator of its own; like `connect(..., coordination="client")`."""
        asking = await self.client()
        channel = await embedded_channel(self.charter, self.secrets, asking.session.view)
        await asking.close(0)
        session = Session([], None, {"here": channel})
        await session.open(5.0)
        return AsyncClient(session).with_options(timeout_s=session.timeout_s)

    # ---- what nodes hold

    async def copies(self, keys: set[bytes]) -> dict[bytes, dict[str, bytes]]:
        """What each node that answers holds of each of the keys."""
        asking = await self.client()
        self._ring = asking.session.placement().ring
        facts = asking.session.view.nodes().values()
        try:
            told = await asyncio.gather(*(self._held(fact, keys) for fact in facts))
        finally:
            await asking.close(0)
        found: dict[bytes, dict[str, bytes]] = {key: {} for key in keys}
        for fact, held in zip(facts, told, strict=True):
            for key, state in held.items():
                found[key][fact.name] = state
        return found

    async def _held(self, fact: Any, keys: set[bytes]) -> dict[bytes, bytes]:
        held: dict[bytes, bytes] = {}
        with suppress(WireError, CallError):
            connection = await connect(fact.host, fact.port, credentials_of(self.token))
            try:
                for partition in {
                    partition_of(key, self.charter.settings.partitions) for key in keys
                }:
                    after, is_last = b"", False
                    while not is_last:
                        told = await connection.request(COPY, (partition, after), PAGE_S)
                        page = _page_of(*told, after)
                        if page is None:
                            break
                        rows = zip(page.keys, page.states, strict=True)
                        held |= {key: state for key, state in rows if key in keys}
                        is_last = page.last
                        after = page.keys[-1] if page.keys else after
            finally:
                connection.close()
        return held

    def owners(self, key: bytes) -> tuple[str, ...]:
        """The names of the key's owners, as `copies` last found who they are."""
        names = {member.node: member.name for member in self._ring.members}
        owners = self._ring.owners(partition_of(key, self._ring.partitions))
        return tuple(names[node] for node in owners)


def environment(ray: dict[str, Any], home: Path) -> dict[str, str]:
    """For a process that is to reach this Ray, and to know our code."""
    return {**local_ray._environment(ray), "DYNAMO_RAY_HOME": str(home), "PYTHONPATH": PATH}


@contextmanager
def hurt(folder: Path, name: str, second_raylet: bool = False) -> Iterator[Hurt]:
    """A cluster of five nodes and two coordinators in a Ray of its own; all ended by pid."""
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", PATH)
        ray = local_ray.launch()
    try:
        if second_raylet:
            _join(ray, home)
        options = json.dumps({"nodes": 5, "coordinators": 2, "partitions": 32})
        command = [
            "-m",
            "tests.chaos.founder",
            name,
            str(folder / "nodes"),
            ray["address"],
            options,
        ]
        done = _ran([sys.executable, *command], ray, home)
        started = Hurt(name, folder / "nodes", ray, json.loads(done.splitlines()[-1]))
        wait(started.is_whole, what="a whole cluster")
        yield started
    finally:
        begun = {pid: _started(pid) for pid in local_ray._pids_of(ray["temp_dir"])}
        local_ray.end(ray)
        for pid, at in begun.items():  # one that was stopped outlives its raylet
            if at and _started(pid) == at:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _started(pid: int) -> str:
    """When a process was started, so that its pid is not taken for another's; empty if it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    """The pid of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _join(ray: dict[str, Any], home: Path) -> None:
    """A second raylet on this machine: another Ray node."""
    ports = local_ray._free_ports(5)
    _ran(
        [
            str(Path(sys.executable).with_name("ray")),
            "start",
            f"--address={ray['address']}",
            "--node-ip-address=127.0.0.1",
            f"--node-manager-port={ports[0]}",
            f"--object-manager-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}",
            f"--dashboard-agent-grpc-port={ports[3]}",
            f"--runtime-env-agent-port={ports[4]}",
            f"--object-store-memory={local_ray.OBJECT_STORE_BYTES}",
            "--disable-usage-stats",
        ],
        ray,
        home,
    )


def _ran(command: list[str], ray: dict[str, Any], home: Path) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(ray, home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=FOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout
