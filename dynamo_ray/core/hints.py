"""What a stand-in keeps for whom, and what to hand home now (Dynamo §4.6, hinted handoff).

A hint says: this key's copy is kept for that owner. Copy and hint are one log record (rule 10), so
the hints of a key travel in the record of its state. Delivery is level-triggered (rule 11): every
tick asks for each owner that answers whether something is kept for it, and sends the oldest part of
that. A hint goes only when the owner has the state *fsynced* (rule 8) and the state sent is still
the state held; if it has changed since, the next tick sends it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from dynamo_ray.core.messages import Merge
from dynamo_ray.core.ring import Ring

NODE = 8
KEYS_A_DELIVERY = 512


def owners_in(hints: bytes) -> list[bytes]:
    """The owners that a record's `hints` column names."""
    return [hints[i : i + NODE] for i in range(0, len(hints), NODE)]


class Hints:
    """The hints of one node: per key for whom it is kept, per owner the keys, oldest first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self.of_key: dict[bytes, bytes] = {}
        self._for_owner: dict[bytes, dict[bytes, int]] = {}
        self._sizes: dict[bytes, int] = {}
        self._in_flight: dict[bytes, dict[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self.of_key)

    def of(self, key: bytes) -> bytes:
        """The `hints` column of the key's record: its owners' node ids, concatenated."""
        return self.of_key.get(key, b"")

    def count_for(self, owner: bytes) -> int:
        """How many keys are kept for an owner."""
        return len(self._for_owner.get(owner, ()))

    def partition_of(self, owner: bytes, key: bytes) -> int | None:
        """The partition of a key that is kept for an owner; None if it is not."""
        return self._for_owner.get(owner, {}).get(key)

    def owners(self) -> list[bytes]:
        """The owners for whom something is kept."""
        return sorted(owner for owner, keys in self._for_owner.items() if keys)

    def has_room(self, size: int) -> bool:
        """False if `size` more bytes would pass the bound: the stand-in then refuses (rule 10)."""
        return self._bytes + size <= self._bytes_max

    def add(self, owner: bytes, key: bytes, partition: int, size: int) -> None:
        """Keep the copy of `key`, of `size` bytes, for `owner`."""
        kept = self.of_key.get(key, b"")
        self._for_owner.setdefault(owner, {})[key] = partition
        if owner not in owners_in(kept):
            self.of_key[key] = kept + owner
        self._bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def load(self, found: Mapping[bytes, bytes], maps: list[dict[bytes, bytes]]) -> None:
        """Take over the hints that recovery found beside the maps."""
        for partition, of in enumerate(maps):
            for key in found.keys() & of.keys():
                for owner in owners_in(found[key]):
                    self.add(owner, key, partition, len(of[key]))

    def on_ring(self, ring: Ring, me: bytes, maps: list[dict[bytes, bytes]]) -> None:
        """What was kept for one that is no owner now is due to whoever is (rule 10).

        Node `me` itself, of whose `maps` this is, has what it keeps.
        """
        for owner in self.owners():
            for key, partition in list(self._for_owner[owner].items()):
                owners = ring.owners(partition)
                if owner not in owners:
                    size = len(maps[partition].get(key, b""))
                    for other in owners:
                        if other != me:
                            self.add(other, key, partition, size)
                    self.remove(owner, key)

    def remove(self, owner: bytes, key: bytes) -> None:
        """The copy of `key` is no longer kept for `owner`."""
        self._for_owner.get(owner, {}).pop(key, None)
        left = [one for one in owners_in(self.of(key)) if one != owner]
        if left:
            self.of_key[key] = b"".join(left)
        elif self.of_key.pop(key, None) is not None:
            self._bytes -= self._sizes.pop(key, 0)

    def restore(self, key: bytes, partition: int, owners: bytes, size: int) -> None:
        """A change was undone: the copy of `key`, of `size` bytes, is kept for `owners` again."""
        before = owners_in(owners)
        for owner in owners_in(self.of(key)):
            if owner not in before:
                self.remove(owner, key)
        for owner in before:
            self.add(owner, key, partition, size)

    def next_for(self, owner: bytes, most: int) -> list[tuple[bytes, int]]:
        """The oldest (key, partition) pairs kept for an owner, unless a delivery is under way."""
        if owner in self._in_flight:
            return []
        return list(islice(self._for_owner.get(owner, {}).items(), most))

    def delivery(
        self, owner: bytes, maps: list[dict[bytes, bytes]], bytes_most: int
    ) -> Merge | None:
        """The oldest part of what is kept for an owner, of a bounded size; None while one is out.

        A hint whose copy is gone (an append was undone) is let go of.
        """
        keys: list[bytes] = []
        partitions: list[int] = []
        states: list[bytes] = []
        size = 0
        for key, partition in self.next_for(owner, KEYS_A_DELIVERY):
            state = maps[partition].get(key)
            if state is None:
                self.remove(owner, key)
                continue
            size += len(state)
            if keys and size > bytes_most:
                break
            keys.append(key)
            partitions.append(partition)
            states.append(state)
        return Merge(keys, partitions, states, durable=True) if keys else None

    def sent(self, owner: bytes, states: dict[bytes, bytes]) -> None:
        """A delivery of these states is under way."""
        self._in_flight[owner] = states

    def settled(self, owner: bytes) -> dict[bytes, bytes]:
        """The delivery to `owner` has ended, well or badly; what was sent."""
        return self._in_flight.pop(owner, {})
