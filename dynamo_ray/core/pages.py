"""Pages of a partition, in the order of the keys: what whoever reads all of it is given.

Whoever asks begins after b"" and goes on after the last key of each page, until a page is shorter
than its size. A page shows what is held of its keys when it is made (core/orders.py keeps them in
order): all of them, and each as it is then. Like every answer a page waits for the log up to what
it shows (rule 1); a key that is written all the time delays it and does not stop it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dynamo_ray.core.messages import Reply
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.upkeep import Copied, Copy, Scan, Scanned

COPY_KEYS = 200
SCAN_KEYS = 2000


class Pages:
    """What one node gives to whoever reads its partitions."""

    def __init__(self, replica: Replica, bytes_most: int) -> None:
        self._replica = replica
        self._bytes_most = bytes_most

    def page(self, to: Any, message: Copy | Scan) -> Reply:
        """The page that is asked for: bounded in keys, with states in bytes, at least one key."""
        if isinstance(message, Scan):
            return self._scanned(to, message)
        partition = message.partition
        held = self._replica.maps[partition]
        keys = self._keys_after(partition, message.after, COPY_KEYS)
        fits = _fitting(held, keys, self._bytes_most)
        # A page that was cut says so: it is as long as a page is, and more follows.
        size = COPY_KEYS if fits == len(keys) else fits
        keys = keys[:fits]
        page = Copied(keys, [held[key] for key in keys], size, self._is_complete(partition))
        return Reply(to, page, self._replica.queue.shown_at(keys))

    def _scanned(self, to: Any, message: Scan) -> Reply:
        keys = self._keys_after(message.partition, message.after, SCAN_KEYS)
        page = Scanned(keys, SCAN_KEYS, self._is_complete(message.partition))
        return Reply(to, page, self._replica.queue.shown_at(keys))

    def _is_complete(self, partition: int) -> bool:
        return partition not in self._replica.in_doubt

    def _keys_after(self, partition: int, after: bytes, most: int) -> list[bytes]:
        """The next keys that are held; their order is kept until the last of them."""
        orders = self._replica.orders
        in_order = orders.take(partition)
        at = bisect_right(in_order, after)
        if at + most < len(in_order):
            orders.keep(partition, in_order)
        return in_order[at : at + most]


def leads_on(after: bytes, keys: Sequence[bytes]) -> bool:
    """True if the keys of a page follow on `after`; one that errs must not lead in a circle."""
    return all(before < key for before, key in pairwise([after, *keys]))


def _fitting(held: dict[bytes, bytes], keys: list[bytes], most: int) -> int:
    size = 0
    for count, key in enumerate(keys):
        size += len(held[key])
        if size > most and count:
            return count
    return len(keys)
