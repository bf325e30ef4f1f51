"""Whose directory it is, and which writer ids were used: the file IDENTITY.

The name is a label; the cluster's and the node's id decide. An incarnation is durable before
anybody sees it (DESIGN rule 2): used twice, after a crash or from a copied directory, a writer id
would number two different writes alike. `doubted` are the partitions that the node cannot prove
complete (rule 9): they stay so, over any number of starts, until compared with other owners.
`granted` is what it promised to keep for whoever gave it a partition (rule 17): slot, generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamo_ray.core.ring import NODE_ID_BYTES
from dynamo_ray.core.settings import DURABILITIES
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import (
    DamagedFileError,
    DamagedIdentityError,
    MissingFileError,
    NewerFormatError,
)
from dynamo_ray.storage.sealed import read_sealed, write_sealed

PATH = "IDENTITY"
FORMAT = 1
RANDOM_BYTES = 8
INCARNATION_BYTES = 14
PARTITIONS_MAX = 65_536
LAST_MS = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """The content of IDENTITY. `boot_id` and `durability` are those of the last incarnation."""

    cluster_id: bytes
    node_id: bytes
    name: str
    partitions: int
    created_ms: int
    incarnation: bytes = b""
    boot_id: str = ""
    durability: str = ""
    doubted: frozenset[int] = frozenset()
    granted: Mapping[int, tuple[int, int]] = field(default_factory=dict)


def next_incarnation(last: bytes, now_ms: int, random8: bytes) -> bytes:
    """u48 wall ms that only rises, then 8 random bytes."""
    assert len(random8) == RANDOM_BYTES
    last_ms = int.from_bytes(last[:6], "big") if last else -1
    return min(max(last_ms + 1, now_ms), LAST_MS).to_bytes(6, "big") + random8


def save(disk: Disk, identity: Identity) -> None:
    """Durable when it returns. WriteFailedError, SyncFailedError."""
    write_sealed(disk, PATH, _to_json(identity))


def load(disk: Disk) -> Identity | None:
    """The directory's identity; None if it has none. DamagedIdentityError, NewerFormatError."""
    try:
        content = read_sealed(disk, PATH)
        said = content["format"]
        if isinstance(said, int) and said > FORMAT:
            raise NewerFormatError(
                f"{disk.name} was written in format {said}, this version reads {FORMAT};"
                " start it with the newer version"
            )
        return _from_json(content)
    except MissingFileError:
        return None
    except (DamagedFileError, ValueError, TypeError, KeyError) as error:
        raise DamagedIdentityError(
            f"{disk.name}/{PATH} is damaged ({error});"
            " move the directory aside and replace the node"
        ) from error


def _to_json(identity: Identity) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "cluster_id": identity.cluster_id.hex(),
        "node_id": identity.node_id.hex(),
        "name": identity.name,
        "partitions": identity.partitions,
        "created_ms": identity.created_ms,
        "incarnation": identity.incarnation.hex(),
        "boot_id": identity.boot_id,
        "durability": identity.durability,
        "doubted": sorted(identity.doubted),
        "granted": [[partition, *what] for partition, what in sorted(identity.granted.items())],
    }


def _from_json(content: dict[str, Any]) -> Identity:
    identity = Identity(
        cluster_id=bytes.fromhex(content["cluster_id"]),
        node_id=bytes.fromhex(content["node_id"]),
        name=str(content["name"]),
        partitions=int(content["partitions"]),
        created_ms=int(content["created_ms"]),
        incarnation=bytes.fromhex(content["incarnation"]),
        boot_id=str(content["boot_id"]),
        durability=str(content["durability"]),
        doubted=frozenset(map(int, content["doubted"])),
        granted={int(p): (int(slot), int(number)) for p, slot, number in content["granted"]},
    )
    if _to_json(identity) != content:
        raise ValueError("fields of other kinds")
    if not all(_in_range(identity)):
        raise ValueError("fields out of range")
    return identity


def _in_range(identity: Identity) -> Iterator[bool]:
    yield 1 <= len(identity.cluster_id) <= 32
    yield len(identity.node_id) == NODE_ID_BYTES
    yield 1 <= identity.partitions <= PARTITIONS_MAX
    yield 0 <= identity.created_ms <= LAST_MS
    yield len(identity.incarnation) in (0, INCARNATION_BYTES)
    yield identity.durability in ("", *DURABILITIES)
    yield all(0 <= one < identity.partitions for one in identity.doubted)
    yield all(0 <= one < identity.partitions for one in identity.granted)
