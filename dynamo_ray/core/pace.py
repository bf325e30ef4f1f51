"""How background work yields to the foreground (DESIGN rule 21, Dynamo §6.5).

Work that can wait goes in slices, and rests after each. The rest is as long as it must be for three
bounds at once: so many bytes a second on average, a quarter of the time on a core (and with the
interpreter, which runs one thread at a time), half of the time with the disk or waiting for a core.
So where all is busy and a slice takes long, the rest is long, too.
"""

from __future__ import annotations

from dynamo_ray.core.settings import MIB

BYTES_A_SECOND = 32 * MIB
RESTS_OF_A_CORE = 3.0
LONGEST_S = 1.0


def rest_s(took_s: float, on_core_s: float, size: int) -> float:
    """How long to rest after a slice of `size` bytes; at most LONGEST_S.

    It took `took_s`, for `on_core_s` of which it ran.
    """
    rest = max(took_s, RESTS_OF_A_CORE * on_core_s, size / BYTES_A_SECOND - took_s)
    return min(LONGEST_S, rest)
