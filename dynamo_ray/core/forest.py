"""The Merkle trees of one node: which are kept, and how they are kept up to date (DESIGN rule 21).

    mint, merge, forget ─► mark (the message's keys, as they are) ─► sorted into stale buckets
    a comparison wants a tree ─► a pass: find the keys of its stale buckets, hash those ─► ready
    tick ─► so much more may be hashed; passes that were begun go on

To mark costs next to nothing: a message's columns are kept, and sorted some thousand keys at a
time. Hashing waits until somebody compares, so a bucket that is written a hundred times between two
comparisons is hashed once. Which keys are in a bucket is kept nowhere: a pass looks at all keys of
the partition, which takes less than hashing a thirtieth of them. It goes in slices, and a key that
changes meanwhile makes its bucket stale again. A partition that was never compared, or is empty,
has no tree and costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from zlib import crc32

from dynamo_ray.core.merkle import BUCKETS, WIDTH, Tree, bucket_of, entry
from dynamo_ray.core.version import HASH_BYTES

EFFORT_A_TICK = 10_000  # some microseconds each: a tenth of the loop's time while trees are hashed
EFFORT_AT_ONCE = 3000  # no hold of the loop over 5 ms
EFFORT_A_KEY = 5  # to hash a small state
BYTES_AN_EFFORT = 512  # to hash a large one
LOOKS_A_SLICE = 1000
EFFORT_A_SLICE = 300  # to look at so many keys, and what a pass takes besides
MARKS = 4096
READY_TICKS = 50


class Forest:
    """The trees of a node over its maps, by partition."""

    def __init__(self, maps: list[dict[bytes, bytes]]) -> None:
        self._maps = maps
        self._trees: dict[int, Tree] = {}
        self._marks: list[tuple[Sequence[int], Sequence[bytes]]] = []
        self._marked = 0
        self._passes: dict[int, Iterator[int]] = {}
        self._ready: dict[int, int] = {}
        self._effort = EFFORT_A_TICK
        self._ticks = 0

    def mark(self, partitions: Sequence[int], keys: Sequence[bytes]) -> None:
        """These keys' states have changed; the columns are kept for a while, as they are."""
        if self._trees:
            self._marks.append((partitions, keys))
            self._marked += len(keys)
            if self._marked >= MARKS:
                self._sort()

    def on_tick(self) -> None:
        """So much more may be hashed; go on with the pass that was begun first."""
        self._ticks += 1
        self._effort = EFFORT_A_TICK
        self._sort()
        partition = next(iter(self._passes), None)
        if partition is not None and self._advance(partition):
            self._ready[partition] = self._ticks

    def is_ready(self, partition: int) -> bool:
        """True if the tree shows all that was there when it was first asked for; else ask later.

        So it is up to date by now, or as it was when a pass that this had begun came to its end.
        """
        if self._ready.pop(partition, -READY_TICKS) + READY_TICKS > self._ticks:
            return True
        if partition not in self._passes:
            self._sort()
            if not self._maps[partition]:
                self._trees.pop(partition, None)
                return True
            tree = self._trees.setdefault(partition, Tree())
            if 1 not in tree.stale:
                return True
            self._passes[partition] = self._hash(partition, tree)
        return self._advance(partition)

    def is_exact(self, partition: int) -> bool:
        """True if the tree shows all that is there now; else it is being hashed, ask later."""
        self._sort()
        self._ready.pop(partition, None)
        if not self.is_ready(partition):
            return False
        tree = self._trees.get(partition)
        return partition not in self._passes and (tree is None or 1 not in tree.stale)

    def branches(self, partition: int) -> bytes:
        """The branches' digests as they were when the tree was last ready."""
        tree = self._trees.get(partition)
        return tree.branches if tree is not None else bytes(WIDTH)

    def buckets(self, partition: int, branch: int) -> bytes:
        """The digests of a branch's buckets, likewise."""
        tree = self._trees.get(partition)
        return tree.buckets(branch) if tree is not None else bytes(WIDTH)

    def keys_in(self, partition: int, buckets: Collection[int]) -> list[bytes]:
        """The keys that are in these buckets now."""
        wanted = set(buckets)
        return [key for key in self._maps[partition] if bucket_of(key) in wanted]

    def _sort(self) -> None:
        """From keys that were marked to stale buckets."""
        trees = self._trees
        for partitions, keys in self._marks:
            for partition, key in zip(partitions, keys, strict=True):
                if partition in trees:
                    trees[partition].stale[crc32(key) % BUCKETS] = 1  # bucket_of, for every put
        self._marks.clear()
        self._marked = 0

    def _advance(self, partition: int) -> bool:
        """Go on with a pass while there is effort left; True at its end."""
        until = max(0, self._effort - EFFORT_AT_ONCE)
        while self._effort > until:
            effort = next(self._passes[partition], None)
            if effort is None:
                del self._passes[partition]
                return True
            self._effort -= effort
        return False

    def _hash(self, partition: int, tree: Tree) -> Iterator[int]:
        """Hash the stale buckets anew; gives after each slice what it took."""
        of, taken = self._maps[partition], tree.take_stale()
        found: dict[int, list[bytes]] = {}
        keys = list(of)
        for at in range(0, len(keys), LOOKS_A_SLICE):
            some = keys[at : at + LOOKS_A_SLICE]
            for key in some:
                bucket = bucket_of(key)
                if taken[bucket]:
                    found.setdefault(bucket, []).append(key)
            yield EFFORT_A_SLICE
        digests: dict[int, bytes] = {}
        for bucket, there in found.items():
            hashed = None
            for key in sorted(there):
                state = of.get(key)
                if state is not None:
                    hashed = hashed or blake2b(digest_size=HASH_BYTES)
                    hashed.update(entry(key, state))
                    yield EFFORT_A_KEY + len(state) // BYTES_AN_EFFORT
            if hashed is not None:
                digests[bucket] = hashed.digest()
        tree.on_hashed(taken, digests)
