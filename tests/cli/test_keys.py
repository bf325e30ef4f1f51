"""get, put and delete, as a user and as a script meet them."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command

pytestmark = pytest.mark.usefixtures("carts")


def test_a_value_comes_back_byte_for_byte(dr: Command) -> None:
    raw = bytes(range(256)) + b"\r\n\x00"
    assert dr("put", "raw", "-", stdin=raw).code == 0
    found = dr("get", "raw")
    assert (found.code, found.out, found.err) == (0, raw, "")


def test_an_empty_value_is_a_value(dr: Command) -> None:
    dr("put", "empty", "")
    assert (dr("get", "empty").code, dr("get", "empty").out) == (0, b"")


def test_a_value_may_come_from_a_file(dr: Command, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"\xff\x00from a file")
    assert dr("put", "filed", "-f", str(file)).code == 0
    assert dr("get", "filed").out == b"\xff\x00from a file"


def test_talk_goes_to_stderr(dr: Command) -> None:
    done = dr("put", "quiet", "v")
    assert done.out == b"" and "quiet" in done.err


def test_nothing_there_is_3(dr: Command) -> None:
    found = dr("get", "never-written")
    assert (found.code, found.out) == (3, b"")
    assert dr("get", "never-written", "--json").json["found"] is False


def test_a_deleted_key_is_not_found(dr: Command) -> None:
    dr("put", "gone", "v")
    assert dr("delete", "gone").code == 0
    assert dr("get", "gone").code == 3


def test_siblings_are_6_and_listed_on_stderr(dr: Command) -> None:
    dr("put", "two", "first")
    dr("put", "two", "second", "--concurrent")
    found = dr("get", "two")
    assert (found.code, found.out) == (6, b"")
    assert "first" in found.err and "second" in found.err
    every = dr("get", "two", "--all")
    assert every.code == 0
    assert [line["utf8"] for line in every.lines] == ["first", "second"]


def test_a_context_resolves_siblings(dr: Command) -> None:
    dr("put", "merge", "a")
    dr("put", "merge", "b", "--concurrent")
    seen = dr("get", "merge", "--json")
    assert seen.code == 6 and len(seen.json["values"]) == 2
    dr("put", "merge", "ab", "--context", seen.json["context"])
    assert dr("get", "merge").out == b"ab"


def test_a_put_gives_the_context_for_the_next_one(dr: Command) -> None:
    first = dr("put", "chain", "1", "--json").json["context"]
    assert dr("put", "chain", "2", "--context", first).code == 0
    # Its version is replaced by now: with the old context this one stands beside the second.
    assert dr("put", "chain", "3", "--context", first).code == 0
    assert dr("get", "chain").code == 6


def test_a_delete_with_a_context_deletes_only_what_was_read(dr: Command) -> None:
    first = dr("put", "kept", "1", "--json").json["context"]
    dr("put", "kept", "2", "--concurrent")
    assert dr("delete", "kept", "--context", first).code == 0
    assert dr("get", "kept").out == b"2"


def test_json_holds_any_bytes(dr: Command) -> None:
    dr("put", "bytes", "-", stdin=b"\xff\xfe")
    [value] = dr("get", "bytes", "--json").json["values"]
    assert base64.b64decode(value["base64"]) == b"\xff\xfe"
    dr("put", "text", "größe")
    [value] = dr("get", "text", "--json").json["values"]
    assert value["utf8"] == "größe"


def test_what_is_not_utf8_is_taken_as_it_was_typed(dr: Command) -> None:
    typed = b"caf\xe9".decode(errors="surrogateescape")
    assert dr("put", typed, typed).code == 0
    assert dr("get", typed).out == b"caf\xe9"
    assert dr("get", "caf?").code == 3


def test_a_value_expires(dr: Command) -> None:
    dr("put", "brief", "v", "--ttl", "0.05")
    deadline = time.monotonic() + 5
    while dr("get", "brief").code != 3:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "k"),
        ("put", "k", "v", "-f", "x"),
        ("put", "k", "-f", "/nowhere/at/all"),
        ("put", "k", "v", "--context", "no base64!"),
        ("put", "k", "v", "--context", ""),
        ("put", "k", "v", "--context", "QUJD", "--concurrent"),
        ("put", "k", "v", "--ttl", "0"),
        ("put", "k", "v", "-w", "0"),
        ("get", "k", "--timeout", "0"),
        ("get", "k", "--timeout", "soon"),
        ("get",),
        ("get", "k", "--no-such-option"),
        ("no-such-command",),
    ],
)
def test_a_users_mistake_is_2(dr: Command, arguments: tuple[str, ...]) -> None:
    assert dr(*arguments).code == 2


def test_an_altered_context_is_refused(dr: Command) -> None:
    """An empty context would mean `replace nothing`, a wrong one is never taken for it."""
    context = dr("put", "mine", "v", "--json").json["context"]
    done = dr("put", "another-key", "v", "--context", context)
    assert done.code == 1 and "context" in done.err


def test_more_answers_than_copies_is_2(dr: Command) -> None:
    assert dr("get", "k", "-r", "4").code == 2


def test_too_large_is_1_and_says_the_limit(dr: Command) -> None:
    done = dr("put", "large", "-", stdin=b"x" * (1024 * 1024 + 1))
    assert done.code == 1 and "1,048,576" in done.err
    assert dr("put", "k" * 1025, "v").code == 1
    assert dr("put", "", "v").code == 1


def test_what_no_frame_could_carry_is_refused_in_words_too(dr: Command) -> None:
    done = dr("put", "huge", "-", stdin=b"x" * (70 * 1024 * 1024))
    assert done.code == 1 and "1,048,576" in done.err
