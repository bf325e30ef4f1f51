"""What the tasks of a dataset do, without Ray: a cluster's keys and values as Arrow tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dynamo_ray import cluster as clusters
from dynamo_ray import tables as module
from dynamo_ray.connecting import Way
from dynamo_ray.errors import BadRequestError, ConflictError, UnavailableError
from dynamo_ray.found import CONCURRENT
from dynamo_ray.pouring import Manner, Tally
from dynamo_ray.resolvers import last_write_wins
from dynamo_ray.tables import Reading, Writing, read_dataset, tables, write_dataset, write_tables
from tests.server.loopback import Threaded


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    with Threaded(tmp_path_factory.mktemp("served"), nodes=4) as threaded:
        with clusters.client_at(threaded.address, threaded.cluster.token) as client:
            client.put_many({f"k{i}": b"%d" % i for i in range(500)}, w=3)
            client.put("twice", b"1", w=3)
            client.put("twice", b"2", context=CONCURRENT, w=3)
            client.put("gone", b"x", w=3)
            client.delete("gone", w=3)
            client.put("expired", b"x", ttl_s=0.001, w=3)
            client.put("young", b"y", ttl_s=1000, w=3)
            time.sleep(0.01)
        yield threaded


def way(threaded: Threaded) -> Way:
    return Way(address=",".join(threaded.address), token=threaded.cluster.token)


def rows_of(read: Reading, partitions: Any = range(256)) -> list[tuple[bytes, Any]]:
    found = list(tables(read, partitions))
    for table in found:
        assert read.schema is None or table.schema == read.schema
    return [(row["key"], row["value"]) for table in found for row in table.to_pylist()]


WANTED = {**{b"k%d" % i: b"%d" % i for i in range(500)}, b"young": b"y"}


def test_each_live_key_once_over_any_shares(served: Threaded, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "TABLE_ROWS", 100)
    read = Reading(way(served), last_write_wins, None)
    shares = [rows_of(read, range(i, 256, 3)) for i in range(3)]
    assert all(shares) and len(list(tables(read, range(256)))) == 5
    rows = [row for share in shares for row in share]
    assert len(rows) == len(dict(rows)) and dict(rows) == {**WANTED, b"twice": b"2"}


def test_siblings_are_an_error_a_list_or_resolved(served: Threaded) -> None:
    with pytest.raises(ConflictError, match=r"the key b'twice' has 2") as caught:
        rows_of(Reading(way(served), "error", None))
    assert caught.value.key == b"twice" and set(caught.value.siblings) == {b"1", b"2"}
    listed = dict(rows_of(Reading(way(served), "list", None)))
    assert set(listed.pop(b"twice")) == {b"1", b"2"}
    assert listed == {key: [value] for key, value in WANTED.items()}
    joined = Reading(way(served), lambda found: b"-".join(one.value for one in found), "utf8")
    assert dict(rows_of(joined))[b"twice"] in ("1-2", "2-1")


def test_a_codec_makes_objects(served: Threaded) -> None:
    read = Reading(way(served), last_write_wins, "json")
    anything = Reading(read.way, "list", None)
    partition = next(p for p in range(256) if rows_of(anything, [p]))
    with pytest.raises(ValueError):  # "y" is no JSON
        rows_of(read)
    assert all(type(value) is int for _, value in rows_of(read, [partition]))


def test_too_few_nodes_are_an_error_of_its_own_type(tmp_path: Path) -> None:
    with Threaded(tmp_path, nodes=3) as threaded:
        threaded.run(threaded.cluster.kill_node("n1"))
        assert rows_of(Reading(way(threaded), "error", None)) == []
        threaded.run(threaded.cluster.kill_node("n2"))
        with pytest.raises(UnavailableError, match="1 of 3 nodes"):
            rows_of(Reading(way(threaded), "error", None))


def test_rows_are_written_and_counted(tmp_path: Path) -> None:
    with Threaded(tmp_path, nodes=3) as threaded:
        given = [
            pa.table({"id": ["a", "b"], "v": [{"n": 1}, {"n": 2}], "more": [0, 0]}),
            pa.table({"id": ["c"], "v": [{"n": 3}]}),
        ]
        told = write_tables(Writing(way(threaded), ("id", "v"), "json", Manner()), given)
        assert told == Tally(objects=3, bytes=21)
        read = Reading(way(threaded), "error", "json")
        assert dict(rows_of(read)) == {b"a": {"n": 1}, b"b": {"n": 2}, b"c": {"n": 3}}
        large = [pa.table({"key": ["a", "b"], "value": [b"x" * (2 << 20), b"y"]})]
        told = write_tables(Writing(way(threaded), ("key", "value"), None, Manner()), large)
        assert (told.objects, told.refused, set(told.failures)) == (1, 1, {b"a"})
        with pytest.raises(BadRequestError, match="no column 'key'; it has id, v, more"):
            write_tables(Writing(way(threaded), ("key", "v"), None, Manner()), given)
        with pytest.raises(TypeError, match="a value is bytes"):
            write_tables(Writing(way(threaded), ("id", "v"), None, Manner()), given)


def test_mistakes_are_said_before_anything_begins() -> None:
    with pytest.raises(BadRequestError, match="siblings"):
        read_dataset("carts", siblings="all")
    with pytest.raises(ValueError, match="no codec"):
        read_dataset("carts", codec="yaml")
    with pytest.raises(BadRequestError, match="either"):
        read_dataset()
    with pytest.raises(TypeError):
        write_dataset(None, "carts", ttl=1)
