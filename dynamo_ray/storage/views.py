"""The file VIEW: what a node knew of the cluster when it last noted it (core/membership.py).

What it wrote of its own slots is durable there before anybody else hears of it (DESIGN rule 15). A
damaged file counts as none: what others wrote they tell again.
"""

from __future__ import annotations

from pathlib import Path

import msgpack

from dynamo_ray.core.membership import View, view_from
from dynamo_ray.storage.disk import Disk, RealDisk
from dynamo_ray.storage.errors import StorageError
from dynamo_ray.storage.sealed import replace_file, seal_bytes, unseal_bytes

PATH = "VIEW"
BYTES_MAX = 64 * 1024 * 1024


def save_view(disk: Disk, view: View) -> None:
    """Durable when it returns. WriteFailedError, SyncFailedError."""
    replace_file(disk, PATH, seal_bytes(msgpack.packb(view.to_rows())))


def load_view(disk: Disk) -> View | None:
    """The view that was saved; None for none, and for one that cannot be read."""
    try:
        return view_from(msgpack.unpackb(unseal_bytes(disk.read(PATH, 0, BYTES_MAX)), raw=False))
    except (StorageError, ValueError, TypeError):
        return None


def read_view(folder: Path) -> View | None:
    """The same from a directory that somebody may have open: it is only looked at."""
    try:
        disk = RealDisk(folder, create=False)
    except StorageError:
        return None
    try:
        return load_view(disk)
    finally:
        disk.close()
