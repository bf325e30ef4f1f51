"""Making a damaged directory clean: what a start would do, and then nothing damaged is left in it.

    recover ─► doubt, durably ─► a new snapshot ─► damaged segments aside, their whole frames back

What was recovered is in the new snapshot before anything is taken away. All of a damaged file goes
to `quarantine/`. The log's whole frames stay, though the snapshot covers them, because retries are
recognised from them (DESIGN rule 7): only the put ids in damaged frames are lost.
"""

from __future__ import annotations

from collections.abc import Iterator

from dynamo_ray.storage import quarantine
from dynamo_ray.storage.codec import Columns, Record, decode_columns, encode_columns, without
from dynamo_ray.storage.damage import Judge
from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import MalformedBatchError
from dynamo_ray.storage.examine import damages_to_view, judge_of
from dynamo_ray.storage.frames import (
    BATCH,
    SEGMENT_BYTES,
    Frame,
    Owner,
    first_position,
    frame,
    scan,
    segment_header,
)
from dynamo_ray.storage.log import REACHED, segment_path, segments_on
from dynamo_ray.storage.ownership import Opening
from dynamo_ray.storage.recovered import Recovery
from dynamo_ray.storage.recovery import SEGMENT_BYTES_READ
from dynamo_ray.storage.sealed import ASIDE as BESIDE
from dynamo_ray.storage.store import Store
from dynamo_ray.storage.views import PATH as VIEW


def mend(disk: Disk, opening: Opening, random8: bytes) -> Recovery:
    """Mend the directory; what was found. Like a start it needs a new incarnation: `random8`.

    Raises a DirectoryRefusedError where a start would be refused, and a disk's errors. Whenever it
    stops, what is left is as good as it was, and it can be done again.
    """
    judge = judge_of(opening.partitions)
    store = Store.open(disk, opening)
    try:
        found = store.recover(judge=judge)
        _keep(disk, found)
        store.new_incarnation(opening.now_ms, random8)
        _take_snapshot(store, found)
        hurt = {damage.path for damage in [*found.damages, *damages_to_view(disk)]}
        for path in (REACHED, VIEW):  # the one is written anew at the end, the other by a server
            if path in hurt and disk.exists(path):
                quarantine.replace(disk, path, "")
        for number in segments_on(disk):
            if segment_path(number) in hurt:
                _replace(disk, store.owner, number, opening.partitions, judge)
    finally:
        store.close()
    return found


def _keep(disk: Disk, found: Recovery) -> None:
    """Make durable what is set aside, before what it was taken from goes."""
    disk.make_dir(quarantine.FOLDER)
    for damage in found.damages:
        if "/" in damage.path and disk.exists(damage.path):  # a snapshot's file, in use in part
            disk.write(quarantine.place_of(damage.path), [disk.read(damage.path)])
    quarantine.make_durable(disk)


def _take_snapshot(store: Store, found: Recovery) -> None:
    taking = store.begin_snapshot()
    for partition, of in enumerate(found.maps):
        hints = found.hints
        taking.write(
            partition, (Record(partition, k, state, hints.get(k, b"")) for k, state in of.items())
        )
    taking.finish()


def _replace(disk: Disk, owner: Owner, number: int, partitions: int, judge: Judge) -> None:
    """Put the segment aside as it is, and its whole frames in its place."""
    path = segment_path(number)
    later = [one for one in segments_on(disk) if one > number]
    stop = _first(disk, owner, later[0]) if later else None
    content = disk.read(path, 0, SEGMENT_BYTES_READ)
    first = _first(disk, owner, number)
    rewritten: list[bytes] = []
    if first is not None:
        rewritten.append(segment_header(owner, number, first))
        pieces = scan(content, owner.seed, number)
        frames = [one for one in pieces if isinstance(one, Frame)]
        whole = [one for one in frames if stop is None or one.position < stop]
        rewritten += _rewritten(whole, owner, number, partitions, judge)
    if rewritten:
        disk.write(path + BESIDE, rewritten)
        disk.sync(path + BESIDE)
    quarantine.replace(disk, path, path + BESIDE if rewritten else "")


def _first(disk: Disk, owner: Owner, number: int) -> int | None:
    """The position of a segment's first frame, by its header or by the frame itself."""
    content = disk.read(segment_path(number), 0, SEGMENT_BYTES_READ)
    first = first_position(content[:SEGMENT_BYTES], owner, number)
    if first is not None:
        return first
    pieces = scan(content, owner.seed, number)
    return next((one.position for one in pieces if isinstance(one, Frame)), None)


def _rewritten(
    frames: list[Frame], owner: Owner, number: int, partitions: int, judge: Judge
) -> Iterator[bytes]:
    """The frames again, each at its new place, without what is damaged or cannot be."""
    offset = SEGMENT_BYTES
    for one in frames:
        payload, places = one.payload, one.partitions
        if one.kind == BATCH:
            columns = _fitting(payload, partitions, judge)
            if columns is None:
                continue
            payload, places = encode_columns(columns), tuple(sorted(set(columns.partitions)))
        made = frame(
            owner.seed, number, offset, one.position, places or (), payload or b"", one.kind
        )
        offset += len(made)
        yield made


def _fitting(payload: bytes | None, partitions: int, judge: Judge) -> Columns | None:
    """The records of a frame that a node can have written; None if there are none."""
    try:
        columns = decode_columns(payload or b"")
    except MalformedBatchError:
        return None
    if max(columns.partitions) >= partitions:
        return None
    fitting = without(columns, {misfit.row for misfit in judge(columns)})
    return fitting if fitting.keys else None
