"""Where backups lie: a folder of this machine, or an object store through pyarrow's file systems.

A place is a `Folder`. A local one is a RealDisk (checked names, no symbolic links, fsync); any
other is a RemoteFolder, where a file is there, and durable, once it has been written to its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import fs

from dynamo_ray.storage.disk import Folder, RealDisk, check_path
from dynamo_ray.storage.errors import (
    MissingFileError,
    ReadFailedError,
    UnsafePathError,
    WriteFailedError,
)

PROBLEMS = (pa.ArrowException, OSError)


def open_place(where: str, *, new: bool = False) -> Folder:
    """The folder at a path or URI; made if it is `new`. MissingFileError, ReadFailedError."""
    local = where
    if "://" in where:
        try:
            system, path = fs.FileSystem.from_uri(where)
        except (*PROBLEMS, ValueError) as error:
            raise ReadFailedError(where, f"no place that pyarrow knows: {error}") from error
        if not isinstance(system, fs.LocalFileSystem):
            return RemoteFolder(system, path, where)
        local = path
    local = os.path.abspath(os.path.expanduser(local))
    if not new and not os.path.isdir(local):
        raise MissingFileError(f"{local} is no folder")
    return RealDisk(local)


class RemoteFolder:
    """A folder in one of pyarrow's file systems. Names are checked as on a RealDisk."""

    def __init__(self, system: Any, path: str, name: str) -> None:
        self.name = name
        self._system = system
        self._path = path.rstrip("/")

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        with self._reading(path), self._system.open_input_file(self._where(path)) as file:
            file.seek(start)
            return bytes(file.read(size))

    def size(self, path: str) -> int:
        with self._reading(path):
            found = self._system.get_file_info(self._where(path))
        if found.type == fs.FileType.NotFound:
            raise MissingFileError(f"{self.name}/{path}")
        if found.type != fs.FileType.File:
            raise UnsafePathError(f"{self.name}/{path} is no plain file; remove it")
        return int(found.size)

    def exists(self, path: str) -> bool:
        with self._reading(path):
            found = self._system.get_file_info(self._where(path))
        return bool(found.type != fs.FileType.NotFound)

    def names(self, path: str) -> list[str]:
        with self._reading(path):
            asked = fs.FileSelector(self._where(path), allow_not_found=True)
            return sorted(one.base_name for one in self._system.get_file_info(asked))

    def make_dir(self, path: str) -> None:
        with self._writing(path):
            self._system.create_dir(self._where(path), recursive=True)

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        with self._writing(path), self._system.open_output_stream(self._where(path)) as file:
            for part in parts:
                file.write(part)

    def sync(self, path: str) -> None:
        """Nothing: it is durable since it was closed."""

    def sync_dir(self, path: str) -> None:
        """Nothing: an object store keeps no directories."""

    def rename(self, before: str, after: str) -> None:
        with self._writing(after):
            self._system.move(self._where(before), self._where(after))

    def remove(self, path: str) -> None:
        with self._writing(path):
            found = self._system.get_file_info(self._where(path))
            if found.type == fs.FileType.Directory:
                self._system.delete_dir(self._where(path))
            elif found.type != fs.FileType.NotFound:
                self._system.delete_file(self._where(path))

    def _where(self, path: str) -> str:
        if not path:
            return self._path
        check_path(path)
        return f"{self._path}/{path}"

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingFileError(f"{self.name}/{path}") from error
        except PROBLEMS as error:
            raise ReadFailedError(f"{self.name}/{path}", str(error)) from error

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        try:
            yield
        except PROBLEMS as error:
            raise WriteFailedError(f"{self.name}/{path}", 0, str(error)) from error
