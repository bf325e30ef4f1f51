"""What can go wrong with a node's directory, as types; each message says what to do, and where.

Three families. A DirectoryRefusedError ends a start before anything was changed. A disk's errors
(WriteFailedError, SyncFailedError, ...) say what one call did. The store turns them into what its
caller must act on: AppendFailedError, SnapshotFailedError, and SyncFailedError as it is.
"""

from __future__ import annotations


class StorageError(Exception):
    """Anything that this package raises on purpose."""


class UnsafePathError(StorageError, ValueError):
    """A name that leads, or could lead, out of the data directory."""


class MissingFileError(StorageError):
    """A file that is not there."""


class ReadFailedError(StorageError):
    """The disk would not give back what it holds."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read {path} ({reason}); check the disk")


class WriteFailedError(StorageError):
    """The disk took only part of some bytes: full, over quota, read-only, or broken.

    `written` is how many bytes it took; after an input/output error it may be off.
    """

    def __init__(self, path: str, written: int, reason: str) -> None:
        super().__init__(
            f"cannot write {path} ({reason}, {written} bytes were taken);"
            " free some space, or check the disk"
        )
        self.written = written


class SyncFailedError(StorageError):
    """An fsync failed. Fatal: the bytes may be dropped already, so a second try proves nothing."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"cannot make {path} durable ({reason}); check the disk and start the node again"
        )


class AppendFailedError(StorageError):
    """Nothing of an append is acknowledged. With `cut_back` nothing of it is left either.

    Without, part or all of it may be read again after a crash: its outcome is unknown.
    """

    def __init__(self, cut_back: bool, reason: str) -> None:
        left = "nothing of it is left" if cut_back else "parts of it may be left"
        super().__init__(f"the log took no records, {left}: {reason}")
        self.cut_back = cut_back


class SnapshotFailedError(StorageError):
    """A snapshot was given up; the one before it, and the log, are as they were."""


class RecordTooLargeError(StorageError, ValueError):
    """A record that no frame can hold; nothing was written."""


class MalformedBatchError(StorageError, ValueError):
    """Bytes that are not a record batch of ours."""


class DamagedFileError(StorageError):
    """A file whose content does not fit its checksum."""


class DirectoryRefusedError(StorageError):
    """The data directory cannot be used as it is; nothing in it was changed."""


class ForeignDirectoryError(DirectoryRefusedError):
    """The directory belongs to another cluster or to another node."""


class NewerFormatError(DirectoryRefusedError):
    """The directory was written by a newer version."""


class DirectoryInUseError(DirectoryRefusedError):
    """Somebody who is alive has the directory open."""


class DamagedIdentityError(DirectoryRefusedError):
    """The directory's IDENTITY cannot be trusted, or is gone while there is a log."""
