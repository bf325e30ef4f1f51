"""Whose a data directory is: whom it lets in, and what can be said of it from outside.

A directory belongs to one node of one cluster, for good (IDENTITY), and to one process at a time
(LOCK). Who is somebody else, or older than what wrote it, is refused before anything is changed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dynamo_ray.storage import identity as identities
from dynamo_ray.storage.disk import Disk, RealDisk
from dynamo_ray.storage.errors import (
    DamagedFileError,
    DamagedIdentityError,
    ForeignDirectoryError,
    MissingFileError,
    NewerFormatError,
    ReadFailedError,
    StorageError,
    UnsafePathError,
)
from dynamo_ray.storage.frames import FRAME_BYTES, LOG_FORMAT, SEGMENT_BYTES, newer_format
from dynamo_ray.storage.identity import Identity
from dynamo_ray.storage.log import REACHED, Reached, segment_path, segments_on
from dynamo_ray.storage.sealed import read_sealed, write_sealed
from dynamo_ray.storage.snapshot import FORMAT as SNAPSHOT_FORMAT
from dynamo_ray.storage.snapshot import MANIFEST, directory, generations_on

LOCK = "LOCK"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a node says of itself, and of the machine, when it opens its directory.

    `node_id` None: whoever lives there, or `fresh_id` (8 random bytes) in an empty directory.
    `first_start`: the node has never run, so an empty directory is complete; otherwise its disk was
    lost, and all that it should hold is doubted.
    """

    cluster_id: bytes
    node_id: bytes | None
    fresh_id: bytes
    name: str
    partitions: int
    durability: str
    boot_id: str
    now_ms: int
    first_start: bool


def refuse_others(folder: Path, cluster_id: bytes, node_id: bytes, partitions: int) -> None:
    """Raises a DirectoryRefusedError if the directory is another's, or newer. Changes nothing."""
    if not folder.is_dir():
        return
    disk = RealDisk(folder)
    try:
        identity = identities.load(disk)
        if identity is not None:
            opening = Opening(cluster_id, node_id, b"", folder.name, partitions, "", "", 0, False)
            check(disk, opening, identity)
    finally:
        disk.close()


def holds_records(folder: Path) -> bool:
    """True if anything was ever appended there: a log that was only closed says nothing else."""
    if not folder.is_dir():
        return False
    disk, empty = RealDisk(folder), SEGMENT_BYTES + FRAME_BYTES
    try:
        longer = any(disk.size(segment_path(number)) > empty for number in segments_on(disk))
        return longer or bool(generations_on(disk))
    finally:
        disk.close()


def is_in_use(folder: Path) -> bool:
    """True if a process holds the directory."""
    if not folder.is_dir():
        return False
    disk = RealDisk(folder, create=False)
    try:
        disk.share(LOCK)
    except StorageError:
        return True
    finally:
        disk.close()
    return False


def created(disk: Disk, opening: Opening) -> Identity:
    """Make an empty directory this node's. Raises DamagedIdentityError if only IDENTITY is gone."""
    if segments_on(disk) or generations_on(disk):
        raise DamagedIdentityError(
            f"{disk.name} holds a log or snapshots but no {identities.PATH};"
            " move the directory aside and replace the node"
        )
    identity = Identity(
        cluster_id=opening.cluster_id,
        node_id=opening.node_id or opening.fresh_id,
        name=opening.name,
        partitions=opening.partitions,
        created_ms=opening.now_ms,
        doubted=frozenset() if opening.first_start else frozenset(range(opening.partitions)),
    )
    write_sealed(disk, REACHED, Reached(0)._asdict())
    identities.save(disk, identity)
    return identity


def check(disk: Disk, opening: Opening, identity: Identity) -> None:
    """Raises a DirectoryRefusedError unless the directory is this node's, and readable."""
    if identity.cluster_id != opening.cluster_id:
        raise ForeignDirectoryError(
            f"{disk.name} belongs to cluster {identity.cluster_id.hex()}, not to"
            f" {opening.cluster_id.hex()}; give the node a directory of its own"
        )
    if opening.node_id not in (None, identity.node_id):
        raise ForeignDirectoryError(
            f"{disk.name} belongs to node {identity.name!r} ({identity.node_id.hex()}), not to"
            f" {opening.name!r}; give each node a directory of its own"
        )
    if identity.partitions != opening.partitions:
        raise ForeignDirectoryError(
            f"{disk.name} was made for {identity.partitions} partitions, not for"
            f" {opening.partitions}; start the node with the cluster's own settings"
        )
    for number in segments_on(disk):
        with suppress(MissingFileError, ReadFailedError, UnsafePathError):
            header = disk.read(segment_path(number), 0, SEGMENT_BYTES)
            _refuse_newer(disk, segment_path(number), newer_format(header), LOG_FORMAT)
    for number in generations_on(disk):
        with suppress(MissingFileError, ReadFailedError, UnsafePathError, DamagedFileError):
            path = f"{directory(number)}/{MANIFEST}"
            _refuse_newer(disk, path, read_sealed(disk, path).get("format"), SNAPSHOT_FORMAT)


def _refuse_newer(disk: Disk, path: str, said: object, known: int) -> None:
    if isinstance(said, int) and said > known:
        raise NewerFormatError(
            f"{disk.name}/{path} was written in format {said}, this version reads {known};"
            " start it with the newer version"
        )
