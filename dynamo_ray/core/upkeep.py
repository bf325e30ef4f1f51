"""What storage nodes ask each other beside the data path, to keep what they hold in order.

Confirm, Reap      before anything is let go of (core/reap.py)    answered Confirmed, Merged
Copy, Scan         a page of a partition (core/pages.py)          answered Copied, Scanned
Compare, Descend,  which keys of two owners differ: from the      answered Compared, Descended,
Enumerate          root of their trees to keys (core/sync.py)     Enumerated
Offer, Seal        a slot is to change hands (core/handover.py)   answered Offered, Sealed
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
class Compare:
    """Is the root of this partition's tree the same? If not, which are its branches' digests?"""

    KIND: ClassVar[int] = 15
    partition: int
    root: bytes


@value
class Descend:
    """Send the digests of the buckets of these branches."""

    KIND: ClassVar[int] = 16
    partition: int
    branches: Sequence[int]


@value
class Enumerate:
    """Send a page of the keys in these buckets, after the key `after`, in the order of the keys."""

    KIND: ClassVar[int] = 17
    partition: int
    buckets: Sequence[int]
    after: bytes


@value
class Offer:
    """This slot is to be yours, as generation `generation`: will you take it?"""

    KIND: ClassVar[int] = 18
    partition: int
    slot: int
    generation: int


@value
class Seal:
    """You hold all that there is of the slot you were offered: keep it, fsynced, from now on."""

    KIND: ClassVar[int] = 19
    partition: int
    slot: int
    generation: int
    token: bytes


@value
class Offered:
    """It may come. `token` stands for what the node remembers of this offer while it runs."""

    KIND: ClassVar[int] = 28
    token: bytes


@value
class Sealed:
    """All that was sent is fsynced, and that it was promised to whoever owned the slot."""

    KIND: ClassVar[int] = 29


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


@value
class Compared:
    """The branches' digests, one after the other; nothing if the root is the same.

    `complete` as in Fetched: False where the node may hold less than it acknowledged.
    """

    KIND: ClassVar[int] = 25
    branches: bytes
    complete: bool


@value
class Descended:
    """The buckets' digests, one after the other, branch after branch."""

    KIND: ClassVar[int] = 26
    buckets: bytes


@value
class Enumerated:
    """A page of keys, in order, each with its state's digest and how many bytes that state has."""

    KIND: ClassVar[int] = 27
    keys: Sequence[bytes]
    digests: Sequence[bytes]
    sizes: Sequence[int]
    last: bool
