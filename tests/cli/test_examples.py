"""The examples run as they stand, and print what they promise."""

from __future__ import annotations

import runpy

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
def test_an_example_runs(name: str, ray_here: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the Ray that is here; that one is begun where there is none, tests/test_docs.py shows."""
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert PROMISED[name] in capsys.readouterr().out
