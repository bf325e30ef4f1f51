"""How a node lets go of what it holds: expired bytes by itself, the rest when its owners agree.

`purge` needs nobody: an expired version stays a version, only its value's bytes become their hash,
and no digest changes (DESIGN rule 13). `confirm` and `reap` are a node's part in the exchange of
core/reap.py (rules 12 and 14): to say what it holds, and to forget it if it still holds just that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_ray.core.hints import owners_in
from dynamo_ray.core.merge import replaced
from dynamo_ray.core.messages import Effect, Merged, Reply
from dynamo_ray.core.remains import may_leave, without_writers, writers_in
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.unpersisted import Changes
from dynamo_ray.core.upkeep import Confirm, Confirmed, Reap
from dynamo_ray.core.version import decode, digest


def purge(replica: Replica, partition: int, purged: Mapping[bytes, bytes]) -> list[Effect]:
    """Put the purged states in the place of those held."""
    changes = Changes()
    of = replica.maps[partition]
    for key, state in purged.items():
        kept_for = replica.hints.of(key)
        changes.add(partition, key, of[key], state, kept_for)
        of[key] = state
        for owner in owners_in(kept_for):
            replica.hints.add(owner, key, partition, len(state))
    return [replica.record(changes)]


def confirm(replica: Replica, to: Any, message: Confirm, limit_ms: int) -> list[Effect]:
    """Say per key whether this node holds exactly that, or nothing if it is no owner.

    By an owner's own clock, too, what is dead died, and what lives was written, at `limit_ms` or
    before: one wrong clock reaps nothing. The answer waits for the fsync of all that was done
    before it: who gives up a copy relies on a power loss bringing no older one back (rule 8).
    """
    rows = zip(message.keys, message.partitions, message.digests, strict=True)
    same = [_holds(replica, *row) and _is_old(replica, *row[:2], limit_ms) for row in rows]
    return [Reply(to, Confirmed(same), replica.queue.last, durable=True)]


def reap(replica: Replica, to: Any, message: Reap) -> list[Effect]:
    """Let go of what is unchanged, key by key; what has changed since stays as it is."""
    changes = Changes()
    columns = message.keys, message.partitions, message.digests, message.writers
    for key, partition, known, writers in zip(*columns, strict=True):
        if partition in replica.owned and _holds(replica, key, partition, known):
            _let_go(replica, key, partition, writers, changes)
    if not changes:
        return [Reply(to, Merged())]
    record = replica.record(changes)
    return [record, Reply(to, Merged(), record.position)]


def _is_old(replica: Replica, key: bytes, partition: int, limit_ms: int) -> bool:
    held = replica.maps[partition].get(key)
    return held is None or may_leave(decode(held), limit_ms)


def _holds(replica: Replica, key: bytes, partition: int, known: bytes) -> bool:
    held = replica.maps[partition].get(key)
    if partition not in replica.owned:
        return held is None
    if held is None or partition in replica.doubted or replica.hints.of(key):
        return False
    return digest(held) == known


def _let_go(
    replica: Replica, key: bytes, partition: int, writers: bytes | None, changes: Changes
) -> None:
    of = replica.maps[partition]
    held = of[key]
    if writers is not None:
        of[key] = without_writers(held, writers_in(writers))
        # An own life that came back by a merge may be the newest now: it is over (rule 3).
        replica.lives.watch(key, held, of[key])
        changes.add(partition, key, held, of[key], b"")
        return
    changes.add(partition, key, held, None, b"")
    replica.puts.remember(replaced(held, None))
    replica.lives.forget(key)
    del of[key]
