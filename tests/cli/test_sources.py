"""What `load` reads, bad rows and all."""

from __future__ import annotations

import base64
import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.exits import CommandError
from cli.sources import Bounds, Columns, Source, open_source
from dynamo_ray.pouring import Item, Refusal

SMALL = Bounds(key_bytes=20, value_bytes=50)


def read(
    path: Path, key: str | None = None, value: str | None = None, bounds: Bounds = SMALL
) -> tuple[dict[bytes, bytes], dict[str, str]]:
    source = open_source(path, None, Columns(key, value), bounds)
    items, refusals = split(source)
    assert source.done == pytest.approx(source.total)
    return {item.key: item.value for item in items}, {r.where: r.why for r in refusals}


def split(source: Source) -> tuple[list[Item], list[Refusal]]:
    every = list(source)
    items = [one for one in every if isinstance(one, Item)]
    return items, [one for one in every if isinstance(one, Refusal)]


# ---- folders


def test_a_file_is_an_object_and_its_path_the_key(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b").write_bytes(b"\x00\xff")
    (tmp_path / "a").write_bytes(b"")
    assert read(tmp_path) == ({b"a": b"", b"deep/er/b": b"\x00\xff"}, {})


def test_what_cannot_be_loaded_is_listed_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 51)
    (tmp_path / "fits").write_bytes(b"x" * 50)
    (tmp_path / ("k" * 21)).write_bytes(b"x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    items, refused = read(tmp_path)
    assert list(items) == [b"fits"]
    assert refused.keys() == {"large", "k" * 21, "dangling", "round", "pipe"}
    assert refused["pipe"] == "not a regular file" and "51 bytes" in refused["large"]


def test_a_file_that_cannot_be_read_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, who reads everything: the refusal is played."""
    (tmp_path / "closed").write_bytes(b"x")
    (tmp_path / "open").write_bytes(b"y")

    def guarded(path: str, mode: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return Path(path).open(mode)

    monkeypatch.setattr("cli.sources.open", guarded, raising=False)
    assert read(tmp_path) == ({b"open": b"y"}, {"closed": "Permission denied"})


def test_a_large_file_is_never_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    _, refused = read(tmp_path)
    assert refused.keys() == {"sparse"}


def test_a_name_that_is_not_utf8_is_a_key(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    with open(name, "wb") as file:
        file.write(b"v")
    assert read(tmp_path)[0] == {b"caf\xe9": b"v"}


# ---- NDJSON


def ndjson(path: Path, *lines: str | bytes) -> Path:
    file = path / "rows.ndjson"
    file.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    return file


def test_without_a_value_column_the_row_is_the_value(tmp_path: Path) -> None:
    file = ndjson(tmp_path, '{"key": "a", "n": 1}', "", '  {"key": "b"} ')
    assert read(file) == ({b"a": b'{"key": "a", "n": 1}', b"b": b'{"key": "b"}'}, {})


def test_columns_are_chosen(tmp_path: Path) -> None:
    file = ndjson(tmp_path, '{"id": 7, "v": "text"}', '{"id": "x", "v": {"n": [1]}}')
    assert read(file, "id", "v")[0] == {b"7": b"text", b"x": b'{"n": [1]}'}


def test_bad_rows_are_listed_with_their_line(tmp_path: Path) -> None:
    file = ndjson(
        tmp_path,
        "not json",
        "[1]",
        '{"value": 1}',
        '{"key": ""}',
        b'{"key": "\xff"}',
        '{"key": null}',
        '{"key": "good"}',
        json.dumps({"key": "long", "text": "x" * 100}),
    )
    items, refused = read(file)
    assert list(items) == [b"good"]
    assert set(refused) == {f"line {n}" for n in (1, 2, 3, 4, 5, 6, 8)}


def test_a_line_without_an_end_is_skipped_not_kept(tmp_path: Path) -> None:
    file = ndjson(tmp_path, '{"key": "a"}', "x" * 300_000, '{"key": "b"}', "y" * 300_000)
    items, refused = read(file)
    assert list(items) == [b"a", b"b"] and len(refused) == 2


def test_base64_stands_in_for_what_is_not_text(tmp_path: Path) -> None:
    coded = base64.b64encode(b"\xff").decode()
    file = ndjson(tmp_path, json.dumps({"key_base64": coded, "value_base64": coded}))
    assert read(file, "key", "value")[0] == {b"\xff": b"\xff"}
    file = ndjson(tmp_path, '{"key": "a", "value_base64": "???"}')
    assert read(file, "key", "value")[1] == {"line 1": "value_base64 is not base64"}


# ---- CSV


def test_a_csv_has_a_header_and_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfid,v\r\n1,"a ""b""\r\nc"\r\n2,\r\n')
    assert read(file, "id", "v")[0] == {b"1": b'a "b"\r\nc', b"2": b""}
    assert json.loads(read(file, "id")[0][b"2"]) == {"id": "2", "v": ""}


def test_a_tsv_is_one_with_tabs(tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text("key\tv\na,b\tc\n")
    assert read(file, None, "v")[0] == {b"a,b": b"c"}


def test_bytes_of_a_csv_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"key,v\n\xe9,\xff\x00\n")
    assert read(file, None, "v")[0] == {b"\xe9": b"\xff\x00"}
    # As JSON they cannot be kept: then the row is refused, not bent.
    assert read(file)[1].keys() == {"line 2"}


def test_rows_of_the_wrong_width_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("key,v\na\nb,1,2\nc,3\n" + "d," + "x" * 60 + "\ne,5\n")
    items, refused = read(file, None, "v")
    assert items == {b"c": b"3", b"e": b"5"}
    assert set(refused) == {"line 2", "line 3", "line 5"}


def test_a_quote_that_never_ends_does_not_eat_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('key,v\na,1\nb,"' + "x\n" * 10_000)
    items, refused = read(file, None, "v")
    assert items == {b"a": b"1"}
    assert all("field limit" in why or "columns" in why for why in refused.values())
    assert "field limit" in next(iter(refused.values()))


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
        st.text(st.characters(codec="utf-8"), max_size=20),
        max_size=8,
    )
)
def test_what_python_writes_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, str]
) -> None:
    file = tmp_path_factory.mktemp("csv") / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["key", "v"])
        writer.writerows(rows.items())
    found, refused = read(file, None, "v", Bounds())
    assert not refused
    assert found == {key.encode(): value.encode() for key, value in rows.items()}


# ---- Parquet


def parquet(path: Path, columns: dict[str, object]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / "rows.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def test_parquet_rows(tmp_path: Path) -> None:
    file = parquet(tmp_path, {"id": [1, 2, None], "v": [b"\xff", b"", b"x"]})
    items, refused = read(file, "id", "v")
    assert items == {b"1": b"\xff", b"2": b""}
    assert refused == {"row 3": "it has no 'id'"}


def test_a_parquet_row_may_be_the_value(tmp_path: Path) -> None:
    from datetime import date

    file = parquet(tmp_path, {"key": ["a"], "day": [date(2026, 1, 2)], "raw": [b"\xff"]})
    [value] = read(file, bounds=Bounds())[0].values()
    assert json.loads(value) == {"key": "a", "day": "2026-01-02", "raw": "/w=="}


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"not parquet at all")
    with pytest.raises(CommandError, match="cannot be read"):
        read(file)


def test_a_parquet_that_breaks_in_the_middle_gives_what_came_before(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "rows.parquet"
    table = pa.table(
        {"key": [f"k{i}" for i in range(4000)], "v": [os.urandom(40) for _ in range(4000)]}
    )
    pq.write_table(table, file, row_group_size=1000, compression="zstd", use_dictionary=False)
    raw = bytearray(file.read_bytes())
    middle = len(raw) * 6 // 10
    raw[middle : middle + len(raw) // 5] = bytes(len(raw) // 5)  # a page header is in it
    file.write_bytes(raw)
    items, refusals = split(open_source(file, None, Columns(None, "v"), Bounds()))
    assert 1000 <= len(items) < 4000 and len(refusals) >= 1


# ---- all


@pytest.mark.parametrize("name", ["rows.txt", "rows", "nowhere.csv"])
def test_a_path_that_is_nothing_we_read_is_a_mistake(tmp_path: Path, name: str) -> None:
    if not name.startswith("nowhere"):
        (tmp_path / name).write_text("")
    with pytest.raises(CommandError):
        read(tmp_path / name)


def test_a_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,v\n")
    with pytest.raises(CommandError, match="id, v"):
        read(file)
    with pytest.raises(CommandError, match="id, v"):
        read(parquet(tmp_path, {"id": [1], "v": [2]}), "id", "w")
