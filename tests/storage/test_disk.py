"""The contract of a disk, over a real directory and two in memory; then what only the real has."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from dynamo_ray.sim.disk import SimulatedDisk
from dynamo_ray.storage.disk import Disk, Handle, RealDisk
from dynamo_ray.storage.errors import (
    DirectoryInUseError,
    MissingFileError,
    SyncFailedError,
    UnsafePathError,
    WriteFailedError,
)
from tests.storage.disks import MemoryDisk

MAKERS: dict[str, Callable[[Path], Disk]] = {
    "real": lambda path: RealDisk(path / "node"),
    "memory": lambda path: MemoryDisk(),
    "simulated": lambda path: SimulatedDisk("n1", Random(1)),
}


@pytest.fixture(params=MAKERS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = MAKERS[request.param](tmp_path)
    yield disk
    disk.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealDisk]:
    disk = RealDisk(tmp_path / "node")
    yield disk
    disk.close()


# ---- the contract


def test_a_file_is_written_as_a_whole_and_read_in_parts(disk: Disk) -> None:
    disk.write("a", [b"012", b"", b"3456789"])
    assert disk.read("a") == b"0123456789"
    assert disk.read("a", 2, 3) == b"234"
    assert disk.read("a", 8, 100) == b"89"
    assert disk.read("a", 20) == b""
    assert disk.size("a") == 10
    disk.write("a", [b"new"])
    assert disk.read("a") == b"new"


def test_appends_go_to_the_end_also_after_a_cut(disk: Disk) -> None:
    disk.write("log", [b"head"])
    disk.append("log", b"one")
    disk.append("log", b"two")
    disk.truncate("log", 7)
    disk.append("log", b"three")
    disk.sync("log")
    assert disk.read("log") == b"headonethree"
    disk.write("log", [b"again"])
    disk.append("log", b"!")
    assert disk.read("log") == b"again!"


def test_directories_hold_names(disk: Disk) -> None:
    assert disk.names("") == [] and disk.names("sub") == []
    disk.make_dir("sub")
    disk.make_dir("sub")
    disk.write("sub/b", [b"1"])
    disk.write("sub/a", [b"2"])
    disk.write("c", [b"3"])
    assert disk.names("sub") == ["a", "b"]
    assert disk.names("") == ["c", "sub"]
    assert disk.exists("sub/a") and disk.exists("sub") and not disk.exists("sub/c")
    disk.sync_dir("sub")
    disk.sync_dir("")


def test_a_rename_replaces(disk: Disk) -> None:
    disk.write("a", [b"old"])
    disk.append("a", b"er")
    disk.write("a.new", [b"new"])
    disk.append("a.new", b"er")
    disk.rename("a.new", "a")
    disk.append("a", b"!")
    assert disk.read("a") == b"newer!"
    assert disk.names("") == ["a"]


def test_removing_is_idempotent(disk: Disk) -> None:
    disk.make_dir("sub")
    disk.write("sub/a", [b"1"])
    disk.remove("sub/a")
    disk.remove("sub/a")
    disk.remove("sub")
    disk.remove("sub")
    assert disk.names("") == []


def test_a_missing_file_is_said(disk: Disk) -> None:
    for call in (disk.read, disk.size):
        with pytest.raises(MissingFileError):
            call("nothing")
    assert not disk.exists("nothing")


def test_the_lock_is_held_until_close(disk: Disk) -> None:
    disk.lock("LOCK")
    with pytest.raises(DirectoryInUseError):
        (RealDisk(disk.name) if isinstance(disk, RealDisk) else disk).lock("LOCK")
    disk.close()
    disk.lock("LOCK")
    disk.close()
    disk.close()


# ---- a real directory


UNSAFE = [
    "../out",
    "a/../../out",
    "/etc/passwd",
    "a//b",
    "a/./b",
    "..",
    ".",
    "",
    "a\0b",
    "..%2fout",
    "a b",
    "a\n",
    "~root",
    "ä",
    "a" * 200,
]


@pytest.mark.parametrize("path", UNSAFE)
def test_names_that_could_lead_out_are_refused(real: RealDisk, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: real.read(path),
        lambda: real.write(path, [b"x"]),
        lambda: real.append(path, b"x"),
        lambda: real.truncate(path, 0),
        lambda: real.rename("a", path),
        lambda: real.rename(path, "a"),
        lambda: real.remove(path),
        lambda: real.make_dir(path),
        lambda: real.lock(path),
        lambda: real.size(path),
    ]
    for call in calls:
        with pytest.raises(UnsafePathError):
            call()


def test_symbolic_links_are_never_followed(real: RealDisk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"mine")
    root = tmp_path / "node"
    (root / "link").symlink_to(outside / "file")
    (root / "new").symlink_to(outside / "new")
    (root / "dir").symlink_to(outside)
    calls: list[Callable[[], object]] = [
        lambda: real.read("link"),
        lambda: real.size("link"),
        lambda: real.write("link", [b"x"]),
        lambda: real.append("link", b"x"),
        lambda: real.truncate("link", 0),
        lambda: real.sync("link"),
        lambda: real.write("new", [b"x"]),
        lambda: real.lock("new"),
        lambda: real.write("dir/file", [b"x"]),
        lambda: real.read("dir/file"),
        lambda: real.remove("dir/file"),
        lambda: real.names("dir"),
        lambda: real.rename("dir/file", "file"),
        lambda: real.make_dir("dir"),
        lambda: real.sync_dir("dir"),
    ]
    for call in calls:
        with pytest.raises(UnsafePathError):
            call()
    assert sorted(os.listdir(outside)) == ["file"]
    assert (outside / "file").read_bytes() == b"mine"


def test_a_link_itself_can_be_removed_or_replaced(real: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    for name in ("a", "b"):
        (tmp_path / "node" / name).symlink_to(tmp_path / "outside")
    real.remove("a")
    real.write("b.new", [b"ours"])
    real.rename("b.new", "b")
    assert real.read("b") == b"ours" and (tmp_path / "outside").read_bytes() == b"mine"


def test_a_pipe_is_refused_and_does_not_hang(real: RealDisk, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "node" / "pipe")
    with pytest.raises(UnsafePathError):
        real.read("pipe")
    with pytest.raises((UnsafePathError, WriteFailedError)):
        real.append("pipe", b"x")


def test_what_a_full_disk_took_is_said(real: RealDisk) -> None:
    real.write("log", [b"x" * 1000])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(WriteFailedError, match="500 bytes were taken") as refused:
            real.append("log", b"y" * 1000)
        assert refused.value.written == 500 and real.size("log") == 1500
        with pytest.raises(WriteFailedError, match="log"):
            real.append("log", b"y")
        with pytest.raises(WriteFailedError) as refused:
            real.write("whole", [b"a" * 1000, b"b" * 1000])
        assert refused.value.written == 1500
        real.truncate("log", 1000)
        real.append("log", b"z" * 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert real.read("log") == b"x" * 1000 + b"z" * 500


def test_a_failed_sync_is_said(real: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    real.write("log", [b"1"])
    monkeypatch.setattr(os, "fsync", fails)
    for path in ("log", ""):
        with pytest.raises(SyncFailedError, match=r"node.*\(Input/output error\)"):
            (real.sync if path else real.sync_dir)(path)


def test_an_append_to_nothing_makes_nothing(real: RealDisk) -> None:
    with pytest.raises(WriteFailedError):
        real.append("log", b"x")
    assert real.names("") == []


def test_files_are_for_their_owner_only(real: RealDisk, tmp_path: Path) -> None:
    real.write("a", [b"x"])
    real.make_dir("sub")
    real.lock("LOCK")
    modes = {name: (tmp_path / "node" / name).stat().st_mode & 0o777 for name in real.names("")}
    assert modes == {"a": 0o600, "sub": 0o700, "LOCK": 0o600}
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700


def test_another_process_meets_the_lock_and_is_told_whose_it_is(real: RealDisk) -> None:
    real.lock("LOCK")
    tried = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from dynamo_ray.storage.disk import RealDisk\n"
            "try: RealDisk(sys.argv[1]).lock('LOCK')\n"
            "except Exception as error: print(type(error).__name__, error)",
            real.name,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert tried.stdout.startswith("DirectoryInUseError"), tried.stderr
    assert f"(pid {os.getpid()})" in tried.stdout and real.name in tried.stdout


def test_a_sync_beside_appends_never_meets_a_closed_file(real: RealDisk) -> None:
    problems: list[Exception] = []
    is_over = threading.Event()
    real.write("log", [b""])

    def sync() -> None:
        while not is_over.is_set():
            try:
                real.sync("log")
            except Exception as error:
                problems.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    for _ in range(50):
        real.append("log", b"x")
        real._open.pop("log")  # as a rename or a rewrite in another thread does
    is_over.set()
    thread.join()
    assert not problems and real.read("log") == b"x" * 50


def test_no_file_stays_open(real: RealDisk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for n in range(20):
        real.write(f"f{n}", [b"1"])
        real.append(f"f{n}", b"2")
        real.sync(f"f{n}")
        real.remove(f"f{n}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_handle_is_closed_by_its_last_user() -> None:
    read, write = os.pipe()
    os.close(write)
    handle = other = Handle(read)
    del handle
    os.fstat(read)
    del other
    with pytest.raises(OSError):
        os.fstat(read)
