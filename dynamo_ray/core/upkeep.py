"""What storage nodes ask each other beside the data path, to keep what they hold in order.

Confirm, Reap      before anything is let go of (core/reap.py)    answered Confirmed, Merged
Copy, Scan         a page of a partition (core/pages.py)          answered Copied, Scanned
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from dynamo_ray.core.values import value


@value
class Confirm:
    """Do you hold exactly these states, by digest, fsynced? Or, if you own none, nothing at all?"""

    KIND: ClassVar[int] = 13
    keys: Sequence[bytes]
    partitions: Sequence[int]
    digests: Sequence[bytes]


@value
class Reap:
    """Where a key's digest is unchanged let go of it, or of these writers in its clock (rule 12).

    `writers`: None for the whole key, or concatenated writer ids.
    """

    KIND: ClassVar[int] = 14
    keys: Sequence[bytes]
    partitions: Sequence[int]
    digests: Sequence[bytes]
    writers: Sequence[bytes | None]


@value
class Copy:
    """Send a page of a partition: what is held of the keys after `after`, in their order."""

    KIND: ClassVar[int] = 38
    partition: int
    after: bytes


@value
class Scan:
    """As Copy, without the states."""

    KIND: ClassVar[int] = 36
    partition: int
    after: bytes


@value
class Confirmed:
    """Per key of a Confirm the answer, and what made it true is fsynced."""

    KIND: ClassVar[int] = 24
    same: Sequence[bool]


@value
class Copied:
    """A page: keys in ascending order and their states. A page of fewer than `size` is the last.

    `complete` as in Fetched: False where the node may hold less than it acknowledged.
    """

    KIND: ClassVar[int] = 39
    keys: Sequence[bytes]
    states: Sequence[bytes]
    size: int
    complete: bool


@value
class Scanned:
    """As Copied, without the states."""

    KIND: ClassVar[int] = 37
    keys: Sequence[bytes]
    size: int
    complete: bool
