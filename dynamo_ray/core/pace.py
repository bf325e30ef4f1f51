"""How background work yields to the foreground (DESIGN rule 21, Dynamo §6.5).

Work that can wait goes in slices, and rests after each. The rest is as long as it must be for three
bounds at once: so many bytes a second on average, a quarter of the time on a core (and with the
interpreter, which runs one thread at a time), half of the time with the disk or waiting for a core.
So where all is busy and a slice takes long, the rest is long, too.

What is asked of another node has an allowance instead: so many bytes a second, and a share of the
time for the answers to take. Where either node is busy they take long, and fewer are asked.
"""

from __future__ import annotations

from dynamo_ray.core.settings import MIB

BYTES_A_SECOND = 32 * MIB
RESTS_OF_A_CORE = 3.0
LONGEST_S = 1.0
REPAIR_SHARE = 0.25
TRANSFER_SHARE = 0.125
NEVER = -(1 << 62)


def rest_s(took_s: float, on_core_s: float, size: int) -> float:
    """How long to rest after a slice of `size` bytes; at most LONGEST_S.

    It took `took_s`, for `on_core_s` of which it ran.
    """
    rest = max(took_s, RESTS_OF_A_CORE * on_core_s, size / BYTES_A_SECOND - took_s)
    return min(LONGEST_S, rest)


class Allowance:
    """What the questions of one machine may use, by now; it grows with each tick."""

    def __init__(self, bytes_a_second: int, share: float) -> None:
        self._bytes_a_second = bytes_a_second
        self._ms_a_second = share * 1000
        self._bytes = 0.0
        self._ms = 0.0
        self._now_ms = NEVER

    def on_tick(self, now_ms: int) -> None:
        """So late it is; `now_ms` only rises. What was not used in a second is gone."""
        passed_s = min(1.0, (now_ms - self._now_ms) / 1000)
        self._bytes = min(self._bytes_a_second, self._bytes + self._bytes_a_second * passed_s)
        self._ms = min(self._ms_a_second, self._ms + self._ms_a_second * passed_s)
        self._now_ms = now_ms

    def spend(self, size: int, took_ms: int = 0) -> None:
        """So many bytes have moved, and an answer has taken so long."""
        self._bytes -= size
        self._ms -= min(took_ms, LONGEST_S * 1000)

    def is_enough(self, is_waited_for: bool) -> bool:
        """True if one more question may be asked; time is not spared where somebody waits."""
        return self._bytes > 0 and (is_waited_for or self._ms > 0)
