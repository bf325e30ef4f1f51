"""Which partition is compared with which other owner next (Dynamo §4.7; DESIGN rules 11 and 21).

    every tick, per other owner:   asked for by command?                     at once
                                   failed a while ago?                       again
                                   last compared before it was last away?    soon after it is back
                                   last compared longer than repair_s ago?   its turn

Of two owners the one that comes first in the ring leads: it compares every `repair_s`. When one was
away, whoever saw that compares, so that nothing hangs on who was cut off and who was not. What is
kept is when each comparison that succeeded last began; it is gone at a restart, and then all that
this node leads is due. Per other owner the partitions stand in the order of their turns, so asking
who is next looks at a few of them only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dynamo_ray.core.pace import NEVER
from dynamo_ray.core.ring import Ring

QUIET_S = 2.0  # after it came back, before it is compared with: its hints go home meanwhile
AGAIN_S = 10.0


class Turn(NamedTuple):
    """One partition to compare with one other owner; `leads` as above, `demanded` by command."""

    partition: int
    node: bytes
    leads: bool
    demanded: bool


class _Other:
    """What is due with one other owner: (partition, when it was last compared), by turns."""

    __slots__ = ("again", "away_ms", "demanded", "follows", "leads", "reachable")

    def __init__(self, now_ms: int) -> None:
        self.leads: deque[tuple[int, int]] = deque()
        self.follows: deque[tuple[int, int]] = deque()
        self.again: deque[tuple[int, int, bool]] = deque()  # partition, when, leads
        self.demanded: dict[int, None] = {}
        self.away_ms = now_ms
        self.reachable = False

    def take_out(self, partitions: Collection[int]) -> list[tuple[int, int]]:
        """What was due of these partitions, and is no more."""
        out = [turn for turn in (*self.leads, *self.follows) if turn[0] in partitions]
        if out:
            self.leads = deque(turn for turn in self.leads if turn[0] not in partitions)
            self.follows = deque(turn for turn in self.follows if turn[0] not in partitions)
        for partition in partitions:
            self.demanded.pop(partition, None)
        return out

    def in_order(self) -> _Other:
        """Itself: who was compared with longest ago comes first."""
        self.leads = deque(sorted(self.leads, key=_when))
        self.follows = deque(sorted(self.follows, key=_when))
        return self


class Rounds:
    """The turns of one node. Times are its monotonic clock in ms."""

    def __init__(self, me: bytes, ring: Ring, repair_s: float) -> None:
        self._repair_ms = int(repair_s * 1000)
        self._quiet_ms = int(min(QUIET_S, repair_s / 10) * 1000)
        self._again_ms = int(min(AGAIN_S, repair_s / 10) * 1000)
        self._me = me
        self._ring: Ring | None = None
        self._others: dict[bytes, _Other] = {}
        self._taken: set[Turn] = set()
        self._now_ms = NEVER
        self.failed = 0
        """How many demanded comparisons came to nothing."""
        self.on_ring(ring)

    def on_ring(self, ring: Ring) -> None:
        """Partitions have other owners: what these two still share keeps its turn.

        A comparison that is under way ends here; if it was demanded it is due again. Only what has
        changed is looked at: while a node joins that is one partition at a time.
        """
        before, self._ring = self._ring, ring
        anew = {turn.partition for turn in self._taken}
        anew.update(at for other in self._others.values() for at, _, _ in other.again)
        anew.update(
            at
            for at in range(ring.partitions)
            if before is None or before.owners(at) != ring.owners(at)
        )
        demanded = {(turn.partition, turn.node) for turn in self._taken if turn.demanded}
        self._taken.clear()
        begun: dict[tuple[int, bytes], int] = {}
        for node, other in self._others.items():
            other.again.clear()
            demanded.update((at, node) for at in anew & other.demanded.keys())
            begun |= {(at, node): when for at, when in other.take_out(anew)}
        for partition in sorted(anew):
            self._place(partition, ring.owners(partition), begun, demanded)
        self._others = {
            node: other.in_order()
            for node, other in self._others.items()
            if other.leads or other.follows
        }

    def _place(
        self,
        partition: int,
        owners: Sequence[bytes],
        begun: Mapping[tuple[int, bytes], int],
        demanded: Collection[tuple[int, bytes]],
    ) -> None:
        """The turns of one partition, with each of its other owners, if this node is one."""
        mine = owners.index(self._me) if self._me in owners else len(owners)
        for place, node in enumerate(owners):
            if mine in (place, len(owners)):
                continue
            if node not in self._others:
                self._others[node] = _Other(self._now_ms)
            other, leads = self._others[node], mine < place
            at = begun.get((partition, node), NEVER if leads else self._now_ms)
            (other.leads if leads else other.follows).append((partition, at))
            if leads and (partition, node) in demanded:
                other.demanded[partition] = None

    @property
    def demanded(self) -> int:
        """How many comparisons that were asked for by command are left."""
        return sum(len(other.demanded) for other in self._others.values())

    @property
    def is_waited_for(self) -> bool:
        """True while something that was asked for by command is not done."""
        queued = any(other.demanded for other in self._others.values())
        return queued or any(turn.demanded for turn in self._taken)

    def status(self) -> dict[str, Any]:
        """How it stands, for people. `round_s`: all was compared within so long."""
        oldest_ms = self.oldest_ms
        running = sum(turn.demanded for turn in self._taken)
        return {
            "round_s": None if oldest_ms == NEVER else round((self._now_ms - oldest_ms) / 1000, 1),
            "demanded": self.demanded + running,
            "failed": self.failed,
        }

    @property
    def oldest_ms(self) -> int:
        """Since then every comparison that this node leads was begun, and succeeded, once."""
        oldest = self._now_ms
        for other in self._others.values():
            if any(leads for _, _, leads in other.again):
                return NEVER
            if other.leads:
                oldest = min(oldest, other.leads[0][1])
        return oldest

    def on_tick(self, now_ms: int, unreachable: frozenset[bytes]) -> None:
        """Note who is away now, and what time it is."""
        for node, other in self._others.items():
            other.reachable = node not in unreachable
            if self._now_ms == NEVER:
                other.away_ms = now_ms - 1
                other.follows = deque((partition, now_ms) for partition, _ in other.follows)
            if not other.reachable:
                other.away_ms = now_ms
                self.failed += len(other.demanded)
                other.demanded.clear()
        self._now_ms = now_ms

    def on_demand(self, partitions: Iterable[int], unreachable: frozenset[bytes]) -> list[bytes]:
        """Compare these at once, as far as this node leads; who of the others is left out."""
        wanted = set(partitions)
        away = []
        for node, other in self._others.items():
            led = [p for p, _ in other.leads] + [p for p, _, leads in other.again if leads]
            mine = sorted(wanted.intersection(led))
            if node not in unreachable:
                other.demanded.update(dict.fromkeys(mine))
            elif mine:
                away.append(node)
        return away

    def next(self) -> Turn | None:
        """The turn that is due, taken out of its place; `on_end` gives it one again."""
        for node, other in self._others.items():
            if other.reachable and other.demanded:
                partition = next(iter(other.demanded))
                del other.demanded[partition]
                return self._take(Turn(partition, node, True, True))
        for node, other in self._others.items():
            if other.reachable and other.away_ms + self._quiet_ms <= self._now_ms:
                due = self._due(other)
                if due is not None:
                    # Whoever had a turn goes to the end, so that no other owner waits for ever.
                    self._others[node] = self._others.pop(node)
                    return self._take(Turn(due[0], node, due[1], False))
        return None

    def _take(self, turn: Turn) -> Turn:
        self._taken.add(turn)
        return turn

    def on_end(self, turn: Turn, began_ms: int, is_done: bool) -> None:
        """A comparison has ended: it succeeded, or must be tried again in a while."""
        if turn not in self._taken:
            return  # the ring has changed meanwhile, and everything has its turn anew
        self._taken.remove(turn)
        other = self._others[turn.node]
        if turn.demanded:
            self.failed += not is_done
        elif is_done:
            (other.leads if turn.leads else other.follows).append((turn.partition, began_ms))
        else:
            other.again.append((turn.partition, self._now_ms + self._again_ms, turn.leads))

    def _due(self, other: _Other) -> tuple[int, bool] | None:
        """A partition that is due, and whether this node leads."""
        if other.again and other.again[0][1] <= self._now_ms:
            partition, _, leads = other.again.popleft()
            return partition, leads
        turn_ms = max(self._now_ms - self._repair_ms, other.away_ms)
        if other.leads and other.leads[0][1] <= turn_ms:
            return other.leads.popleft()[0], True
        if other.follows and other.follows[0][1] <= other.away_ms:
            return other.follows.popleft()[0], False
        return None


def _when(turn: tuple[int, int]) -> int:
    return turn[1]
