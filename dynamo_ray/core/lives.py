"""Which dot a node mints next for a key (DESIGN rules 2 and 3).

A writer id is `node#incarnation.life`. Within a life the counters have no gap, so a node goes on
counting only in a life whose every event it still holds: it has held the key since that life began.
A key that is not held, and a key whose state came back with an own life that was let go in between
(reaped, handed home, moved away), begins a new life, numbered by a counter that only rises.
Otherwise a forgotten event would be numbered again, and a clock elsewhere that covers the number
would swallow the new version (the family of Riak's kv#679).
"""

from __future__ import annotations

from dynamo_ray.core.clock import LIFE_BYTES, Dot
from dynamo_ray.core.mint import own_dot


class Lives:
    """The lives of one incarnation of a node; without an incarnation it can mint nothing."""

    def __init__(self, node: bytes) -> None:
        self._node = node
        self._prefix = b""
        self._last = 0
        self._ended: set[bytes] = set()

    @property
    def prefix(self) -> bytes:
        """The first bytes of every writer id of this incarnation: node and incarnation."""
        return self._prefix

    @property
    def ended(self) -> set[bytes]:
        """The keys whose newest own life must not be resumed; for the lean paths."""
        return self._ended

    @property
    def begun(self) -> bool:
        """True while there is an incarnation."""
        return bool(self._prefix)

    def begin(self, incarnation: bytes) -> None:
        """A new incarnation, never used before and fsynced (rule 2)."""
        self._prefix = self._node + incarnation
        self._last = 0
        self._ended.clear()

    def end(self) -> None:
        """An append failed: nothing may be minted until the next incarnation."""
        self._prefix = b""

    def next_dot(self, key: bytes, held: bytes | None) -> Dot:
        """The next dot for `key`, whose state here is `held`."""
        last = own_dot(held, self._prefix) if held is not None else None
        if last is not None and key not in self._ended:
            return Dot(last.writer, last.counter + 1)
        return Dot(self._prefix + self.next_life(), 1)

    def next_life(self) -> bytes:
        """The number of a new life, as in a writer id."""
        self._last += 1
        return self._last.to_bytes(LIFE_BYTES, "big")

    def watch(self, key: bytes, before: bytes | None, after: bytes) -> None:
        """A merge made `before` into `after`: an own life that came with it is over."""
        if not self._prefix or self._prefix not in after:
            return
        mine = own_dot(before, self._prefix)
        newest = own_dot(after, self._prefix)
        if newest is not None and (mine is None or newest.writer != mine.writer):
            self._ended.add(key)

    def minted(self, key: bytes, dot: Dot, after: bytes, with_context: bool) -> None:
        """`dot` was used and made `after`; a context may have brought a newer own life with it."""
        newest = own_dot(after, self._prefix) if with_context else dot
        if newest is not None and newest.writer != dot.writer:
            self._ended.add(key)
        elif self._ended:
            self._ended.discard(key)

    def forget(self, key: bytes) -> None:
        """The key is not held any more; its next mint begins a new life anyway."""
        self._ended.discard(key)
