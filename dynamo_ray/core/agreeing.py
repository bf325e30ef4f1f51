"""Whether a node and who asks it mean the same by a request (DESIGN rule 16).

Every request carries an epoch, a digest of what its sender believes:

    of the partition's owners   what is asked about keys of one route
    of the whole ring           what may make owners forget (Confirm, Reap): all of it must be known
    OWNERS                      a copy that comes home: whoever owns it all may have it

Where they differ the request is refused, both show each other what they know, and it is judged
again under what both know then. So nothing is written or read at a node that gave it away, and
nothing is reaped while somebody does not know of a newcomer. `None` is for what a node asks itself
and for what hangs on no owner.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dynamo_ray.core.messages import Code, Fetch, Merge, Mint, Refused
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.upkeep import Confirm, Reap
from dynamo_ray.core.values import value

OWNERS = b""
OTHER_EPOCH = Refused(Code.OTHER_EPOCH, "the request was made under another ring")
CLOSED = Refused(Code.NOT_READY, "the partition is about to change hands; try another node")


@value
class Exchange:
    """Effect: show a node what is known here, and learn what it knows (rule 16)."""

    node: bytes


def epoch_for(ring: Ring, message: Any) -> bytes:
    """The epoch under which a node sends this to another node."""
    if isinstance(message, Confirm | Reap):
        return ring.epoch
    if isinstance(message, Merge) and message.durable:
        return OWNERS
    partition = message.partitions[0] if hasattr(message, "partitions") else message.partition
    return ring.epoch_of(partition)


def judge(
    ring: Ring, owned: frozenset[int], closed: frozenset[int], message: Any, epoch: bytes | None
) -> Refused | None:
    """Why a node may not do what it is asked, or None if it may.

    `owned` are its partitions, `closed` those that take no writes now.
    """
    if epoch is None:
        return None
    if isinstance(message, Mint | Merge | Fetch):
        partitions: Collection[int] = message.partitions
        if len(partitions) > 1:
            partitions = set(partitions)
        elif not closed and partitions and ring.epoch_of(message.partitions[0]) == epoch:
            return None  # nearly every request
    elif isinstance(message, Confirm | Reap):
        return None if epoch == ring.epoch else OTHER_EPOCH
    else:
        partitions = (message.partition,)
        if not _is_there(ring, message.partition):
            return None  # a client may ask for anything; core/compare.py says what there is
    if epoch == OWNERS and isinstance(message, Merge):
        if not owned.issuperset(partitions):
            return OTHER_EPOCH
    elif any(partition_epoch != epoch for partition_epoch in map(ring.epoch_of, partitions)):
        return OTHER_EPOCH
    if closed and isinstance(message, Mint | Merge) and not closed.isdisjoint(partitions):
        return CLOSED
    return None


def _is_there(ring: Ring, partition: Any) -> bool:
    return type(partition) is int and 0 <= partition < ring.partitions
