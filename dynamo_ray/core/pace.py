"""How background work yields to the foreground (DESIGN rule 21, Dynamo §6.5).

Work that can wait goes in slices, and rests after each. The rest is as long as it must be for two
bounds at once: so many bytes a second on average, and so small a share of the time. The second one
matters where a slice is slow: on a busy machine the work takes longer, so it rests longer, and
whoever waits for a disk, a core or the interpreter finds them free most of the time.
"""

from __future__ import annotations

from dynamo_ray.core.settings import MIB

BYTES_A_SECOND = 32 * MIB
RESTS = 3.0
LONGEST_S = 1.0


def rest_s(worked_s: float, size: int) -> float:
    """How long to rest after a slice of `size` bytes that took `worked_s`; at most LONGEST_S."""
    return min(LONGEST_S, max(worked_s * RESTS, size / BYTES_A_SECOND - worked_s))
