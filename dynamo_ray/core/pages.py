"""A page of a partition: what one node copies from another, in the order of the keys.

Whoever asks begins after b"" and goes on after the last key of each page, until a page is shorter
than its size. States may change meanwhile: what is read is each key as it was when its page was
made, which is enough for whoever merges it. Like every answer a page waits for the log up to what
it shows (rule 1); a key that is written all the time delays it and does not stop it.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import Any

from dynamo_ray.core.messages import Reply
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.upkeep import Copied, Copy

PAGE_KEYS = 200


def page_of(replica: Replica, to: Any, message: Copy, bytes_most: int) -> Reply:
    """The page that `message` asks for: bounded in keys and bytes, and at least one key."""
    partition, after = message.partition, message.after
    held = replica.maps[partition]
    keys = nsmallest(PAGE_KEYS, (key for key in held if key > after))
    fits = _fitting(held, keys, bytes_most)
    # A page that was cut says so: it is as long as a page is, and more follows.
    size = PAGE_KEYS if fits == len(keys) else fits
    keys = keys[:fits]
    complete = partition not in replica.doubted
    page = Copied(keys, [held[key] for key in keys], size, complete)
    return Reply(to, page, replica.queue.shown_at(keys))


def _fitting(held: dict[bytes, bytes], keys: list[bytes], most: int) -> int:
    size = 0
    for count, key in enumerate(keys):
        size += len(held[key])
        if size > most and count:
            return count
    return len(keys)
