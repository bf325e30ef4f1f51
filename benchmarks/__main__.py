"""`python -m benchmarks` (or `make bench`): the store beside its floor and its peers."""

from __future__ import annotations

import sys

from benchmarks import floor
from benchmarks.store import stores

if __name__ == "__main__":
    floor.main(sys.argv[1:], extra=stores())
