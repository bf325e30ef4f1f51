"""What all tests share: options, the profiles of hypothesis, one real Ray with one cluster in it,
and that no process is left behind.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from dynamo_ray import Cluster

# Assertions of the contract's clauses tell their values, as those in test files do.
pytest.register_assert_rewrite("tests.client.contract")
hypothesis.settings.register_profile("default", deadline=None, max_examples=100)
# The same examples in every run, so that a change is never blamed for what another run would find.
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dynamo_ray")
    group.addoption(
        "--rewrite",
        action="store_true",
        help="write what happened into the scenario files instead of comparing; review the diff",
    )
    group.addoption(
        "--seeds",
        type=int,
        default=int(os.environ.get("DYNAMO_RAY_SEEDS", "300")),
        help="how many seeds the simulator runs (default: DYNAMO_RAY_SEEDS, else 300)",
    )
    group.addoption(
        "--chaos-json",
        metavar="FILE",
        help="write what came out of the drills (tests/chaos) to this file, as JSON",
    )


@pytest.fixture(scope="session")
def rewrite(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("rewrite"))


@pytest.fixture(scope="session")
def seeds(pytestconfig: pytest.Config) -> range:
    return range(pytestconfig.getoption("seeds"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real actors last: most mistakes show before the first of them has started."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


# --- one real Ray -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of our own, to which this process is connected; its temporary directory.

    To start one takes seconds: share it. Ended by pid whatever happens.
    """
    from dynamo_ray.actors import local_ray

    before = dict(os.environ)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["DYNAMO_RAY_HOME"] = str(tmp_path_factory.mktemp("home"))
    local_ray.start_here()
    import ray

    temp_dir = ray._private.worker.global_worker.node.get_temp_dir_path()
    try:
        yield temp_dir
    finally:
        with suppress(RuntimeError, OSError):
            ray.shutdown()
        local_ray.end({"temp_dir": temp_dir})
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def real_cluster(ray_here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster `real` in it, for whoever breaks nothing for good."""
    import dynamo_ray
    from tests.client.contract import LIMITS

    folder = tmp_path_factory.mktemp("nodes") / "real"
    with dynamo_ray.start("real", nodes=5, data_dir=folder, limits=LIMITS) as started:
        yield started


# --- a test that hangs ------------------------------------------------------------------------

UNWIND_S = 30  # for what a test that ran out of time does while it unwinds


class TimeIsUp(pytest.fail.Exception, SystemExit):
    """A failure that gets out of an event loop.

    pytest-timeout raises a failure from the alarm. Inside a callback asyncio logs whatever is no
    SystemExit and carries on, uvloop does so even when idle: the test would hang for ever.
    """


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, Any, Any]:
    result = yield
    if settings.method == "signal":
        raises = signal.getsignal(signal.SIGALRM)

        def ring(number: int, frame: Any) -> None:
            signal.setitimer(signal.ITIMER_REAL, UNWIND_S)
            try:
                raises(number, frame)
            except pytest.fail.Exception as failure:
                raise TimeIsUp(failure.msg) from None

        signal.signal(signal.SIGALRM, ring)
    return result


# --- nothing is left behind ------------------------------------------------------------------

# What tests start inherits this variable, so that also a daemon is found that has left the tree. A
# run inside a run, as each worker of pytest-xdist is one, extends the mark: the inner run sees what
# is its own, the outer one also what an inner run left that died.
MARK = "DYNAMO_RAY_TEST_RUN"
GRACE_S = 10.0  # Ray needs some seconds to go after ray.shutdown()
PYTHON_OWNS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
LEFT_IN_WORKERS = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    os.environ[MARK] = f"{os.environ.get(MARK, '')}.{secrets.token_hex(8)}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Kills what tests left running, and counts it as an error of the run. Linux only."""
    left = _wait_for_the_last(os.environ.pop(MARK), GRACE_S) if MARK in os.environ else {}
    for pid in left:
        with suppress(ProcessLookupError):  # its parent was first
            os.kill(pid, signal.SIGKILL)
    lines = [f"{pid}: {command}" for pid, command in sorted(left.items())]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left behind"] = lines
    elif lines := session.config.stash.get(LEFT_IN_WORKERS, []) + lines:
        _report(session, lines)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker found at its end is told here, where somebody reads it."""
    lines = getattr(node, "workeroutput", {}).get("left behind", [])  # one that died says nothing
    node.config.stash.setdefault(LEFT_IN_WORKERS, []).extend(lines)


def _wait_for_the_last(mark: str, patience_s: float) -> dict[int, str]:
    until = time.monotonic() + patience_s
    while (left := _left_behind(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def _left_behind(mark: str) -> dict[int, str]:
    """Command lines by pid, of descendants and of whoever carries the mark.

    What is dead and only not yet reaped has no command line any more.
    """
    parents = dict(_parents())
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    ours |= {pid for pid in parents if f"\0{MARK}={mark}" in "\0" + _read(pid, "environ")}
    commands = {pid: _read(pid, "cmdline").replace("\0", " ").strip() for pid in ours}
    return {
        pid: command
        for pid, command in commands.items()
        if command and pid != os.getpid() and not any(name in command for name in PYTHON_OWNS)
    }


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").glob("[0-9]*"):
        _, _, fields = _read(int(entry.name), "stat").rpartition(")")  # a name may hold anything
        if fields:
            yield int(entry.name), int(fields.split()[1])


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text("utf-8", "replace")
    except OSError:  # it has just ended, or it is somebody else's
        return ""


def _report(session: pytest.Session, lines: list[str]) -> None:
    text = "these were still running after the last test, and have been killed:\n"
    report = pytest.TestReport(
        nodeid="nothing is left behind",
        location=("tests/conftest.py", None, "nothing is left behind"),
        keywords={},
        outcome="failed",
        longrepr=text + "\n".join(lines),
        when="teardown",
    )
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        terminal.stats.setdefault("error", []).append(report)
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
