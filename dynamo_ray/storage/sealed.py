"""Small files under a checksum: IDENTITY, the MANIFEST of a snapshot or backup (JSON), VIEW.

A sealed file is exactly the bytes that `seal` gives for its content: people can read it, and no
accident changes it unnoticed. It is replaced as a whole: written aside, synced, renamed, and the
directory synced; whoever reads it finds the old or the new one.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from dynamo_ray.storage.disk import Folder
from dynamo_ray.storage.errors import DamagedFileError

ASIDE = ".new"
# What a server remembers of the others; nothing in storage reads what it says.
VIEW = "VIEW"
VIEW_BYTES_MAX = 1 << 20
BYTES_MAX = 16 << 20
DIGEST_BYTES = 16


def seal(content: dict[str, Any]) -> bytes:
    """The file of `content`: plain JSON with a checksum of the rest."""
    digest = blake2b(_text(content).encode(), digest_size=16).hexdigest()
    return _text({**content, "checksum": digest}).encode()


def unseal(sealed: bytes) -> dict[str, Any]:
    """What was sealed. Raises DamagedFileError for anything else."""
    try:
        content = json.loads(sealed)
        content.pop("checksum")
        is_whole = seal(content) == sealed
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DamagedFileError(f"not a sealed file ({error})") from error
    if not is_whole:
        raise DamagedFileError("the checksum does not fit")
    return dict(content)


def seal_bytes(content: bytes) -> bytes:
    """Bytes behind a checksum of them."""
    return blake2b(content, digest_size=DIGEST_BYTES).digest() + content


def unseal_bytes(sealed: bytes) -> bytes:
    """What `seal_bytes` was given. Raises DamagedFileError for anything else."""
    content = sealed[DIGEST_BYTES:]
    if seal_bytes(content) != sealed:
        raise DamagedFileError("the checksum does not fit")
    return content


def write_sealed(disk: Folder, path: str, content: dict[str, Any]) -> None:
    """Durable when it returns. WriteFailedError, SyncFailedError."""
    replace_file(disk, path, seal(content))


def replace_file(disk: Folder, path: str, content: bytes) -> None:
    """Durable when it returns; until then the old file or the new. Raises as `write_sealed`."""
    disk.write(path + ASIDE, [content])
    disk.sync(path + ASIDE)
    disk.rename(path + ASIDE, path)
    disk.sync_dir(path.rpartition("/")[0])


def read_sealed(disk: Folder, path: str) -> dict[str, Any]:
    """What `write_sealed` wrote. DamagedFileError, MissingFileError, ReadFailedError."""
    if disk.size(path) > BYTES_MAX:
        raise DamagedFileError(f"{path} is too long")
    return unseal(disk.read(path))


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
