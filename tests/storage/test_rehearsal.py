"""A disk that only pretends behaves like one, and what is behind it stays as it is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.storage import rehearsal as rehearsals
from dynamo_ray.storage.errors import MissingFileError, ReadFailedError, WriteFailedError
from dynamo_ray.storage.rehearsal import Act, Rehearsal
from tests.storage.disks import MemoryDisk

PATHS = st.sampled_from(["a", "b", "sub/c", "sub/d"])
BYTES = st.binary(max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS, st.lists(BYTES, max_size=3)),
        st.tuples(st.just("append"), PATHS, BYTES),
        st.tuples(st.just("truncate"), PATHS, st.integers(0, 5)),
        st.tuples(st.just("rename"), PATHS, PATHS),
        st.tuples(st.just("remove"), PATHS),
    ),
    max_size=12,
)


def base() -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_dir("sub")
    disk.write("a", [b"0123456789"])
    disk.write("sub/c", [b"abcdef"])
    return disk


def done(disk: Any, step: tuple[Any, ...]) -> None:
    verb, path, *rest = step
    if verb == "rename" and path == rest[0]:
        return
    if verb == "truncate" and (not disk.exists(path) or disk.size(path) < rest[0]):
        return  # nobody cuts a file to more than it has
    with suppress(MissingFileError, WriteFailedError):
        getattr(disk, verb)(path, *rest)


@given(STEPS)
def test_law_it_shows_what_a_disk_would_hold(steps: list[tuple[Any, ...]]) -> None:
    behind, twin = base(), base()
    before = behind.contents()
    shown = Rehearsal(behind)
    for step in steps:
        done(shown, step)
        done(twin, step)
        for path in ("a", "b", "sub/c", "sub/d"):
            assert shown.exists(path) == twin.exists(path)
            if twin.exists(path):
                assert shown.size(path) == twin.size(path)
                for start, size in ((0, None), (2, None), (1, 3), (4, 100), (50, 2)):
                    assert shown.read(path, start, size) == twin.read(path, start, size)
            else:
                with pytest.raises(MissingFileError):
                    shown.read(path)
        assert shown.names("") == twin.names("") and shown.names("sub") == twin.names("sub")
    assert behind.contents() == before and behind.calls == base().calls


def test_its_acts_say_what_would_change() -> None:
    shown = Rehearsal(base())
    shown.truncate("a", 4)
    shown.append("a", b"xy")
    shown.make_dir("sub")
    shown.make_dir("new")
    shown.write("new/e", [b"12", b"3"])
    shown.rename("new/e", "new/f")
    shown.remove("sub/c")
    shown.remove("nothing")
    assert shown.acts == [
        Act("cut", "a", 4),
        Act("add", "a", 6),
        Act("make", "new"),
        Act("write", "new/e", 3),
        Act("move", "new/e", to="new/f"),
        Act("remove", "sub/c"),
    ]
    assert shown.names("") == ["a", "new", "sub"] and shown.names("new") == ["f"]


def test_a_long_file_is_counted_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsals, "KEPT_BYTES", 10)
    shown = Rehearsal(base())
    shown.write("b", [b"12345678", b"9abc", b"d"])
    assert shown.size("b") == 13 and shown.acts == [Act("write", "b", 13)]
    with pytest.raises(ReadFailedError, match="for show"):
        shown.read("b")


def test_what_is_not_there_is_not_changed() -> None:
    shown = Rehearsal(base())
    for change in (
        lambda: shown.append("b", b"x"),
        lambda: shown.truncate("b", 0),
        lambda: shown.rename("b", "c"),
    ):
        with pytest.raises(WriteFailedError):
            change()
    assert shown.acts == []
