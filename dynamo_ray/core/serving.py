"""What a storage node does for each kind of request; whether it may is core/node.py's business.

Fetch, Merge      the data path, without Mint, which needs a clock    core/replica.py
Offer, Seal       a slot is to come here                              core/receive.py
Copy, Scan        a page of a partition                               core/pages.py
Compare, ...      a comparison of two copies                          core/compare.py
Confirm, Reap     to let go of what all owners hold alike             core/forget.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo_ray.core.compare import answer, can_be
from dynamo_ray.core.forget import confirm, reap
from dynamo_ray.core.messages import Code, Fetch, Merge, Refused, Reply
from dynamo_ray.core.pages import Pages
from dynamo_ray.core.receive import Receiver
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.upkeep import (
    Compare,
    Confirm,
    Copy,
    Descend,
    Enumerate,
    Offer,
    Reap,
    Scan,
    Seal,
)

NO_REQUEST = Refused(Code.BAD_REQUEST, "not a request to a storage node")


class Serving:
    """The requests that one node can serve."""

    def __init__(self, replica: Replica, receiver: Receiver, settings: Settings) -> None:
        self._replica = replica
        self._receiver = receiver
        self._pages = Pages(replica, settings.limits.batch_bytes)
        self._grace_ms = int(settings.times.grace_s * 1000)

    def perform(self, to: Any, message: Any, wall_ms: int) -> Sequence[Any]:
        """What comes of a request; `wall_ms` may be a little old."""
        replica = self._replica
        if isinstance(message, Fetch):
            return replica.on_fetch(to, message)
        if isinstance(message, Merge):
            return replica.on_merge(to, message)
        if isinstance(message, Offer):
            return self._receiver.on_offer(to, message)
        if isinstance(message, Seal):
            return self._receiver.on_seal(to, message)
        if isinstance(message, Copy | Scan):
            return [self._pages.page(to, message)]
        if isinstance(message, Compare | Descend | Enumerate):
            if can_be(message, len(replica.maps)):
                self._receiver.on_heard(message.partition)
            return answer(replica, to, message)
        if isinstance(message, Confirm):
            return confirm(replica, to, message, wall_ms - self._grace_ms)
        if isinstance(message, Reap):
            return reap(replica, to, message)
        return [Reply(to, NO_REQUEST)]
