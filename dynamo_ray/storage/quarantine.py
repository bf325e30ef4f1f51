"""Damaged bytes, kept for people in the folder `quarantine`, never read again by a node.

Small pieces are copied there. What cannot be used at all is moved, as it may be of any length. At a
start that is best effort, since a full disk is no reason not to start; a repair insists on it.
"""

from __future__ import annotations

from contextlib import suppress

from dynamo_ray.storage.disk import Disk
from dynamo_ray.storage.errors import StorageError, UnsafePathError
from dynamo_ray.storage.snapshot import MANIFEST, directory

FOLDER = "quarantine"


def place_of(path: str) -> str:
    """Where a file, or a piece that is named like one, is kept."""
    return f"{FOLDER}/{path.replace('/', '-')}"


def copy(disk: Disk, name: str, content: bytes) -> None:
    """Keep these bytes, if the disk takes them."""
    with suppress(StorageError):
        disk.make_dir(FOLDER)
        disk.write(place_of(name), [content])


def move(disk: Disk, path: str) -> None:
    """Keep a file, if it can be moved."""
    with suppress(StorageError):
        disk.make_dir(FOLDER)
        disk.rename(path, place_of(path))


def move_generation(disk: Disk, number: int) -> None:
    """Keep a whole snapshot. Its manifest goes last: until then the rest does not pass for one
    that was never finished."""
    try:
        names = set(disk.names(directory(number))) - {MANIFEST}
    except StorageError:  # no directory, but a link or a file of that name
        move(disk, directory(number))
        return
    for name in [*sorted(names), MANIFEST]:
        move(disk, f"{directory(number)}/{name}")


def replace(disk: Disk, path: str, successor: str) -> None:
    """Keep the file, durably, and put another one (synced, "": none) in its place.

    Raises WriteFailedError, SyncFailedError.
    """
    disk.make_dir(FOLDER)
    place, copies = place_of(path), 1
    while disk.exists(place):
        copies += 1
        place = f"{place_of(path)}-copy-{copies}"
    disk.rename(path, place)
    disk.sync_dir(FOLDER)
    if successor:
        disk.rename(successor, path)
    disk.sync_dir("")


def make_durable(disk: Disk) -> None:
    """What was kept is durable, with its names. WriteFailedError, SyncFailedError."""
    disk.make_dir(FOLDER)
    for name in disk.names(FOLDER):
        with suppress(UnsafePathError):  # a link or a pipe that was moved: it has no bytes
            disk.sync(f"{FOLDER}/{name}")
    disk.sync_dir(FOLDER)
    disk.sync_dir("")
