"""Hosts on this machine: each with a network, a process table and a disk of its own.

    ┌ head ──────┐ ┌ m1 ────────┐ ┌ m2 ────────┐     a host is a set of Linux namespaces: its init
    │ 192.0.2.10 │ │ 192.0.2.11 │ │ 192.0.2.12 │     is the process 1 in it, and all in it ends with
    └─────┬──────┘ └─────┬──────┘ └─────┬──────┘     that; /tmp, the home and /var/lib are folders
          └── switch: a bridge in a network namespace of its own, from which nothing leads out;
              beside it another one, for hosts that are split from the rest; and between it and a
              host whose link is slow, another cable (cable.py)

So addresses and paths are those of a real host, as cluster.yaml has them, nothing reaches this
machine's own network, and what runs in a host cannot see, or end, a process elsewhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.cable import Quality

ROOT = Path(__file__).resolve().parents[2]
CABLE = str(Path(__file__).with_name("cable.py"))
HOME = str(Path.home())
# What a host shares with this machine though it lies in a folder that a host has for itself.
SHARED = [str(ROOT), sys.prefix, sys.base_prefix]
RUN_S = 120.0
# An sshd of a host's own: whoever has the key of `desk` may come in, as root.
SSHD = """
set -e
mkdir -p /run/sshd ~/.ssh
ssh-keygen -q -t ed25519 -N "" -f ~/.ssh/host_key
cat > ~/.ssh/sshd_config <<END
ListenAddress {address}
HostKey ~/.ssh/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PrintMotd no
END
sed -i "s#~#$HOME#" ~/.ssh/sshd_config
/usr/sbin/sshd -f ~/.ssh/sshd_config -E ~/.ssh/log
"""
SETUP = """
set -e
hostname "$1"; folder="$2"; home="$3"; shift 3
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/tmp /mnt/home /mnt/lib
for own in tmp home lib; do mount --bind "$folder/$own" /mnt/$own; done
i=0; for kept in "$@"; do i=$((i + 1)); mkdir /mnt/$i; mount --bind "$kept" /mnt/$i; done
mount --bind /mnt/tmp /tmp
mount --bind /mnt/home "$home"
mount --bind /mnt/lib /var/lib
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
i=0; for kept in "$@"; do i=$((i + 1)); mkdir -p "$kept"; mount --bind /mnt/$i "$kept"; done
echo ready
cd /
while :; do sleep 86400 & wait; done
"""
PROFILE = f"""
export PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONPATH={ROOT}:{ROOT / ".editable"}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
"""


NEEDED = {"ip": "iproute2", "unshare": "util-linux"}
SSH_NEEDED = {"ssh": "openssh-client", "/usr/sbin/sshd": "openssh-server", "rsync": "rsync"}


def missing(programs: dict[str, str] = NEEDED) -> list[str]:
    """What hosts need and this machine does not have, in words; empty if they can be tried.

    `programs` are those that are needed, with the package of each.
    """
    found = []
    if sys.platform != "linux":
        return ["Linux, for namespaces"]
    if os.geteuid() != 0:
        found.append("root, to make namespaces (sudo make cluster-test)")
    for program, package in programs.items():
        if shutil.which(program) is None:
            found.append(f"the program {program} (package {package})")
    if not found:
        done = subprocess.run(
            ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "true"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            found.append(f"the right to make namespaces ({done.stderr.strip()})")
    return found


class Host:
    """One host; `pid` is that of its process 1."""

    def __init__(self, name: str, address: str, folder: Path, switch: int) -> None:
        self.name, self.address, self.folder, self.switch = name, address, folder, switch
        for own in ("tmp", "home", "lib"):
            (folder / own).mkdir(parents=True, exist_ok=True)
        (folder / "tmp").chmod(0o1777)
        for script in (".profile", ".bashrc"):
            (folder / "home" / script).write_text(PROFILE)
        self.pid = 0
        self.power_on()

    def power_on(self) -> None:
        """Begin the host, and plug it in; its folders are as they were."""
        apart = ["--net", "--pid", "--mount", "--uts", "--mount-proc", "--fork", "--kill-child"]
        given = [self.name, str(self.folder), HOME, *SHARED]
        self.process = subprocess.Popen(
            ["unshare", *apart, "bash", "-c", SETUP, "init", *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", f"host {self.name} did not begin"
        self.pid = _child(self.process.pid)
        wire = ["type", "veth", "peer", "name", "eth0", "netns", str(self.pid)]
        self._link("add", "name", self.name, *wire)
        self._wire("master", "switch", "up")
        # The route leads nowhere; by it a program finds its own address, as Ray does.
        for what in (
            f"addr add {self.address}/24 dev eth0",
            "link set lo up",
            "link set eth0 up",
            "route add default dev eth0",
        ):
            self.run(f"ip {what}")

    def command(self, line: str) -> list[str]:
        """The words that run a line in the host, as a login shell does."""
        inside = ["nsenter", "-t", str(self.pid), "--net", "--pid", "--mount", "--uts"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON"))}
        env = [f"{name}={value}" for name, value in {**kept, "HOME": HOME}.items()]
        return [*inside, "env", "-i", *env, "bash", "--login", "-c", line]

    def run(self, line: str, timeout_s: float = RUN_S) -> str:
        """Run a line of shell in the host; what it wrote. Fails where it fails."""
        return _ran(self.command(line), timeout_s)

    def begin_sshd(self, public_key: str) -> None:
        """Let in whoever has the key."""
        self.run(SSHD.format(address=self.address))
        keys = self.folder / "home/.ssh/authorized_keys"
        keys.write_text(public_key)
        keys.chmod(0o600)

    def refused(self, line: str, timeout_s: float = RUN_S) -> str:
        """Run a line that has to fail; what it said."""
        done = _done(self.command(line), timeout_s)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def pids(self) -> list[int]:
        """What runs in the host, without its process 1."""
        table = os.readlink(f"/proc/{self.pid}/ns/pid")
        assert table != os.readlink("/proc/self/ns/pid")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(entry / "ns" / "pid") == table:
                    found.append(int(entry.name))
        return sorted(set(found) - {self.pid})

    def crash(self) -> None:
        """Kill all that runs in the host; its kernel goes on, and says that nobody listens."""
        while left := self.pids_running():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def pids_running(self) -> list[int]:
        """As `pids`, without init's own sleep and what is dead already."""
        return [pid for pid in self.pids() if _command(pid) not in ("", "sleep")]

    def unplug(self) -> None:
        """Nothing gets out of the host or into it, and nobody is told."""
        self._wire("down")

    def plug(self) -> None:
        """It is reached again."""
        self._wire("up")

    def split_off(self) -> None:
        """It is reached only by those that are split off, too."""
        self._wire("master", "beside")

    def rejoin(self) -> None:
        """It is with the rest again."""
        self._wire("master", "switch")

    @contextmanager
    def slow(self, quality: Quality) -> Iterator[None]:
        """Its link is of that quality meanwhile; addresses and connections stay."""
        side, ends = f"{self.name}-side", (f"{self.name}-near", f"{self.name}-far")
        cable = subprocess.Popen(
            [*self._switch(), sys.executable, CABLE, *ends, *map(str, quality)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert cable.stdout is not None
            assert cable.stdout.readline() == b"ready\n"
            self._link("add", side, "type", "bridge")
            self._link("set", side, "up")
            for end, bridge in zip(ends, (side, "switch"), strict=True):
                self._link("set", end, "master", bridge, "up")
            self._wire("master", side)
            yield
            self.rejoin()
            self._link("del", side)
        finally:
            cable.communicate()

    def _wire(self, *state: str) -> None:
        self._link("set", self.name, *state)

    def _link(self, *words: str) -> None:
        _ran([*self._switch(), "ip", "link", *words])

    def _switch(self) -> list[str]:
        return ["nsenter", "-t", str(self.switch), "-n"]

    def power_off(self) -> None:
        """All of it ends at once, its network first: nobody is told."""
        if self.process.poll() is None:
            _done([*self._switch(), "ip", "link", "del", self.name], RUN_S)
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.process.wait(20)
        if self.process.stdout:
            self.process.stdout.close()


@contextmanager
def switched(folder: Path, addresses: dict[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts of these names and addresses, joined by a switch; all gone in the end."""
    switch = subprocess.Popen(
        ["unshare", "--net", "--fork", "--kill-child", "sleep", "86400"], stderr=subprocess.DEVNULL
    )
    hosts: dict[str, Host] = {}
    try:
        while not (inner := _child(switch.pid)) or _command(inner) != "sleep":
            time.sleep(0.02)
        inside = ["nsenter", "-t", str(inner), "-n", "ip", "link"]
        for bridge in ("switch", "beside"):
            _ran([*inside, "add", bridge, "type", "bridge"])
            _ran([*inside, "set", bridge, "up"])
        for name, address in addresses.items():
            hosts[name] = Host(name, address, folder / name, inner)
        yield hosts
    finally:
        for host in hosts.values():
            host.power_off()
        if inner := _child(switch.pid):
            os.kill(inner, signal.SIGKILL)
        switch.kill()
        switch.wait(20)


def _child(pid: int) -> int:
    """The one child of a process; 0 if there is none."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(found[0]) if found else 0


def _command(pid: int) -> str:
    """The name of a running process's program; empty if it is dead."""
    try:
        return Path(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()).name
    except OSError:
        return ""


def _done(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _ran(command: list[str], timeout_s: float = RUN_S) -> str:
    done = _done(command, timeout_s)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout
