"""The ring: which nodes own a key. A value, made anew when the members change (Dynamo §4.2, §6.2).

The circle of MD5's 128 bits is cut into Q equal partitions (the paper's strategy 3: a partition is
the unit of ownership, of transfer and of a file). Each has N slots, one per copy, in the order in
which owners are asked to mint. The preference list of a partition is its owners and then every
other node in ring order, so that there is always somebody to stand in.

Partitions with the same owners share one preference list and so one *route key*: keys are grouped
by it, and few route keys make large groups. That is why `claim` looks for a layout with few.

Laws: a claimed ring has its owners distinct, in as many zones and on as many machines as there can
be; every node has its share of slots by weight to within one, and of first slots too, as far as
zones and nodes permit; the order in which members are named plays no part. `reclaim` keeps all that
except for the first slots, moves little, and with unchanged members nothing.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b
from math import isfinite

from dynamo_ray.core.claim import Path, lay_out
from dynamo_ray.core.settle import HOLE, settle

try:  # The interpreter's own MD5 needs half of OpenSSL's time for a key. Not every build has it.
    from _md5 import md5  # type: ignore[import-not-found]  # private, so without a stub
except ImportError:  # pragma: no cover
    from hashlib import md5

NodeId = bytes
NODE_ID_BYTES = 8
CIRCLE = 1 << 8 * NODE_ID_BYTES


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: MD5(key), a 128-bit number, times Q, its top part.

    Where Q divides 256 the first byte decides alone. For a Q that is no power of two no number of
    leading bytes short of all is enough: what follows may carry.
    """
    digest: bytes = md5(key, usedforsecurity=False).digest()
    if 256 % partitions:
        return int.from_bytes(digest, "big") * partitions >> 128
    return digest[0] * partitions >> 8


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """`partition_of` for many keys."""
    if partitions == 256:
        return [md5(key, usedforsecurity=False).digest()[0] for key in keys]
    return [partition_of(key, partitions) for key in keys]


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the ring sees it. The name is a label: it decides nothing and is in no digest.

    Nodes whose zone is not known count as one zone, and within a zone those whose machine is not
    known as one machine. A node of weight 0 owns nothing and may stand in.
    """

    node: NodeId
    name: str
    zone: str = ""
    weight: float = 1
    machine: str = ""

    def __post_init__(self) -> None:
        if len(self.node) != NODE_ID_BYTES:
            raise ValueError(f"a node id has {NODE_ID_BYTES} bytes, this has {len(self.node)}")
        if not (isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"a weight is finite and not negative, {self.name}'s is {self.weight}")

    @property
    def place(self) -> tuple[str, str]:
        """Zone and machine: what fails together."""
        return self.zone, self.machine


def by_name(member: Member) -> tuple[str, int, str]:
    """An order of members for people: n10 comes after n9."""
    stem = member.name.rstrip("0123456789")
    return stem, int(member.name[len(stem) :] or 0), member.name


@dataclass(frozen=True)
class Ring:
    """Members and who has which slot: `slots[partition * copies + copy]` is a node.

    Raises ValueError where a slot's owner is no member or a partition has the same owner twice.
    """

    partitions: int
    copies: int
    members: tuple[Member, ...]
    slots: tuple[NodeId, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.partitions < 1 or self.copies < 1:
            raise ValueError(f"{self.partitions} partitions with {self.copies} copies make no ring")
        in_order = tuple(sorted(self.members, key=lambda member: member.node))
        object.__setattr__(self, "members", in_order)
        if len({member.node for member in in_order}) != len(in_order):
            raise ValueError("two members have the same node id")
        if len(self.slots) != self.partitions * self.copies:
            due = self.partitions * self.copies
            raise ValueError(f"the ring has {due} slots, {len(self.slots)} owners are given")
        if strangers := set(self.slots).difference(member.node for member in in_order):
            raise ValueError(f"{len(strangers)} owners are not among the {len(in_order)} members")
        for partition, owners in enumerate(self._owners):
            if len(set(owners)) != self.copies:
                raise ValueError(f"partition {partition} has {len(set(owners))} distinct owners")

    def __hash__(self) -> int:
        return hash(self.epoch)

    def owners(self, partition: int) -> tuple[NodeId, ...]:
        """The N nodes that own the partition, first the one to mint."""
        return self._owners[partition]

    def preference(self, partition: int) -> tuple[NodeId, ...]:
        """The owners and then every other node, in the order in which they are asked to help."""
        return self.preferences[self._route_keys[partition]]

    def route_key(self, partition: int) -> int:
        """A small number that partitions with the same preference list share."""
        return self._route_keys[partition]

    def epoch_of(self, partition: int) -> bytes:
        """8 bytes that differ where a partition's owners differ, or their order.

        Requests about a partition travel under it: who changes what else there is in the ring does
        not make them wait (DESIGN rule 16).
        """
        return self._route_epochs[self._route_keys[partition]]

    def route_keys_of(self, partitions: Sequence[int]) -> list[int]:
        """`route_key` for many partitions."""
        keys = self._route_keys
        return [keys[partition] for partition in partitions]

    @cached_property
    def places(self) -> Mapping[NodeId, tuple[str, str]]:
        """Zone and machine of each node; empty where that tells no two nodes apart."""
        places = {member.node: member.place for member in self.members}
        return places if len(set(places.values())) > 1 else {}

    @cached_property
    def preferences(self) -> tuple[tuple[NodeId, ...], ...]:
        """The preference lists by route key.

        Spares follow clockwise from the first owner, nodes standing on the circle where their ids
        are. So they depend on the owners alone, and do not change when other slots move; and the
        partitions of one dead node find different stand-ins.
        """
        nodes = [member.node for member in self.members]
        found = []
        for owners in dict.fromkeys(self._owners):
            at = nodes.index(owners[0])
            clockwise = nodes[at:] + nodes[:at]
            found.append(self._in_rounds(owners, [n for n in clockwise if n not in owners]))
        return tuple(found)

    @cached_property
    def epoch(self) -> bytes:
        """8 bytes that differ where anything differs that decides who owns what."""
        digest = blake2b(digest_size=8, person=b"dynamo_ray.ring")
        digest.update(struct.pack(">III", self.partitions, self.copies, len(self.members)))
        for member in self.members:
            digest.update(struct.pack(">8sd", member.node, member.weight))
            for text in member.place:
                digest.update(struct.pack(">I", len(text.encode())) + text.encode())
        digest.update(b"".join(self.slots))
        return digest.digest()

    @cached_property
    def _owners(self) -> tuple[tuple[NodeId, ...], ...]:
        shared: dict[tuple[NodeId, ...], tuple[NodeId, ...]] = {}
        n = self.copies
        rows = (self.slots[at : at + n] for at in range(0, len(self.slots), n))
        return tuple(shared.setdefault(row, row) for row in rows)

    @cached_property
    def _route_epochs(self) -> tuple[bytes, ...]:
        return tuple(
            blake2b(b"".join(owners), digest_size=8, person=b"dynamo_ray.route").digest()
            for owners in dict.fromkeys(self._owners)
        )

    @cached_property
    def _route_keys(self) -> tuple[int, ...]:
        keys: dict[tuple[NodeId, ...], int] = {}
        return tuple(keys.setdefault(owners, len(keys)) for owners in self._owners)

    def _in_rounds(self, owners: tuple[NodeId, ...], spares: list[NodeId]) -> tuple[NodeId, ...]:
        """Owners and spares: first one spare of each zone that is new, then a second of each, …

        In a zone machines take turns in the same way. Otherwise the order stays.
        """
        for depth in (2, 1) if self.places else ():
            met = Counter(self.places[node][:depth] for node in owners)
            rounds = {}
            for node in spares:
                rounds[node] = met[self.places[node][:depth]]
                met[self.places[node][:depth]] += 1
            spares = sorted(spares, key=rounds.__getitem__)
        return *owners, *spares


def claim(members: Iterable[Member], partitions: int = 256, copies: int = 3) -> Ring:
    """The ring of a new cluster. Raises ValueError if there are fewer nodes than copies."""
    everybody = tuple(members)
    nodes, paths, weights = _claimants(everybody, copies)
    rows = lay_out(paths, weights, partitions, copies)
    return Ring(partitions, copies, everybody, tuple(nodes[i] for row in rows for i in row))


def reclaim(ring: Ring, members: Iterable[Member]) -> Ring:
    """The ring for other members, with as few slots moved as balance and zones allow."""
    everybody = tuple(members)
    nodes, paths, weights = _claimants(everybody, ring.copies)
    index = {node: i for i, node in enumerate(nodes)}
    held = [tuple(index.get(node, HOLE) for node in owners) for owners in ring._owners]
    slots = tuple(nodes[i] for row in settle(held, paths, weights) for i in row)
    return Ring(ring.partitions, ring.copies, everybody, slots)


def _claimants(
    members: tuple[Member, ...], copies: int
) -> tuple[list[NodeId], list[Path], list[Fraction]]:
    """Who may own slots: nodes, paths and weights, in the order of the paths.

    In each zone the circle of ids is entered at another angle. Otherwise the owners of a partition
    would have neighbouring ids, and the same next node to stand in for all that one of them has.
    """
    able = [member for member in members if member.weight > 0]
    if len(able) < copies:
        raise ValueError(
            f"{copies} copies need {copies} nodes with a weight, there are {len(able)}"
        )
    zones = sorted({member.zone for member in able})
    rows = []
    for member in able:
        angle = zones.index(member.zone) * CIRCLE // len(zones)
        turned = (int.from_bytes(member.node, "big") - angle) % CIRCLE
        rows.append(((*member.place, turned), Fraction(member.weight), member.node))
    rows.sort()
    return [node for *_, node in rows], [path for path, *_ in rows], [heavy for _, heavy, _ in rows]
