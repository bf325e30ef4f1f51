"""The Merkle tree of a partition: equal roots mean equal keys with equal states (Dynamo §4.7).

    root ─── 32 branches ─── 32 buckets each ─── the keys whose hash falls there

A bucket's digest is over its keys, in order, each with the digest of its state: values by their
hash, purged or not (DESIGN rule 13). A branch's is over its buckets' digests, the root's over the
branches'. What is empty has the digest of zeros, so nothing need be kept for it. Digests lie one
after the other in two arrays, 17 KB a partition, whatever it holds.

A change of a key only marks its bucket stale; core/forest.py hashes stale buckets anew, later.

Laws: the same contents have the same root, in whatever order they came; other contents another.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from zlib import crc32

from dynamo_ray.core.version import HASH_BYTES, digest

BRANCHES = BUCKETS_A_BRANCH = 32
BUCKETS = BRANCHES * BUCKETS_A_BRANCH
NOTHING = bytes(HASH_BYTES)
WIDTH = BUCKETS_A_BRANCH * HASH_BYTES  # of a branch's buckets, and of all branches


class Tree:
    """One partition's digests, and which buckets' are stale. A new tree is stale all over."""

    __slots__ = ("_branches", "_buckets", "stale")

    def __init__(self) -> None:
        self.stale = bytearray(b"\1") * BUCKETS
        self._buckets = bytearray(BUCKETS * HASH_BYTES)
        self._branches = bytearray(WIDTH)

    def take_stale(self) -> bytearray:
        """Which buckets are stale, for whoever hashes them; marked anew they are stale again."""
        taken, self.stale = self.stale, bytearray(BUCKETS)
        return taken

    def on_hashed(self, taken: bytearray, digests: Mapping[int, bytes]) -> None:
        """The buckets that were taken have these digests now; the others of them are empty."""
        stale = [bucket for bucket, is_taken in enumerate(taken) if is_taken]
        for bucket in stale:
            at = bucket * HASH_BYTES
            self._buckets[at : at + HASH_BYTES] = digests.get(bucket, NOTHING)
        for branch in {bucket // BUCKETS_A_BRANCH for bucket in stale}:
            at = branch * HASH_BYTES
            self._branches[at : at + HASH_BYTES] = _digest_over(self.buckets(branch))

    def buckets(self, branch: int) -> bytes:
        """The digests of a branch's buckets, one after the other."""
        return bytes(self._buckets[branch * WIDTH : (branch + 1) * WIDTH])

    @property
    def branches(self) -> bytes:
        """The digests of all branches, one after the other."""
        return bytes(self._branches)


def bucket_of(key: bytes) -> int:
    """The bucket of a key: other bits than those that choose its partition."""
    return crc32(key) % BUCKETS


def entry(key: bytes, state: bytes) -> bytes:
    """What a bucket's digest is over, for each of its keys in order."""
    return len(key).to_bytes(4, "big") + key + digest(state)


def root_of(branches: bytes) -> bytes:
    """The root over all branches' digests."""
    return _digest_over(branches)


def differing(ours: bytes, theirs: bytes) -> list[int]:
    """Where two rows of digests differ; the second is as long as the first."""
    rows = range(len(ours) // HASH_BYTES)
    return [i for i in rows if _at(ours, i) != _at(theirs, i)]


def _at(row: bytes, i: int) -> bytes:
    return row[i * HASH_BYTES : (i + 1) * HASH_BYTES]


def _digest_over(row: bytes) -> bytes:
    return blake2b(row, digest_size=HASH_BYTES).digest() if any(row) else NOTHING
