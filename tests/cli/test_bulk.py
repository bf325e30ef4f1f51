"""load and dump against a cluster: what goes in comes out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.server.loopback import Threaded


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    for i in range(300):
        (folder / "deep" / f"file-{i}").write_bytes(f"value {i} ".encode() * i)
    (folder / "binary").write_bytes(bytes(range(256)))
    return folder


def test_a_folder_is_loaded_and_counted(dr: Command, carts: Threaded, tree: Path) -> None:
    done = dr("load", str(tree), "--json")
    assert done.code == 0
    assert (done.json["objects"], done.json["refused"]) == (301, 0)
    assert dr("get", "binary").out == bytes(range(256))
    assert dr("get", "deep/file-299").out == b"value 299 " * 299


def test_what_is_refused_is_listed_and_makes_it_1(dr: Command, carts: Threaded, tree: Path) -> None:
    (tree / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    done = dr("load", str(tree))
    assert done.code == 1 and done.out == b""
    assert "not loaded: 1" in done.err and "large: 1,048,577 bytes" in done.err
    assert dr("get", "large").code == 3
    assert dr("load", str(tree), "--json").json["refusals"][0]["where"] == "large"


def test_a_dry_run_writes_nothing(dr: Command, fragile: Threaded, tree: Path) -> None:
    done = dr("load", str(tree), "--dry-run", "--json")
    assert done.code == 0 and done.json["objects"] == 301 and done.json["dry_run"]
    assert dr("get", "binary").code == 3
    assert all(not node["keys"] for node in dr("status", "--json").json["nodes"])


@pytest.mark.parametrize("ending", ["csv", "ndjson", "parquet"])
def test_rows_are_loaded_from_every_form(
    dr: Command, carts: Threaded, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"rows.{ending}"
    rows = [{"id": f"{ending}-{i}", "v": f"value {i}"} for i in range(600)]
    if ending == "csv":
        file.write_text("id,v\n" + "".join(f"{row['id']},{row['v']}\n" for row in rows))
    elif ending == "ndjson":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)
    assert dr("load", str(file), "--key", "id", "--value", "v").code == 0
    assert dr("get", f"{ending}-599").out == b"value 599"
    assert dr("load", str(file), "--key", "id").code == 0
    assert json.loads(dr("get", f"{ending}-0").out) == rows[0]


def test_a_column_that_is_not_there_is_2(dr: Command, carts: Threaded, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,v\n1,2\n")
    done = dr("load", str(file))
    assert done.code == 2 and "id, v" in done.err


@pytest.mark.parametrize("name", ["dump.ndjson", "dump.parquet"])
def test_a_dump_loads_back_into_another_cluster(
    dr: Command, carts: Threaded, fragile: Threaded, tmp_path: Path, name: str
) -> None:
    """Everything: odd bytes, an empty value, several values of one key."""
    file = str(tmp_path / name)
    odd = b"caf\xe9".decode(errors="surrogateescape")
    dr("put", odd, "-", "-c", "carts", stdin=b"\xff\x00")
    dr("put", "dump-empty", "", "-c", "carts")
    dr("put", "dump-two", "1", "-c", "carts")
    dr("put", "dump-two", "2", "-c", "carts", "--concurrent")
    dr("put", "dump-gone", "1", "-c", "carts")
    dr("delete", "dump-gone", "-c", "carts")
    dumped = dr("dump", file, "-c", "carts", "--json")
    assert dumped.code == 0
    assert dumped.json["values"] > dumped.json["keys"]
    loaded = dr("load", file, "-c", "fragile", "--json")
    assert loaded.code == 0 and loaded.json["objects"] == dumped.json["values"]
    assert dr("get", odd, "-c", "fragile").out == b"\xff\x00"
    assert dr("get", "dump-empty", "-c", "fragile").code == 0
    two = dr("get", "dump-two", "--all", "-c", "fragile").lines
    assert [line["utf8"] for line in two] == ["1", "2"]
    assert dr("get", "dump-gone", "-c", "fragile").code == 3
    again = dr("dump", "-", "-c", "fragile")
    assert len(again.out.splitlines()) == dumped.json["values"] + 1


def test_large_values_are_dumped(dr: Command, fragile: Threaded, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(20):
        (folder / f"file-{i}").write_bytes(b"x" * (1024 * 1024))
    assert dr("load", str(folder), "--timeout", "10").code == 0
    dumped = dr("dump", str(tmp_path / "large.parquet"), "--json")
    assert (dumped.code, dumped.json["keys"]) == (0, 20)


def test_a_dump_never_replaces_a_file_unasked(dr: Command, carts: Threaded, tmp_path: Path) -> None:
    file = tmp_path / "dump.ndjson"
    file.write_text("precious")
    assert dr("dump", str(file)).code == 8
    assert file.read_text() == "precious"
    assert dr("dump", str(file), "--overwrite").code == 0
    assert dr("dump", str(tmp_path / "dump.txt")).code == 2


def test_half_a_dump_never_looks_like_a_whole_one(
    dr: Command, fragile: Threaded, tmp_path: Path
) -> None:
    """With three of five nodes away some partitions have no owner left: the dump says so."""
    dr("load", str(Path(__file__).parent))
    for node in ("n1", "n2", "n3", "n4"):
        fragile.run(fragile.cluster.kill_node(node))
    assert dr("dump", str(tmp_path / "dump.ndjson")).code == 4
    assert not list(tmp_path.glob("*dump*"))
