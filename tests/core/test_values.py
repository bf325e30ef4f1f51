"""Values are compared by kind and fields, and nobody may change one: mypy says so, not Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dynamo_ray.core.messages import Fetched, Minted, Refused
from dynamo_ray.core.values import value

ROOT = Path(__file__).resolve().parents[2]
CHANGED = """
from dynamo_ray.core.messages import Refused

refused = Refused(1, "why")
refused.code = 2
"""


@value
class Pair:
    left: int
    right: int = 0


def test_values_are_equal_by_kind_and_fields() -> None:
    assert Pair(1) == Pair(1, 0) != Pair(1, 1)
    assert hash(Pair(1)) == hash(Pair(1, 0))
    assert Fetched([None], True) != Minted([None], True)
    assert Refused(1).text == ""
    assert repr(Pair(1, 2)) == "Pair(left=1, right=2)"


def test_values_have_no_room_for_more() -> None:
    with pytest.raises(AttributeError):
        Pair(1).other = 2  # type: ignore[attr-defined]


def test_the_type_checker_refuses_to_change_one(tmp_path: Path) -> None:
    """Run where, and with the options with which, `make lint` is: what that knows is not redone."""
    changed = tmp_path / "changed.py"
    changed.write_text(CHANGED)
    told = subprocess.run(
        [sys.executable, "-m", "mypy", str(changed)],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 1, told.stdout + told.stderr
    assert 'Property "code" defined in "Refused" is read-only' in told.stdout
