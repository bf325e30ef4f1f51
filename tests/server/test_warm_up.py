"""A node loads what takes long before it serves, not at its first batch."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from dynamo_ray.storage.codec import warm_up
warm_up()
before = set(sys.modules)
import pyarrow as pa
pa.array([b"x"] * 100, pa.binary())
late = {name.partition(".")[0] for name in set(sys.modules) - before}
assert "pandas" not in late, late
"""


def test_the_first_batch_loads_nothing_large() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=50)
