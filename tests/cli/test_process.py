"""What a command loads, and how it behaves as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from tests.cli.conftest import IN_A_PROCESS, ROOT, Command
from tests.server.loopback import Threaded

# Slow to import; the last line of stderr says which of them a command has loaded.
WATCHED = """
import sys
sys.path.insert(0, {root!r})
from cli.main import run
try:
    run()
finally:
    slow = ("ray", "pyarrow", "rich", "numpy", "multiprocessing")
    print("loaded:", *(name for name in slow if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["get", "--help"], ["start", "--help"]])
def test_help_loads_nothing_that_is_slow(dr_in_a_process: Command, arguments: list[str]) -> None:
    begun = time.monotonic()
    done = dr_in_a_process(*arguments, code=WATCHED)
    assert done.code == 0 and done.err.endswith("loaded:\n")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["put", "p", "v"], 0),
        (["get", "p"], 0),
        (["get", "nothing"], 3),
        (["delete", "p"], 0),
        (["status"], 0),
        (["where", "p"], 0),
        (["ring"], 0),
        (["load", str(ROOT / "cli"), "--dry-run"], 0),
        (["dump", "-"], 0),
    ],
)
def test_no_command_that_reaches_a_cluster_by_its_profile_loads_ray(
    dr_in_a_process: Command, carts: Threaded, arguments: list[str], code: int
) -> None:
    if arguments[0] == "get" and code == 0:
        assert dr_in_a_process("put", "p", "v").code == 0
    # Ray would be asked first if it were: the profile is enough.
    done = dr_in_a_process(*arguments, code=WATCHED, RAY_ADDRESS="127.0.0.1:1")
    assert done.code == code, done.err
    assert done.err.endswith("loaded:\n")


def test_an_interrupt_is_130_without_a_traceback(carts: Threaded) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS.format(root=str(ROOT)), "status", "--watch", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores interrupts, and its children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith(b"loopback")
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130 and b"Traceback" not in err


def test_a_reader_that_goes_away_is_no_traceback(carts: Threaded) -> None:
    read, write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS.format(root=str(ROOT)), "ring", "--all"],
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    os.close(read)
    _, err = child.communicate(timeout=20)
    assert err == b"" and child.returncode in (0, 1)


def test_where_a_mistake_is_can_be_seen(dr_in_a_process: Command) -> None:
    done = dr_in_a_process("get", "k", DYNAMO_RAY_TRACEBACK="1")
    assert done.code == 7 and "Traceback" in done.err
