"""A Ray cluster on this machine: for one process (`start_here`), or outliving it (`launch`).

Everything gets its own short temporary directory and free ports, because other Ray clusters may run
on the same machine; and only what was begun here is ended, by pid.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynamo_ray.errors import UnavailableError

OBJECT_STORE_BYTES = 100 * 1024 * 1024
START_S = 90.0
END_S = 8.0

# A cluster must outlive its GCS for long, and learn of a dead process soon.
RAY_SETTINGS = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
    "RAY_health_check_timeout_ms": "600000",
    "RAY_timeout_ms_task_wait_for_death_info": "100",
    "RAY_core_worker_internal_heartbeat_ms": "100",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def start_here() -> None:
    """A local Ray that lives as long as this process is connected to it."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray  # not before: Ray reads its settings when it is loaded

    temp_dir = tempfile.mkdtemp(prefix="dr", dir="/tmp")
    atexit.register(_end_here, temp_dir)
    with own_handlers():
        ray.init(
            address="local",
            namespace="dynamo_ray",
            num_cpus=os.cpu_count() or 1,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=temp_dir,
        )


@contextmanager
def own_handlers() -> Iterator[None]:
    """Ray takes over SIGTERM when it starts; what this program does at a signal stays its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            if callable(handler):
                signal.signal(sign, handler)


def _end_here(temp_dir: str) -> None:
    import ray

    ray.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)


def launch() -> dict[str, Any]:
    """Start a Ray head that outlives this process; how to reach and to end it.

    The result holds `address`, `temp_dir`, `token_path` and `pids`, as plain values. Raises
    UnavailableError with Ray's own words if it does not start.
    """
    temp_dir = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))
    token_path = temp_dir / "token"
    descriptor = os.open(token_path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    ports = _free_ports(7)
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        f"--temp-dir={temp_dir}",
        "--node-ip-address=127.0.0.1",
        f"--port={ports[0]}",
        f"--dashboard-agent-listen-port={ports[2]}",
        f"--dashboard-agent-grpc-port={ports[3]}",
        f"--runtime-env-agent-port={ports[4]}",
        f"--node-manager-port={ports[5]}",
        f"--object-manager-port={ports[6]}",
        "--include-dashboard=false",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
    ]
    if find_spec("grpc") is not None:
        # With the extra `ray[client]` Ray starts a server for it, always at the same port.
        command.append(f"--ray-client-server-port={ports[1]}")
    begun = {"temp_dir": str(temp_dir), "token_path": str(token_path)}
    try:
        _run(command, begun)
    except BaseException:
        end(begun)
        raise
    # Ray may have taken the machine's own address instead of the loopback one: ask it.
    address = (temp_dir / "ray_current_cluster").read_text().strip()
    return {**begun, "address": address, "pids": sorted(_pids_of(begun["temp_dir"]))}


def _run(command: list[str], begun: dict[str, Any]) -> None:
    """Run `ray start`, in a session of its own: an interrupt here is not one for Ray."""
    try:
        done = subprocess.run(
            command,
            env=_environment(begun),
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(1, 0, f"Ray did not start within {START_S:g} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(1, 0, f"Ray did not start: {said[-1] if said else 'no reason'}")


def use(begun: dict[str, Any]) -> None:
    """Let this process reach the Ray that `launch` began: its address and token.

    Before Ray is imported: it reads whether to send a token when it is loaded.
    """
    os.environ.update(_settings_of(begun))


def end(begun: dict[str, Any]) -> None:
    """End exactly what `launch` began: its processes by pid, then its temporary directory."""
    temp_dir = begun["temp_dir"]
    _leave(begun.get("address"))
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in _pids_of(temp_dir):
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + END_S / 2
        while _pids_of(temp_dir) and time.monotonic() < deadline:
            time.sleep(0.05)
    shutil.rmtree(temp_dir, ignore_errors=True)


def _leave(address: str | None) -> None:
    """Leave the Ray that ends, or it would tell this program how its processes ended.

    Only that one: a program may have ended its own and be connected to another.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    if address == ray.get_runtime_context().gcs_address:
        ray.shutdown()


def _settings_of(begun: dict[str, Any]) -> dict[str, str]:
    settings = {
        **RAY_SETTINGS,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": begun["token_path"],
    }
    if "address" in begun:
        settings["RAY_ADDRESS"] = begun["address"]
    return settings


def _environment(begun: dict[str, Any]) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return {**clean, **_settings_of(begun), "RAY_TMPDIR": begun["temp_dir"]}


def _pids_of(temp_dir: str) -> set[int]:
    """The processes of the Ray whose temporary directory this is, and their children."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if stat[0] == "Z":
            continue
        parents[int(entry.name)] = int(stat[1])
        if temp_dir.encode() + b"/" in command or command.endswith(temp_dir.encode() + b"\0"):
            found.add(int(entry.name))
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found}
        grown = not children <= found
        found |= children
    return found


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, outside the range that Ray's workers use (10002 to 19999)."""
    held: list[socket.socket] = []
    ports: list[int] = []
    while len(ports) < count:
        one = socket.socket()
        one.bind(("127.0.0.1", 0))
        held.append(one)
        port = one.getsockname()[1]
        if not 10_000 <= port < 20_000:
            ports.append(port)
    for one in held:
        one.close()
    return ports
