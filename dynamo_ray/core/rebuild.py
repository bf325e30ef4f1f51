"""How a node that cannot prove its log complete becomes sure of its partitions again (rule 9).

    doubted ─► Ask an owner, page by page ─► Take (merge it) ─► the next owner ─► compared enough?
                  │ refused, silent, undone: the next owner;          └─► all fsynced ─► Prove
                  └─ nobody is left to ask: again after a pause

After a power loss below `synced`, a failed fsync, damage or a lost disk a node may have forgotten
what it acknowledged, so its copies do not count towards R. For each doubted partition it merges
what the other owners hold. Compared enough is either of two:

    N - W + 1 other owners that hold the partition complete. A write that W owners acknowledged,
        this one among them, cannot be missing at all of those.
    All other owners, in whatever state. What they do not hold either is nowhere: everything that
        can be known is known. So a cluster whose owners are all in doubt at once, as after a power
        loss of all, comes back by itself; until all are there it does not.

An owner that is in doubt itself proves nothing by what it does not hold: it may have lost the same
write. It is asked again later, when it may be sure. Stand-ins bring what they keep by themselves.
Nothing is proved by silence, and nothing is given up for good: each tick asks what should be true
now (rule 11). A few partitions are compared at a time, each with one page in flight.
"""

from __future__ import annotations

from collections import deque

from dynamo_ray.core.messages import Merge
from dynamo_ray.core.pages import leads_on
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.upkeep import Copied, Copy
from dynamo_ray.core.values import value

AT_ONCE = 8
PAUSE_S = 1.0
PROOF = -1  # in place of a partition: the merge of nothing that waits for an fsync of all before


@value
class Ask:
    """Effect: ask a node for a page; its end comes back as `on_page` or `on_failure`.

    Under this epoch: one that has given the partition away proves nothing (rule 16).
    """

    node: bytes
    message: Copy
    epoch: bytes


@value
class Take:
    """Effect: merge this here as if it had been sent; its end comes back as `on_taken`."""

    partition: int
    message: Merge


@value
class Prove:
    """Effect: note durably that these partitions are complete, then say `on_proved`."""

    partitions: frozenset[int]


Out = Ask | Take | Prove


class _Comparison:
    """One partition's: which owners were merged whole, and what is asked of whom now."""

    __slots__ = ("after", "complete", "is_last", "merged", "node", "tried", "until")

    def __init__(self) -> None:
        self.merged: dict[bytes, bool] = {}  # owner -> whether it held the partition complete
        self.tried: set[bytes] = set()
        self.until = 0.0
        self.node = b""
        self._restart()

    def begin(self, node: bytes) -> None:
        """Begin with a node, at its first key."""
        self.node = node
        self.tried.add(node)
        self._restart()

    def _restart(self) -> None:
        self.after = b""
        self.complete = True
        self.is_last = False


class Rebuild:
    """The machine of one node's doubts."""

    def __init__(self, me: bytes, ring: Ring, w: int) -> None:
        self._me = me
        self._ring = ring
        self._w = w
        self._comparisons: dict[int, _Comparison] = {}
        self._waiting: deque[int] = deque()
        self._asking = 0
        self._unreachable: frozenset[bytes] = frozenset()
        self._now = 0.0
        self._proving: frozenset[int] = frozenset()

    def on_tick(
        self,
        doubted: frozenset[int],
        owned: frozenset[int],
        unreachable: frozenset[bytes],
        now: float,
    ) -> list[Out]:
        """Ask what should be true; `now` is any clock in seconds that only rises."""
        self._now, self._unreachable = now, unreachable
        due = [p for p in sorted(doubted & owned) if self._is_due(p)]
        self._waiting = deque(due)
        out = self._compare_more()
        # What is not owned stays in doubt: it may be given to this node, or taken over by it.
        sure = frozenset(p for p in doubted & owned if self._is_enough(p))
        if sure and not self._proving:
            self._proving = sure
            out.append(Take(PROOF, Merge([], [], [], durable=True)))
        return out

    def on_ring(self, ring: Ring) -> None:
        """Partitions have other owners: theirs are compared with from the start."""
        before, self._ring = self._ring, ring
        for partition, current in list(self._comparisons.items()):
            if before.owners(partition) != ring.owners(partition):
                del self._comparisons[partition]
                self._asking -= bool(current.node)

    def on_page(self, node: bytes, asked: Copy, page: Copied) -> list[Out]:
        """A page came: merge it, then go on behind it."""
        partition, current = asked.partition, self._current(node, asked)
        if current is None:
            return []
        was_merged = node in current.merged
        fits = leads_on(asked.after, page.keys) and len(page.keys) == len(page.states)
        if not fits or (was_merged and not page.complete):
            return self._go_on(partition, current)
        current.complete = current.complete and page.complete
        current.is_last = len(page.keys) < page.size or not page.keys
        if not page.keys:
            return self.on_taken(partition, True)
        current.after = page.keys[-1]
        rows = [partition] * len(page.keys)
        return [Take(partition, Merge(page.keys, rows, page.states))]

    def on_failure(self, node: bytes, asked: Copy) -> list[Out]:
        """No page came: refused, lost, or silent for too long."""
        current = self._current(node, asked)
        return self._go_on(asked.partition, current) if current is not None else []

    def on_taken(self, partition: int, is_merged: bool) -> list[Out]:
        """What was to be merged is in the map and persisted as the level says, or was undone."""
        if partition == PROOF:
            return self._on_fsynced(is_merged)
        current = self._comparisons.get(partition)
        if current is None or not current.node:
            return []
        if is_merged and not current.is_last:
            return [self._ask(current.node, partition, current.after)]
        if is_merged:
            current.merged[current.node] = current.complete
        return self._go_on(partition, current)

    def on_proved(self) -> None:
        """It is noted, or could not be: what is doubted all the same is tried at a later tick."""
        for partition in self._proving:
            self._comparisons.pop(partition, None)
        self._proving = frozenset()

    def _on_fsynced(self, is_merged: bool) -> list[Out]:
        """All that was merged before the question is durable, or the log failed meanwhile."""
        if is_merged:
            return [Prove(self._proving)]
        self._proving = frozenset()
        return []

    def _current(self, node: bytes, asked: Copy) -> _Comparison | None:
        """The comparison that this answers; None if it is of an earlier question."""
        current = self._comparisons.get(asked.partition)
        is_it = current is not None and (current.node, current.after) == (node, asked.after)
        return current if is_it else None

    def _go_on(self, partition: int, current: _Comparison) -> list[Out]:
        """This owner is done with, well or badly: the next one, or other partitions' turn."""
        current.node = b""
        self._asking -= 1
        return self._begin(partition) + self._compare_more()

    def _compare_more(self) -> list[Out]:
        """Begin with as many partitions as may be compared at a time."""
        out: list[Out] = []
        while self._waiting and self._asking < AT_ONCE:
            out += self._begin(self._waiting.popleft())
        return out

    def _begin(self, partition: int) -> list[Out]:
        """Ask the next owner of this round, if there is one and it is of any use."""
        current = self._comparisons.setdefault(partition, _Comparison())
        if not self._is_enough(partition):
            for node in self._others(partition):
                is_sure = current.merged.get(node, False)
                if not is_sure and node not in current.tried and node not in self._unreachable:
                    current.begin(node)
                    self._asking += 1
                    return [self._ask(node, partition, b"")]
        current.tried.clear()
        current.until = self._now + PAUSE_S
        return []

    def _ask(self, node: bytes, partition: int, after: bytes) -> Ask:
        return Ask(node, Copy(partition, after), self._ring.epoch_of(partition))

    def _is_due(self, partition: int) -> bool:
        current = self._comparisons.get(partition)
        if current is None:
            return True
        return not current.node and current.until <= self._now and not self._is_enough(partition)

    def _is_enough(self, partition: int) -> bool:
        others = self._others(partition)
        current = self._comparisons.get(partition)
        merged = current.merged if current is not None else {}
        needed = len(others) + 1 - self._w + 1
        return sum(merged.values()) >= needed or merged.keys() >= set(others)

    def _others(self, partition: int) -> list[bytes]:
        return [node for node in self._ring.owners(partition) if node != self._me]
