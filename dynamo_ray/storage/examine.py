"""Looking into a node's directory without a node: what is in it, and whether all of it is right.

    examine ─► recovery itself, on a Rehearsal: it decides; its changes are listed, none is made

Beyond the checksums that every start tests, a judge reads each state strictly and asks whether each
key lies in its partition: bytes that are as they were written, by a node that was wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from dynamo_ray.core.hints import owners_in
from dynamo_ray.core.ring import partitions_of
from dynamo_ray.core.version import Kind, decode, is_canonical, is_expired
from dynamo_ray.storage import identity as identities
from dynamo_ray.storage import quarantine
from dynamo_ray.storage.codec import Columns
from dynamo_ray.storage.damage import NODE, NOTHING, Damage, Judge, Misfit
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import MissingFileError, StorageError
from dynamo_ray.storage.frames import Frame, scan
from dynamo_ray.storage.identity import Identity
from dynamo_ray.storage.log import NAME as SEGMENT_NAME
from dynamo_ray.storage.log import REACHED, segment_path, segments_on
from dynamo_ray.storage.ownership import LOCK, Opening
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.recovery import SEGMENT_BYTES_READ
from dynamo_ray.storage.rehearsal import Act, Rehearsal
from dynamo_ray.storage.sealed import unseal_bytes
from dynamo_ray.storage.snapshot import DIRECTORY
from dynamo_ray.storage.store import UNSYNCED, Store
from dynamo_ray.storage.views import BYTES_MAX as VIEW_BYTES_MAX
from dynamo_ray.storage.views import PATH as VIEW

KEY_BYTES_MAX = 65_535
OWN_NAMES = frozenset({identities.PATH, LOCK, REACHED, UNSYNCED, VIEW, quarantine.FOLDER})
ASIDE_ENDINGS = (".new", ".aside")


@dataclass(frozen=True, slots=True)
class Examination:
    """What a start would find, and the changes that it would make (`acts`)."""

    identity: Identity
    found: Recovery
    acts: list[Act]

    @property
    def damages(self) -> list[Damage]:
        """All that no crash leaves; empty for a clean directory."""
        return self.found.damages


@dataclass(frozen=True, slots=True)
class Segment:
    """A log segment. `first` and `last` are the positions of its readable frames, 0 for none."""

    number: int
    size: int
    frames: int
    first: int
    last: int


@dataclass(slots=True)
class Counts:
    """What is held. `values` and `expired` count versions, `siblings` keys with several values,
    `size` the bytes of keys and states."""

    keys: int = 0
    values: int = 0
    tombstones: int = 0
    siblings: int = 0
    expired: int = 0
    size: int = 0
    hints: Counter[bytes] = field(default_factory=Counter)


def is_node_directory(disk: Disk) -> bool:
    """True if a storage node has lived there, whatever is left of it."""
    names = disk.names("")
    return identities.PATH in names or any(
        SEGMENT_NAME.fullmatch(name) or DIRECTORY.fullmatch(name) for name in names
    )


def opening_of(identity: Identity, boot_id: str, now_ms: int) -> Opening:
    """What the node that lives there would say of itself."""
    return Opening(
        identity.cluster_id,
        identity.node_id,
        b"",
        identity.name,
        identity.partitions,
        identity.durability,
        boot_id,
        now_ms,
        False,
    )


def examine(disk: Disk, opening: Opening) -> Examination:
    """Read every byte that a start would read, and more strictly. Changes nothing.

    Raises a DirectoryRefusedError where a start would be refused.
    """
    rehearsal = Rehearsal(disk)
    store = Store.open(rehearsal, opening)
    found = store.recover(judge=judge_of(opening.partitions))
    found.damages += damages_to_view(disk)
    return Examination(store.identity, found, rehearsal.acts)


def judge_of(partitions: int) -> Judge:
    """Objects to rows that no node of a ring of so many partitions can have written."""

    def judge(columns: Columns) -> Iterator[Misfit]:
        due = partitions_of(columns.keys, partitions)
        for row, (place, key, state, _) in enumerate(zip(*columns, strict=True)):
            if place != due[row]:
                yield Misfit(row, "of keys that lie in other partitions", (place, due[row]))
            elif not 0 < len(key) <= KEY_BYTES_MAX:
                yield Misfit(row, "of keys that are too short or too long", (place,))
            elif state is not None and not is_canonical(state):
                yield Misfit(row, "whose states are not in canonical form", (place,))

    return judge


def segments_in(disk: Disk, seed: int) -> list[Segment]:
    """The log's segments, oldest first; those that cannot be read have no frames."""
    return [_segment(disk, seed, number) for number in segments_on(disk)]


def count(found: Recovery, now_ms: int) -> Counts:
    """Count what recovery found; `now_ms` is the wall time that decides what is expired."""
    counts = Counts()
    for of in found.maps:
        counts.keys += len(of)
        for key, state in of.items():
            counts.size += len(key) + len(state)
            kinds = Counter[int]()
            for version in decode(state).versions:
                counts.expired += is_expired(version, now_ms)
                kinds[version.kind] += 1
            counts.values += kinds[Kind.VALUE]
            counts.tombstones += kinds[Kind.TOMBSTONE]
            counts.siblings += kinds[Kind.VALUE] > 1
    for owners in found.hints.values():
        counts.hints.update(owners_in(owners))
    return counts


def set_aside(disk: Disk) -> list[tuple[str, int]]:
    """The damaged bytes that are kept for people: their names and lengths."""
    return [
        (name, _size(disk, f"{quarantine.FOLDER}/{name}")) for name in disk.names(quarantine.FOLDER)
    ]


def strangers(disk: Disk) -> list[str]:
    """Names that no node gives to a file; nobody touches them."""
    return [
        name
        for name in disk.names("")
        if name not in OWN_NAMES
        and not name.endswith(ASIDE_ENDINGS)
        and not SEGMENT_NAME.fullmatch(name)
        and not DIRECTORY.fullmatch(name)
    ]


def missing(name: str) -> Damage:
    """A directory of which nothing is there."""
    text = "the directory is missing: a start would begin with an empty one"
    return Damage(name, 0, 0, text, NODE)


def damages_to_view(disk: Disk) -> Iterator[Damage]:
    """What no recovery reads: losing it costs nothing, but a disk is failing."""
    try:
        unseal_bytes(disk.read(VIEW, 0, VIEW_BYTES_MAX))
    except MissingFileError:
        return
    except StorageError as error:
        yield Damage(VIEW, 0, 0, f"{VIEW} is damaged and would not be used ({error})", NOTHING)


def _segment(disk: Disk, seed: int, number: int) -> Segment:
    path, content = segment_path(number), b""
    with suppress(StorageError):
        content = disk.read(path, 0, SEGMENT_BYTES_READ)
    positions = [
        piece.position for piece in scan(content, seed, number) if isinstance(piece, Frame)
    ]
    first, last = (positions[0], positions[-1]) if positions else (0, 0)
    return Segment(number, _size(disk, path), len(positions), first, last)


def _size(disk: Disk, path: str) -> int:
    with suppress(StorageError):
        return disk.size(path)
    return 0
