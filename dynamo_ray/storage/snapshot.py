"""Snapshots: one Arrow IPC file per partition, under a manifest that is written last.

    snap-<16 hex>/p00012.arrow   any Arrow reader opens it; the columns are the codec's
    snap-<16 hex>/MANIFEST       sealed: each file's length, checksum and record count; the position
                                 after which the log must be replayed on top; whose it is

A generation without its manifest is an unfinished one and is never read. Arrow itself has no
checksum, so no file is parsed before its checksum fits; and then nothing is accepted but our
schema, uncompressed. A damaged file costs its partition only.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, NamedTuple

import pyarrow as pa

from dynamo_ray.storage.codec import BINARY, SCHEMA, Columns, Record, columns_of, node_lists
from dynamo_ray.storage.disk import Disk, Folder
from dynamo_ray.storage.errors import (
    DamagedFileError,
    MalformedBatchError,
    SnapshotFailedError,
    StorageError,
    SyncFailedError,
    WriteFailedError,
)
from dynamo_ray.storage.frames import Owner
from dynamo_ray.storage.sealed import read_sealed, write_sealed

FORMAT = 1
MANIFEST = "MANIFEST"
DIRECTORY = re.compile(r"snap-([0-9a-f]{16})")
FILE = re.compile(r"p([0-9]{5})\.arrow")
BATCH_ROWS = 4096
BATCH_BYTES = 8 << 20
ARROW_MAGIC = b"ARROW1\0\0"
UINT32 = pa.uint32()


class Generation(NamedTuple):
    """A finished snapshot. It holds everything up to `position`; `segment` was the log's."""

    number: int
    position: int
    segment: int
    files: dict[int, FileSeal]


class FileSeal(NamedTuple):
    """What a manifest says of one file."""

    size: int
    checksum: str
    records: int


def directory(number: int) -> str:
    return f"snap-{number:016x}"


def file_path(number: int, partition: int) -> str:
    return f"{directory(number)}/{file_name(partition)}"


def generations_on(disk: Disk) -> list[int]:
    """The generations that are there, finished or not, oldest first."""
    found = map(DIRECTORY.fullmatch, disk.names(""))
    return sorted(int(match[1], 16) for match in found if match)


class NewSnapshot:
    """A snapshot being taken, in small steps: `write` per partition, then `finish`, or `abandon`.

    It may be written by a thread beside the log's. What `write` gets may be newer than `position`,
    as replay will end with the newest anyway; but it must have been appended to the log before
    `finish`, and if an append fails meanwhile the snapshot is void: it may show what was undone.
    """

    def __init__(
        self,
        disk: Disk,
        owner: Owner,
        partitions: int,
        *,
        number: int,
        position: int,
        segment: int,
    ) -> None:
        self.number = number
        self.position = position
        self.is_void = False
        self.is_finished = False
        self._disk = disk
        self._owner = owner
        self._partitions = partitions
        self._segment = segment
        self._files: dict[int, FileSeal] = {}

    def begin(self) -> None:
        """Make the directory. SnapshotFailedError."""
        with _failing(self._disk, self.number):
            self._disk.make_dir(directory(self.number))
            self._disk.sync_dir("")

    def write(self, partition: int, records: Iterable[Record]) -> None:
        """A partition's file, durable when this returns; none if empty. SnapshotFailedError."""
        self.write_columns(partition, _slices(records))

    def write_columns(self, partition: int, slices: Iterable[Columns]) -> None:
        """`write`, slice by slice: each is one batch of the file, and none is empty.

        A slice is asked for when the one before it is with the disk.
        """
        assert 0 <= partition < self._partitions and partition not in self._files
        with _failing(self._disk, self.number):
            seal = write_slices(self._disk, file_path(self.number, partition), slices)
        if seal is not None:
            self._files[partition] = seal

    @property
    def seals(self) -> list[FileSeal]:
        """What is written so far, file by file."""
        return list(self._files.values())

    def finish(self) -> None:
        """Make the snapshot count, and remove all others. SnapshotFailedError."""
        if self.is_void:
            raise SnapshotFailedError(
                f"{self._disk.name}/{directory(self.number)} was given up, because an append failed"
                " while it was taken; take another one"
            )
        with _failing(self._disk, self.number):
            self._disk.sync_dir(directory(self.number))
            write_sealed(self._disk, f"{directory(self.number)}/{MANIFEST}", self._manifest())
        self.is_finished = True
        for number in generations_on(self._disk):
            if number != self.number:
                remove(self._disk, number)

    def abandon(self) -> None:
        """Remove what was written."""
        self.is_void = True
        remove(self._disk, self.number)

    def _manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "cluster_id": self._owner.cluster_id.hex(),
            "node_id": self._owner.node_id.hex(),
            "generation": self.number,
            "position": self.position,
            "segment": self._segment,
            "partitions": self._partitions,
            "files": listed(self._files),
        }


def remove(disk: Disk, number: int) -> None:
    """Remove a generation. A failure is no loss, only room: the next snapshot tries again."""
    with suppress(StorageError):
        for name in disk.names(directory(number)):
            disk.remove(f"{directory(number)}/{name}")
        disk.remove(directory(number))


def read_manifest(disk: Disk, owner: Owner, partitions: int, number: int) -> Generation:
    """What a generation holds. Raises StorageError if that cannot be trusted."""
    content = read_sealed(disk, f"{directory(number)}/{MANIFEST}")
    try:
        said = content["format"], content["cluster_id"], content["node_id"], content["partitions"]
        if said != (FORMAT, owner.cluster_id.hex(), owner.node_id.hex(), partitions):
            raise DamagedFileError("of another cluster, node, format or number of partitions")
        files = seals_in(content["files"], partitions)
        if content["generation"] != number:
            raise DamagedFileError("of another generation")
        return Generation(number, _count(content["position"]), _count(content["segment"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(f"a manifest with other fields ({error})") from error


def read_partition(disk: Disk, generation: Generation, partition: int) -> Columns:
    """The records of one partition. Raises StorageError if the file is not what was written."""
    path = file_path(generation.number, partition)
    return read_sealed_arrow(disk, path, partition, generation.files[partition])


def file_name(partition: int) -> str:
    return f"p{partition:05d}.arrow"


def listed(files: dict[int, FileSeal]) -> dict[str, list[Any]]:
    """What a manifest says of its files."""
    return {file_name(partition): list(seal) for partition, seal in sorted(files.items())}


def seals_in(listing: dict[str, Any], partitions: int) -> dict[int, FileSeal]:
    """The files that a manifest lists, by partition. Raises DamagedFileError for others."""
    files = {_partition(name): _seal(*seal) for name, seal in listing.items()}
    if wrong := [partition for partition in files if partition >= partitions]:
        raise DamagedFileError(f"it lists a file that cannot be: {file_name(wrong[0])}")
    return files


def write_arrow(disk: Folder, path: str, records: Iterable[Record]) -> FileSeal | None:
    """A file of records, durable when this returns; none if there are none. The disk's errors."""
    return write_slices(disk, path, _slices(records))


def write_slices(disk: Folder, path: str, slices: Iterable[Columns]) -> FileSeal | None:
    """`write_arrow`, slice by slice: each is one batch of the file, and none is empty."""
    source = iter(slices)
    first = next(source, None)
    if first is None:
        return None
    content = _ArrowFile(chain([first], source))
    disk.write(path, content.parts())
    disk.sync(path)
    return content.seal()


def read_sealed_arrow(disk: Folder, path: str, partition: int, seal: FileSeal) -> Columns:
    """The records of a file. Raises StorageError if it is not what was written."""
    size, checksum, records = seal
    if disk.size(path) != size:
        raise DamagedFileError(f"{path} has another length than its manifest says")
    content = disk.read(path)
    if _checksum(content).hexdigest() != checksum:
        raise DamagedFileError(f"the checksum of {path} does not fit")
    columns = read_arrow(content)
    if not 0 < records == len(columns.keys) == columns.partitions.count(partition):
        raise DamagedFileError(f"{path} holds other records than its manifest says")
    return columns


def read_arrow(content: bytes) -> Columns:
    """All records of an Arrow file of our schema, uncompressed. Raises MalformedBatchError."""
    columns: tuple[list[Any], ...] = [], [], [], []
    try:
        if not content.startswith(ARROW_MAGIC):
            raise MalformedBatchError("not an Arrow file")
        # Behind its magic an Arrow file is a stream; its footer is only for readers that jump.
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(content).slice(len(ARROW_MAGIC)))
        schema = pa.ipc.read_schema(messages.read_next_message())
        if not schema.equals(SCHEMA, check_metadata=True):
            raise MalformedBatchError("another schema")
        for message in messages:
            if message.type != "record batch" or _is_compressed(message.metadata):
                raise MalformedBatchError("a compressed batch, or a message that is no batch")
            batch = pa.ipc.read_record_batch(message, SCHEMA)
            batch.validate(full=True)
            for column, arrived in zip(columns, _lists(batch), strict=True):
                column += arrived
    except (pa.ArrowException, OSError, StopIteration, struct.error) as error:
        raise MalformedBatchError(f"not an Arrow file of ours: {error}") from error
    return Columns(*columns)


def _lists(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    """The columns of a batch as lists; no hints are b"", as in a record."""
    partitions, keys, states, hints = batch.columns
    if partitions.null_count or keys.null_count:
        raise MalformedBatchError("a null where none may be")
    yield from (partitions.to_pylist(), keys.to_pylist(), states.to_pylist())
    if hints.null_count == batch.num_rows:  # nearly always, and ten times as fast
        yield [b""] * batch.num_rows
    else:
        yield node_lists(hints.to_pylist())


class _ArrowFile:
    """An Arrow file made part by part, so that a large partition is never in memory twice."""

    def __init__(self, source: Iterator[Columns]) -> None:
        self.records = 0
        self.size = 0
        self.closed = False
        self._source = source
        self._parts: list[bytes] = []
        self._hash = _checksum(b"")

    def write(self, part: bytes | pa.Buffer) -> None:
        """Called by pyarrow, which takes this for a Python file."""
        self._parts.append(bytes(part))

    def flush(self) -> None:
        """Called by pyarrow; there is nothing to do."""

    def parts(self) -> Iterator[bytes]:
        with pa.ipc.new_file(self, SCHEMA) as writer:
            for columns in self._source:
                self.records += len(columns.keys)
                writer.write_batch(_batch(columns))
                yield self._taken()
        yield self._taken()

    def seal(self) -> FileSeal:
        return FileSeal(self.size, self._hash.hexdigest(), self.records)

    def _taken(self) -> bytes:
        part = b"".join(self._parts)
        self._parts.clear()
        self._hash.update(part)
        self.size += len(part)
        return part


class _failing:
    """Turns the disk's errors into the snapshot's. Nothing was given up for it: the store lives."""

    def __init__(self, disk: Disk, number: int) -> None:
        self._where = f"{disk.name}/{directory(number)}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, WriteFailedError | SyncFailedError):
            raise SnapshotFailedError(
                f"{self._where} was given up ({error}); take another one"
            ) from error


def _slices(records: Iterable[Record]) -> Iterator[Columns]:
    source = iter(records)
    while taken := _some(source):
        yield columns_of(taken)


def _some(source: Iterator[Record]) -> list[Record]:
    """The next records: so many, or so many bytes."""
    taken: list[Record] = []
    size = 0
    for record in islice(source, BATCH_ROWS):
        taken.append(record)
        size += len(record.key) + len(record.state or b"")
        if size >= BATCH_BYTES:
            break
    return taken


def _batch(columns: Columns) -> pa.RecordBatch:
    partitions, keys, states, hints = columns
    arrays = [
        pa.array(partitions, UINT32),
        pa.array(keys, BINARY),
        pa.array(states, BINARY),
        pa.array([one or None for one in hints] or [None] * len(keys), BINARY),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether a RecordBatch message has a field `compression`, its fourth.

    Asked before pyarrow would inflate it: 33 KB can be made to grow to a gigabyte.
    """
    table = memoryview(metadata)
    message = struct.unpack_from("<I", table, 0)[0]
    header_at = message + _field(table, message, 2)
    header = header_at + int(struct.unpack_from("<I", table, header_at)[0])
    return _field(table, header, 3) != 0


def _field(table: memoryview, at: int, number: int) -> int:
    """The offset of a flatbuffer table's field from the table; 0 if it is absent."""
    fields = at - struct.unpack_from("<i", table, at)[0]
    size: int = struct.unpack_from("<H", table, fields)[0]
    place = 4 + 2 * number
    return int(struct.unpack_from("<H", table, fields + place)[0]) if place < size else 0


def _partition(name: str) -> int:
    match = FILE.fullmatch(name)
    if match is None:
        raise DamagedFileError(f"a file that no snapshot has: {name!r}")
    return int(match[1])


def _seal(size: Any, checksum: Any, records: Any) -> FileSeal:
    if type(checksum) is not str:
        raise DamagedFileError(f"{checksum!r} where a checksum must be")
    return FileSeal(_count(size), checksum, _count(records))


def _count(said: Any) -> int:
    if type(said) is not int or not 0 <= said < 1 << 63:
        raise DamagedFileError(f"{said!r} where a number of bytes, records or frames must be")
    return said


def _checksum(content: bytes) -> Any:
    return blake2b(content, digest_size=16)
