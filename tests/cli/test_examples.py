"""The examples run as they stand, and print what they promise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

PROMISED = {
    "01_quickstart.py": "many       332833500",
    "02_async.py": "5,000 visits",
    "03_conflicts.py": 'one again   : b\'{"book": 2, "chair": 1, "lamp": 1, "pen": 1}\'',
}


def test_none_is_forgotten() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} >= PROMISED.keys()


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PROMISED)
def test_an_example_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert PROMISED[name] in done.stdout.decode()
