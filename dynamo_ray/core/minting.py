"""Who is asked to mint a put: one candidate after another, two at once where the first is late.

next ─► at work ─► ended (minted, refused, failed)
          └─ late ──┘   as good as not asked, but for its answer, which may still be the first
"""

from __future__ import annotations

from dynamo_ray.core.routing import Route, minters


class Minting:
    """The candidates of one put, in the order of `routing.minters`."""

    __slots__ = ("_candidates", "_late", "_route", "_tried", "under_way")

    def __init__(self, route: Route, strict: bool, slow: frozenset[bytes]) -> None:
        self._route = route
        self._candidates = minters(route, strict, slow)
        self._tried = 0
        self._late: frozenset[bytes] = frozenset()
        self.under_way: tuple[bytes, ...] = ()

    @property
    def is_stuck(self) -> bool:
        """True if nobody is at work on it but those who are late."""
        return all(node in self._late for node in self.under_way)

    @property
    def has_another(self) -> bool:
        """True if there is one more healthy owner to ask."""
        if self._tried == len(self._candidates):
            return False
        node = self._candidates[self._tried]
        return node in self._route.owners and node not in self._route.suspected

    def next(self) -> bytes | None:
        """The next candidate, who is at work from now on; None if all were asked."""
        if self._tried == len(self._candidates):
            return None
        node = self._candidates[self._tried]
        self._tried += 1
        self.under_way += (node,)
        return node

    def on_end(self, node: bytes) -> bool:
        """A candidate is not at work any more; False if it was not."""
        was = node in self.under_way
        self.under_way = tuple(one for one in self.under_way if one != node)
        return was

    def on_parted(self, node: bytes) -> None:
        """A candidate is not asked after all: it will be the next again."""
        if self.on_end(node):
            self._candidates = (node, *self._candidates[self._tried :])
            self._tried = 0

    def on_late(self, node: bytes) -> bool:
        """A candidate takes unusually long; True if another healthy owner should be asked now."""
        if node not in self.under_way:
            return False
        self._late |= {node}
        return self.is_stuck and self.has_another
