"""The safety nets of the test runs themselves: each is seen to catch what it is for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
# In this process, and as `make test` runs the tests that need no Ray.
HOW = pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "in workers"])


def run(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest on one made-up test file, with our conftest (less patient, to save time)."""
    impatient = CONFTEST.read_text("utf-8").replace("GRACE_S = 10.0", "GRACE_S = 0.3")
    (folder / "conftest.py").write_text(impatient, "utf-8")
    (folder / "test_made_up.py").write_text(textwrap.dedent(source), "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = ray\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=50)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@HOW
def test_what_is_left_behind_fails_the_run_and_is_killed(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    """A child, and a daemon that left the tree."""
    done = run(
        tmp_path,
        """
        import subprocess
        def test_leaves_a_child():
            child = subprocess.Popen(["sleep", "1000"])
            open("child", "w").write(str(child.pid))
        def test_leaves_a_daemon():
            subprocess.run("setsid sleep 1001 >/dev/null 2>&1 & echo $! >daemon", shell=True)
        """,
        *how,
    )
    assert done.returncode == 1, done.stdout
    assert "sleep 1000" in done.stdout and "sleep 1001" in done.stdout
    assert "2 passed, 1 error" in done.stdout
    assert not is_alive(int((tmp_path / "child").read_text()))
    assert not is_alive(int((tmp_path / "daemon").read_text()))


def test_what_a_worker_that_died_left_behind_is_found_and_killed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import os, subprocess
        def test_dies():
            child = subprocess.Popen(["sleep", "1003"])
            open("child", "w").write(str(child.pid))
            os._exit(1)
        def test_passes(): ...
        """,
        "-n",
        "2",
    )
    assert done.returncode == 1, done.stdout
    assert "sleep 1003" in done.stdout
    assert "1 failed, 1 passed, 1 error" in done.stdout
    assert not is_alive(int((tmp_path / "child").read_text()))


@HOW
def test_a_clean_run_passes_and_strangers_are_left_alone(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    """Nor is one worker a thing that another left behind, or that the tests did."""
    stranger = subprocess.Popen(["sleep", "1002"], env={"PATH": os.environ["PATH"]})
    try:
        started = time.monotonic()
        done = run(
            tmp_path,
            """
            import subprocess, time
            def test_cleans_up():
                subprocess.run(["true"])
                subprocess.Popen(["true"])  # ended, not reaped: nothing that runs
            def test_takes_longer_in_the_other_worker():
                time.sleep(0.7)
            """,
            *how,
        )
        assert done.returncode == 0, done.stdout
        assert stranger.poll() is None
        assert time.monotonic() - started < 30
    finally:
        stranger.kill()
        stranger.wait()


def test_real_actors_come_last(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import pytest
        @pytest.mark.ray
        def test_a(): ...
        def test_b(): ...
        """,
        "--collect-only",
        "-q",
    )
    assert done.stdout.index("test_b") < done.stdout.index("test_a")


def test_seeds_and_rewrite_are_options(tmp_path: Path) -> None:
    source = """
        def test_options(seeds, rewrite):
            assert (len(seeds), rewrite) == (7, True)
        """
    assert run(tmp_path, source, "--seeds", "7", "--rewrite").returncode == 0
    assert run(tmp_path, source).returncode == 1


@HOW
def test_a_test_that_hangs_fails_and_the_others_still_run(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    """Idle or busy, in asyncio's loop or in uvloop's, in a fixture's teardown, or in no loop."""
    done = run(
        tmp_path,
        """
        import asyncio, time
        import pytest, uvloop

        async def idle():
            await asyncio.Event().wait()

        async def busy():
            while True:
                time.sleep(0.01)
                await asyncio.sleep(0)

        @pytest.mark.parametrize("loop", [asyncio, uvloop])
        @pytest.mark.parametrize("hang", [idle, busy])
        def test_hangs(loop, hang):
            loop.run(hang())

        def test_hangs_without_a_loop():
            time.sleep(1000)

        @pytest.fixture
        def outer():
            yield
            open("outer", "w").close()

        @pytest.fixture
        def inner(outer):
            yield
            uvloop.run(idle())

        def test_hangs_in_teardown(inner): ...
        def test_does_not_hang(): ...
        """,
        "--timeout=0.3",
        "--timeout-method=signal",
        *how,
    )
    assert "5 failed, 2 passed, 1 error" in done.stdout, done.stdout
    assert done.stdout.count("Timeout (>0.3s)") >= 6
    assert (tmp_path / "outer").exists()
