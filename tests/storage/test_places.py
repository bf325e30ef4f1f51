"""Places for backups: a local folder and any file system of pyarrow's behave alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from dynamo_ray.storage.archive import (
    NewBackup,
    Origin,
    free_name,
    names_of,
    read_backup,
    read_file,
)
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.disk import Folder, RealDisk
from dynamo_ray.storage.errors import (
    MissingFileError,
    ReadFailedError,
    UnsafePathError,
    WriteFailedError,
)
from dynamo_ray.storage.places import RemoteFolder, open_place

ORIGIN = Origin("carts", "00" * 16, 3, 2, 2, 1, 0, "1", ["n1"], [])
STATE = bytes.fromhex("01000000000000000000000000")


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return RealDisk(tmp_path / "place")
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    system.create_dir("place")
    return RemoteFolder(system, "place", "test://place")


def test_what_is_written_is_read(place: Folder) -> None:
    place.make_dir("a")
    place.make_dir("a")
    assert place.names("a") == [] and place.names("b") == []
    place.write("a/one", [b"first ", b"second"])
    place.sync("a/one")
    place.sync_dir("a")
    assert place.read("a/one") == b"first second" and place.read("a/one", 6, 3) == b"sec"
    assert place.size("a/one") == 12 and place.exists("a/one") and not place.exists("a/two")
    place.write("a/two", [b"x"])
    place.rename("a/two", "a/one")
    assert place.names("a") == ["one"] and place.read("a/one") == b"x"
    place.remove("a/one")
    place.remove("a/one")
    place.remove("a")
    assert place.names("") == []


def test_what_is_not_there_is_missing(place: Folder) -> None:
    for path in ("a", "a/b"):
        with pytest.raises(MissingFileError):
            place.read(path)
        with pytest.raises(MissingFileError):
            place.size(path)
        assert not place.exists(path)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a//x", ".x", "a/"])
def test_a_name_that_leads_elsewhere_is_refused(place: Folder, path: str) -> None:
    for act in (place.read, place.size, place.remove, place.make_dir):
        with pytest.raises(UnsafePathError):
            act(path)
    with pytest.raises(UnsafePathError):
        place.write(path, [b"x"])


def test_a_folder_is_no_file(place: Folder) -> None:
    place.make_dir("a")
    with pytest.raises((UnsafePathError, ReadFailedError)):
        place.size("a")
    with pytest.raises((UnsafePathError, WriteFailedError)):
        place.write("a", [b"x"])


def test_a_backup_is_whole_in_either(place: Folder) -> None:
    name = free_name(place, "carts", "20260101T000000Z")
    new = NewBackup(place, name)
    records = [Record(0, b"%04d" % i, STATE, b"") for i in range(9000)]
    new.write(0, iter(records))
    made = new.finish(ORIGIN)
    assert names_of(place) == [name] and read_backup(place, name) == made
    assert read_file(place, made, 0).keys == [record.key for record in records]
    assert free_name(place, "carts", "20260101T000000Z") == f"{name}-2"


def test_a_place_is_opened_by_path_or_uri(tmp_path: Path) -> None:
    assert isinstance(open_place(str(tmp_path)), RealDisk)
    assert open_place(tmp_path.as_uri()).name == str(tmp_path)
    with pytest.raises(MissingFileError):
        open_place(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    open_place(str(tmp_path / "new" / "deep"), new=True)
    assert (tmp_path / "new" / "deep").is_dir()
    remote = open_place("mock:///there")
    assert isinstance(remote, RemoteFolder) and remote.name == "mock:///there"
    with pytest.raises(ReadFailedError, match="no place that pyarrow knows"):
        open_place("nowhere://x")
