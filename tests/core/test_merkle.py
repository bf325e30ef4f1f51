"""The laws of the tree: roots say whether contents are the same, however they came about."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.forest import Forest
from dynamo_ray.core.merkle import (
    BRANCHES,
    BUCKETS,
    BUCKETS_A_BRANCH,
    NOTHING,
    WIDTH,
    Tree,
    bucket_of,
    differing,
    root_of,
)
from dynamo_ray.core.version import digest, hide_expired
from tests.core.histories import dot, state, version

KEYS = [b"k%d" % i for i in range(40)]
STATES = [state(version(dot("a", n), value)) for n, value in ((1, b"v"), (1, b"w"), (2, None))]
CONTENTS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(STATES))
CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([*STATES, None])), max_size=60)


def root(forest: Forest, partition: int = 0) -> bytes:
    """The root once the tree is up to date."""
    while not forest.is_ready(partition):
        forest.on_tick()
    return root_of(forest.branches(partition))


def from_scratch(held: Mapping[bytes, bytes]) -> bytes:
    """The dumb twin: the same tree, written down at once as the docstring says."""

    def over(row: bytes) -> bytes:
        return blake2b(row, digest_size=16).digest() if any(row) else NOTHING

    rows = []
    for bucket in range(BUCKETS):
        keys = sorted(key for key in held if bucket_of(key) == bucket)
        parts = [len(key).to_bytes(4, "big") + key + digest(held[key]) for key in keys]
        rows.append(blake2b(b"".join(parts), digest_size=16).digest() if keys else NOTHING)
    step = BUCKETS_A_BRANCH
    branches = [over(b"".join(rows[i : i + step])) for i in range(0, BUCKETS, step)]
    return over(b"".join(branches))


@given(CONTENTS, CONTENTS)
def test_roots_are_equal_exactly_for_equal_contents(
    one: dict[bytes, bytes], other: dict[bytes, bytes]
) -> None:
    assert (root(Forest([one])) == root(Forest([other]))) == (one == other)


@given(CONTENTS, CHANGES, st.integers(1, 5))
def test_incremental_equals_from_scratch_and_hangs_on_no_order(
    held: dict[bytes, bytes], changes: list[tuple[bytes, bytes | None]], often: int
) -> None:
    forest = Forest([held])
    root(forest)
    for i, (key, new) in enumerate(changes):
        if new is None:
            held.pop(key, None)
        else:
            held[key] = new
        forest.mark([0], [key])
        if i % often == 0:
            assert root(forest) == from_scratch(held)
    assert root(forest) == from_scratch(held)
    backwards = dict(reversed(held.items()))
    assert root(Forest([backwards])) == from_scratch(held)


def test_a_value_whose_bytes_were_purged_is_the_same_and_another_value_is_not() -> None:
    expiring = state(version(dot("a", 1), b"v" * 50)._replace(expiry_ms=5))
    other = state(version(dot("a", 1), b"w" * 50)._replace(expiry_ms=5))
    purged = hide_expired(expiring, 10)
    assert len(purged) < len(expiring)
    assert root(Forest([{b"k": expiring}])) == root(Forest([{b"k": purged}]))
    assert root(Forest([{b"k": expiring}])) != root(Forest([{b"k": other}]))


def test_what_is_empty_has_the_digest_of_zeros() -> None:
    assert root(Forest([{}])) == NOTHING == root_of(bytes(WIDTH))
    held = {b"k": STATES[0]}
    forest = Forest([held])
    assert root(forest) != NOTHING
    del held[b"k"]
    forest.mark([0], [b"k"])
    assert root(forest) == NOTHING


def test_a_walk_down_finds_the_bucket_that_differs() -> None:
    one, other = Tree(), Tree()
    one.on_hashed(bytearray(b"\1") * BUCKETS, {5: b"x" * 16, 700: b"y" * 16})
    other.on_hashed(bytearray(b"\1") * BUCKETS, {5: b"x" * 16, 700: b"z" * 16})
    assert differing(one.branches, other.branches) == [700 // BUCKETS_A_BRANCH]
    branch = 700 // BUCKETS_A_BRANCH
    assert differing(one.buckets(branch), other.buckets(branch)) == [700 % BUCKETS_A_BRANCH]
    assert len(one.branches) == len(one.buckets(0)) == WIDTH == BRANCHES * 16


def test_keys_spread_over_the_buckets() -> None:
    counts = [0] * BUCKETS
    for i in range(20_000):
        counts[bucket_of(b"user:%09d" % i)] += 1
    assert max(counts) < 3 * 20_000 / BUCKETS
