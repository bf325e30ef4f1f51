"""What a node answers to whoever compares copies with it: another owner, or an operator.

    Compare ─► the same root, or the branches      Descend ─► buckets      Enumerate ─► keys

The other side of core/sync.py. All of it only looks. Like every answer it waits for the log up to
what it shows (DESIGN rule 1). Clients may ask too, so what is asked is looked at first.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import Any

from dynamo_ray.core.merkle import BRANCHES, BUCKETS, root_of
from dynamo_ray.core.messages import Code, Effect, Refused, Reply
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.upkeep import (
    Compare,
    Compared,
    Descend,
    Descended,
    Enumerate,
    Enumerated,
)
from dynamo_ray.core.version import digest

PAGE_KEYS = 250
PAGE_HASHED = 1024 * 1024  # bytes of states that are hashed for a page: a millisecond or two
BAD = Refused(Code.BAD_REQUEST, "no such partition, or no such part of its tree")
NOT_HASHED = Refused(Code.NOT_READY, "the partition's tree is being hashed; ask again in a moment")

Question = Compare | Descend | Enumerate


def answer(replica: Replica, to: Any, message: Question) -> list[Effect]:
    """The answer to one step of a comparison."""
    if not can_be(message, len(replica.maps)):
        return [Reply(to, BAD)]
    if isinstance(message, Enumerate):
        return [_page(replica, to, message)]
    forest, partition = replica.forest, message.partition
    if isinstance(message, Descend):
        rows = [forest.buckets(partition, branch) for branch in message.branches]
        return [Reply(to, Descended(b"".join(rows)), replica.queue.last)]
    if not forest.is_ready(partition):
        return [Reply(to, NOT_HASHED)]
    branches = forest.branches(partition)
    is_same = root_of(branches) == message.root
    complete = partition in replica.owned and partition not in replica.doubted
    return [Reply(to, Compared(b"" if is_same else branches, complete), replica.queue.last)]


def _page(replica: Replica, to: Any, message: Enumerate) -> Reply:
    """A page bounded in keys and in bytes to hash, and at least one key."""
    held, after = replica.maps[message.partition], message.after
    there = replica.forest.keys_in(message.partition, message.buckets)
    keys = nsmallest(PAGE_KEYS + 1, (key for key in there if key > after))
    digests: list[bytes] = []
    sizes: list[int] = []
    hashed = 0
    for key in keys[:PAGE_KEYS]:
        if hashed > PAGE_HASHED:
            break
        hashed += len(held[key])
        digests.append(digest(held[key]))
        sizes.append(len(held[key]))
    last, keys = len(keys) == len(digests), keys[: len(digests)]
    page = Enumerated(keys, digests, sizes, last)
    return Reply(to, page, replica.queue.shown_at(keys))


def can_be(message: Question, partitions: int) -> bool:
    """True if it asks for what there is."""
    if not _is_below(message.partition, partitions):
        return False
    if isinstance(message, Descend):
        return _are_below(message.branches, BRANCHES)
    if isinstance(message, Enumerate):
        return _are_below(message.buckets, BUCKETS) and isinstance(message.after, bytes)
    return isinstance(message.root, bytes)


def _are_below(numbers: Any, end: int) -> bool:
    fits = isinstance(numbers, list | tuple) and len(numbers) <= end
    return fits and all(_is_below(number, end) for number in numbers)


def _is_below(number: Any, end: int) -> bool:
    return type(number) is int and 0 <= number < end
