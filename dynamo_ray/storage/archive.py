"""A backup on disk: one Arrow file per partition that is not empty, sealed by a manifest.

    carts-20261018T093000Z/p00012.arrow   as in a snapshot: partition, key, state (no hints)
    carts-20261018T093000Z/MANIFEST       written last: whose it is, and each file's checksum

A backup without its manifest is unfinished and is never used. Nothing that is read is trusted: a
file is judged by its checksum before it is parsed, its states are decoded strictly, its keys must
lie in its partition; a manifest names no file but those of the form above.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.version import (
    KIND_AT,
    Kind,
    MalformedStateError,
    decode,
    decode_strict,
    is_simple,
)
from dynamo_ray.storage.codec import Columns, Record
from dynamo_ray.storage.disk import Folder
from dynamo_ray.storage.errors import (
    DamagedFileError,
    ForeignDirectoryError,
    NewerFormatError,
    StorageError,
)
from dynamo_ray.storage.sealed import read_sealed, write_sealed
from dynamo_ray.storage.snapshot import (
    FileSeal,
    file_name,
    listed,
    read_sealed_arrow,
    seals_in,
    write_arrow,
)

FORMAT = 1
KIND = "dynamo_ray.backup"
MANIFEST = "MANIFEST"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}-[0-9]{8}T[0-9]{6}Z(-[0-9]{1,4})?")
PARTITIONS_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in a backup: keys, their values, and versions that a delete or an expiry left."""

    keys: int = 0
    values: int = 0
    tombstones: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.keys + other.keys,
            self.values + other.values,
            self.tombstones + other.tombstones,
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a backup comes from: the cluster, when, by which version, and who answered."""

    cluster: str
    cluster_id: str
    n: int
    r: int
    w: int
    partitions: int
    created_ms: int
    version: str
    complete: list[str]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup as its manifest describes it."""

    name: str
    origin: Origin
    counts: Counts
    files: dict[int, FileSeal] = field(repr=False)

    @property
    def bytes(self) -> int:
        """How long its files are together."""
        return sum(seal.size for seal in self.files.values())

    def path(self, partition: int) -> str:
        """The file of a partition."""
        return f"{self.name}/{file_name(partition)}"


class NewBackup:
    """A backup being written: `write` per partition, from any thread, then `finish`."""

    def __init__(self, folder: Folder, name: str) -> None:
        """Make its directory. WriteFailedError, SyncFailedError."""
        self.name = name
        self._folder = folder
        self._files: dict[int, FileSeal] = {}
        self._counts: dict[int, Counts] = {}
        folder.make_dir(name)
        folder.sync_dir("")

    def write(self, partition: int, records: Iterable[Record]) -> None:
        """A partition's file, durable when this returns; none if empty. The folder's errors."""
        counting = _Counting(records)
        path = f"{self.name}/{file_name(partition)}"
        seal = write_arrow(self._folder, path, counting)
        if seal is not None:
            self._files[partition] = seal
            self._counts[partition] = counting.counts

    def finish(self, origin: Origin) -> Backup:
        """Make it count."""
        counts = Counts()
        for one in self._counts.values():
            counts = counts.plus(one)
        self._folder.sync_dir(self.name)
        content = {
            "format": FORMAT,
            "kind": KIND,
            "origin": asdict(origin),
            "counts": asdict(counts),
            "files": listed(self._files),
        }
        write_sealed(self._folder, f"{self.name}/{MANIFEST}", content)
        return Backup(self.name, origin, counts, dict(self._files))


def free_name(folder: Folder, cluster: str, stamp: str) -> str:
    """A name for a backup of `cluster` that nothing there has yet."""
    taken, name = set(folder.names("")), f"{cluster}-{stamp}"
    others = (f"{name}-{i}" for i in range(2, len(taken) + 3))
    return name if name not in taken else next(one for one in others if one not in taken)


def names_of(folder: Folder) -> list[str]:
    """The names in a folder that a backup could have, by name."""
    return [name for name in folder.names("") if NAME.fullmatch(name)]


def is_finished(folder: Folder, name: str) -> bool:
    """True if the backup has a manifest."""
    return folder.exists(f"{name}/{MANIFEST}")


def read_backup(folder: Folder, name: str) -> Backup:
    """What the manifest says. NewerFormatError, ForeignDirectoryError, or another StorageError."""
    content = read_sealed(folder, f"{name}/{MANIFEST}")
    where = f"{folder.name}/{name}"
    if content.get("kind") != KIND:
        raise ForeignDirectoryError(f"{where} holds something else than a backup of a cluster")
    written_in = content.get("format")
    if isinstance(written_in, int) and written_in > FORMAT:
        raise NewerFormatError(
            f"{where} was written in format {written_in}, this version reads {FORMAT};"
            " use it with the newer version"
        )
    try:
        origin, counts = Origin(**content["origin"]), Counts(**content["counts"])
        if written_in != FORMAT or not _fits(origin) or not _fits(counts):
            raise DamagedFileError(f"{where}/{MANIFEST} has other fields than a backup's")
        return Backup(name, origin, counts, seals_in(content["files"], origin.partitions))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(f"{where}/{MANIFEST} cannot be read ({error})") from error


def read_file(folder: Folder, backup: Backup, partition: int) -> Columns:
    """A partition's records, all of them checked. Raises StorageError if any is not sound."""
    path, partitions = backup.path(partition), backup.origin.partitions
    columns = read_sealed_arrow(folder, path, partition, backup.files[partition])
    if any(columns.hints) or None in columns.states:
        raise DamagedFileError(f"{path} holds records that no backup has")
    if not all(a < b for a, b in pairwise(columns.keys)):
        raise DamagedFileError(f"the keys in {path} are not in order")
    for key, state in zip(columns.keys, columns.states, strict=True):
        if partition_of(key, partitions) != partition:
            raise DamagedFileError(f"the key {key!r} in {path} is of another partition")
        try:
            decode_strict(state or b"")
        except MalformedStateError as error:
            raise DamagedFileError(f"the key {key!r} in {path} has no sound state") from error
    return columns


def verify(folder: Folder, backup: Backup) -> Iterator[tuple[int, str]]:
    """Read every file; its partition, and what is wrong with it or nothing."""
    for partition in sorted(backup.files):
        try:
            read_file(folder, backup, partition)
        except StorageError as error:
            yield partition, str(error)
        else:
            yield partition, ""


class _Counting:
    """Records on their way, counted."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = records
        self._tally = [0, 0, 0]

    def __iter__(self) -> Iterator[Record]:
        tally = self._tally
        for record in self._records:
            kinds = _kinds_of(record.state or b"")
            values = kinds.count(Kind.VALUE)
            tally[0] += 1
            tally[1] += values
            tally[2] += len(kinds) - values
            yield record

    @property
    def counts(self) -> Counts:
        return Counts(*self._tally)


def _kinds_of(state: bytes) -> list[int]:
    return [state[KIND_AT]] if is_simple(state) else [v.kind for v in decode(state).versions]


def _fits(said: Origin | Counts) -> bool:
    """Whether a manifest's fields are of their types, and within bounds."""
    for one in fields(said):
        value: Any = getattr(said, one.name)
        if one.type == "int":
            good = type(value) is int and value >= 0
        elif one.type == "str":
            good = type(value) is str
        else:
            good = type(value) is list and all(type(name) is str for name in value)
        if not good:
            return False
    return isinstance(said, Counts) or 0 < said.partitions <= PARTITIONS_MAX
