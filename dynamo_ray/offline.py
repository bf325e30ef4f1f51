"""Data directories while nobody runs on them: look into them, verify them, repair them.

    places ─► inspect · verify      nothing is changed, not even a lock file is made
           └► plan ─► repair        the plan is the repair itself, on a disk that only pretends

None of it needs Ray. A directory is held while it is looked at, so that no node starts meanwhile;
one that a node runs on can be inspected only, as its files change under the reader.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.ring import Member
from dynamo_ray.errors import BadRequestError, DataDirectoryError, DynamoError
from dynamo_ray.founding import charter_in
from dynamo_ray.storage import identity as identities
from dynamo_ray.storage.damage import NODE, Damage
from dynamo_ray.storage.disk import RealDisk, boot_id
from dynamo_ray.storage.errors import DirectoryInUseError, DirectoryRefusedError, StorageError
from dynamo_ray.storage.examine import (
    Counts,
    Examination,
    Segment,
    count,
    examine,
    is_node_directory,
    missing,
    opening_of,
    segments_in,
    set_aside,
    strangers,
)
from dynamo_ray.storage.frames import Owner
from dynamo_ray.storage.mend import mend
from dynamo_ray.storage.ownership import LOCK, Opening
from dynamo_ray.storage.rehearsal import Act as Act
from dynamo_ray.storage.rehearsal import Rehearsal
from dynamo_ray.storage.snapshot import MANIFEST, directory


@dataclass(frozen=True, slots=True)
class Place:
    """One node's directory, and what the cluster's charter beside it says of it, if it is there."""

    folder: Path
    charter: Charter | None = None
    member: Member | None = None

    @property
    def is_there(self) -> bool:
        """False if the charter names the node and its directory is missing."""
        return self.folder.is_dir()

    def names(self) -> dict[bytes, str]:
        """The names of the cluster's nodes by their ids, as far as they are known."""
        members = self.charter.members if self.charter is not None else ()
        return {member.node: member.name for member in members}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a directory is as it was written. `refused`: why a start would not even begin.

    `doubted`: how many partitions a start would not vouch for, damaged or not.
    """

    place: Place
    damages: list[Damage]
    notes: list[str] = field(default_factory=list)
    doubted: int = 0
    torn_bytes: int = 0
    records: int = 0
    strangers: list[str] = field(default_factory=list)
    refused: str = ""

    @property
    def is_clean(self) -> bool:
        """True if nothing is damaged. What a crash leaves is no damage."""
        return not self.damages

    @property
    def wants_repair(self) -> bool:
        """True if a repair would change something."""
        return bool(self.damages or self.torn_bytes)


@dataclass(frozen=True, slots=True)
class Picture:
    """What is in a directory. `snapshot_age_ms` None: there is none. `used_by`: who runs on it."""

    place: Place
    examined: Examination
    segments: list[Segment]
    counts: Counts
    aside: list[tuple[str, int]]
    snapshot_bytes: int
    snapshot_age_ms: int | None
    used_by: str

    @property
    def format(self) -> int:
        """The version of the directory's form."""
        return identities.FORMAT


def places(folder: Path) -> list[Place]:
    """The nodes' directories that `folder` is or holds.

    Raises BadRequestError if there are none, DataDirectoryError for an unreadable CLUSTER.json.
    """
    if not folder.is_dir():
        raise BadRequestError(f"{folder} is no directory; give a node's, or a cluster's")
    if _holds_node(folder):
        charter = charter_in(folder.absolute().parent)
        return [_place(folder, charter)]
    charter = charter_in(folder)
    names = {member.name for member in charter.members} if charter is not None else set()
    names |= {one.name for one in folder.iterdir() if one.is_dir() and _holds_node(one)}
    if not names:
        raise BadRequestError(
            f"{folder} holds no storage node's directory; give a node's, or a cluster's"
        )
    return [_place(folder / name, charter) for name in sorted(names)]


def inspect(place: Place) -> Picture:
    """What is in the directory. Raises DataDirectoryError if it cannot be opened."""
    used_by = ""
    with _looked_at(place) as disk:
        try:
            disk.share(LOCK)
        except DirectoryInUseError as error:
            used_by = str(error)
        opening = _opening(disk, Place(place.folder))
        examined = examine(disk, opening)
        generation = examined.found.generation
        age, size = None, 0
        if generation is not None:
            size = sum(seal.size for seal in generation.files.values())
            path = f"{directory(generation.number)}/{MANIFEST}"
            age = max(0, opening.now_ms - disk.changed_ms(path))
        return Picture(
            place,
            examined,
            segments_in(disk, Owner(opening.cluster_id, examined.identity.node_id).seed),
            count(examined.found, opening.now_ms),
            set_aside(disk),
            size,
            age,
            used_by,
        )


def verify(place: Place) -> Verdict:
    """Read every byte of the directory. Raises DataDirectoryError if a node runs on it."""
    if not place.is_there:
        return Verdict(place, [missing(str(place.folder))])
    try:
        with _looked_at(place) as disk:
            disk.share(LOCK)
            try:
                found = examine(disk, _opening(disk, place)).found
            except DirectoryRefusedError as error:
                damage = Damage(str(place.folder), 0, 0, str(error), NODE)
                return Verdict(place, [damage], refused=str(error))
            return Verdict(
                place,
                found.damages,
                found.notes,
                len(found.doubted),
                found.torn_bytes,
                found.records,
                strangers(disk),
            )
    except OSError as error:
        raise DataDirectoryError(f"{place.folder} cannot be read ({error.strerror})") from error


def plan(place: Place) -> list[Act]:
    """What a repair would change, in order. Raises DataDirectoryError if it would be refused."""
    if not place.is_there:
        raise DataDirectoryError(f"{place.folder} is missing; replace the node")
    with _looked_at(place) as disk:
        disk.share(LOCK)
        rehearsal = Rehearsal(disk)
        mend(rehearsal, _opening(disk, place), bytes(8))
        return rehearsal.acts


def repair(place: Place) -> Verdict:
    """Repair the directory, then verify it. Raises DataDirectoryError, or DynamoError midway."""
    with _looked_at(place) as disk:
        mend(disk, _opening(disk, place), os.urandom(8))
    return verify(place)


@contextmanager
def _looked_at(place: Place) -> Iterator[RealDisk]:
    """The directory's disk; what storage refuses or fails at is said as the library's errors."""
    try:
        disk = RealDisk(place.folder, create=False)
        try:
            yield disk
        finally:
            disk.close()
    except DirectoryRefusedError as error:
        raise DataDirectoryError(str(error)) from error
    except StorageError as error:
        raise DynamoError(str(error)) from error


def _opening(disk: RealDisk, place: Place) -> Opening:
    """As the node would open it; if a charter is beside it, the node that the charter means."""
    identity = identities.load(disk)
    if identity is None:
        raise DirectoryRefusedError(
            f"{disk.name} has no {identities.PATH}; move the directory aside and replace the node"
        )
    opening = opening_of(identity, boot_id(), time.time_ns() // 1_000_000)
    charter, member = place.charter, place.member
    if charter is None or member is None:
        return opening
    return replace(
        opening,
        cluster_id=charter.cluster_id,
        node_id=member.node,
        partitions=charter.settings.partitions,
    )


def _place(folder: Path, charter: Charter | None) -> Place:
    members = charter.members if charter is not None else ()
    member = next((one for one in members if one.name == folder.absolute().name), None)
    return Place(folder, charter if member is not None else None, member)


def _holds_node(folder: Path) -> bool:
    try:
        disk = RealDisk(folder, create=False)
    except StorageError:
        return False
    try:
        return is_node_directory(disk)
    finally:
        disk.close()
