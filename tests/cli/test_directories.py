"""data inspect, verify and repair: on directories of a cluster that does not run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.version import Kind, State, Version, encode
from dynamo_ray.founding import Said, found
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.disk import RealDisk, boot_id
from dynamo_ray.storage.ownership import LOCK, Opening
from dynamo_ray.storage.store import Store
from tests.cli.conftest import Command

PARTITIONS = 8
WRITER = b"w" * 30


def record(n: int, kind: Kind = Kind.VALUE, expiry_ms: int = 0, hints: bytes = b"") -> Record:
    key, payload = b"key %d" % n, b"" if kind == Kind.TOMBSTONE else b"value %d" % n
    version = Version(Dot(WRITER, n + 1), kind, 1_000, expiry_ms, n.to_bytes(16, "big"), payload)
    state = encode(State(Clock({WRITER: n + 1}), (version,)))
    return Record(partition_of(key, PARTITIONS), key, state, hints)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """The directory of a stopped cluster of three nodes, with a snapshot and a log each."""
    folder = tmp_path / "carts"
    settings = {"partitions": PARTITIONS, "n": 2, "r": 1, "w": 1}
    founded = found(folder, "carts", Said(settings, 3, (), ()))
    owner = founded.charter.members[1].node
    for member in founded.charter.members:
        opening = Opening(
            founded.charter.cluster_id,
            member.node,
            b"",
            member.name,
            PARTITIONS,
            "written",
            boot_id(),
            time.time_ns() // 1_000_000,
            True,
        )
        store = Store.open(RealDisk(folder / member.name), opening)
        store.recover()
        store.new_incarnation(opening.now_ms, os.urandom(8))
        records = [record(n) for n in range(10)]
        store.append(records)
        taking = store.begin_snapshot()
        for partition in range(PARTITIONS):
            taking.write(partition, [one for one in records if one.partition == partition])
        taking.finish()
        store.append([record(10, Kind.TOMBSTONE), record(11, expiry_ms=1)])
        store.append([record(12, hints=owner)])
        store.close()
    return folder


def flip(path: Path, at: int = 700) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def partition_file(node: Path) -> Path:
    return min((node / "snap-0000000000000001").glob("*.arrow"))


def all_there_is(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_inspect_shows_whose_it_is_and_what_is_in_it(dr: Command, cluster: Path) -> None:
    done = dr("data", "inspect", str(cluster), "--json")
    assert done.code == 0 and done.json["schema"] == "dynamo_ray.data_inspect/1"
    assert [one["name"] for one in done.json["nodes"]] == ["n1", "n2", "n3"]
    one = done.json["nodes"][0]
    charter = json.loads((cluster / "CLUSTER.json").read_text())
    assert one["cluster_id"] == charter["cluster_id"]
    assert one["node_id"] == charter["members"][0]["node"]
    assert (one["format"], one["partitions"], one["durability"]) == (1, PARTITIONS, "written")
    assert one["doubted"] == [] and one["quarantine"] == [] and one["used_by"] is None
    assert abs(one["incarnation_ms"] - time.time() * 1000) < 600_000
    assert one["counts"]["hints"] == {"n2": 1}
    counts = {what: one["counts"][what] for what in ("keys", "values", "tombstones", "expired")}
    assert counts == {"keys": 13, "values": 12, "tombstones": 1, "expired": 1}
    assert one["counts"]["siblings"] == 0 and one["counts"]["bytes"] > 13 * 100
    assert one["snapshot"]["position"] == 1 and one["snapshot"]["records"] == 10
    assert one["snapshot"]["age_ms"] < 600_000
    spans = [(log["number"], log["frames"], log["first"], log["last"]) for log in one["log"]]
    assert spans == [(1, 1, 1, 1), (2, 3, 2, 4)]
    text = dr("data", "inspect", str(cluster / "n1")).out.decode()
    assert "node n1" in text and "1 for n2" in text and "3 frames, positions 2 to 4" in text


def test_looking_changes_nothing_and_leaves_no_trace(dr: Command, cluster: Path) -> None:
    flip(partition_file(cluster / "n1"))
    (cluster / "n2" / LOCK).unlink()
    before = all_there_is(cluster)
    for arguments in (("inspect",), ("verify",), ("repair", "--dry-run")):
        dr("data", *arguments, str(cluster))
    assert all_there_is(cluster) == before


def test_a_directory_that_can_only_be_read_is_enough(dr: Command, cluster: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    for path in [*cluster.rglob("*"), cluster]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert dr("data", "verify", str(cluster)).code == 0
    assert dr("data", "inspect", str(cluster)).code == 0


def test_verify_is_0_where_all_is_whole_and_9_where_something_is_damaged(
    dr: Command, cluster: Path
) -> None:
    assert dr("data", "verify", str(cluster)).code == 0
    damaged = partition_file(cluster / "n2")
    flip(damaged)
    done = dr("data", "verify", str(cluster), "--json")
    assert done.code == 9 and done.json["schema"] == "dynamo_ray.data_verify/1"
    assert [one["clean"] for one in done.json["nodes"]] == [True, False, True]
    [damage] = done.json["nodes"][1]["damages"]
    assert damage["path"] == str(damaged.relative_to(cluster / "n2"))
    assert damage["cost"] == "partitions" and "is quarantined" in damage["at_a_start"]
    text = dr("data", "verify", str(cluster / "n2"))
    assert text.code == 9 and damage["path"] in text.out.decode()


def test_a_torn_tail_is_said_and_is_no_damage(dr: Command, cluster: Path) -> None:
    store = _opened(cluster / "n1")
    store.append([record(20)])
    store._disk.close()
    log = max((cluster / "n1").glob("log-*"))
    log.write_bytes(log.read_bytes()[:-7])
    done = dr("data", "verify", str(cluster / "n1"), "--json")
    assert done.code == 0 and done.json["nodes"][0]["torn_bytes"] > 0
    assert "torn off by a crash" in done.json["nodes"][0]["notes"][-1]


def _opened(node: Path) -> Store:
    """The node runs, and has not ended."""
    from dynamo_ray.storage import identity
    from dynamo_ray.storage.examine import opening_of

    disk = RealDisk(node)
    known = identity.load(disk)
    assert known is not None
    store = Store.open(disk, opening_of(known, boot_id(), 0))
    store.recover()
    store.new_incarnation(0, bytes(8))
    return store


def test_repair_says_what_it_will_do_asks_and_leaves_it_clean(dr: Command, cluster: Path) -> None:
    damaged = partition_file(cluster / "n1")
    flip(damaged)
    flip(cluster / "n3" / "log-0000000000000002.dynr", 400)
    asked = dr("data", "repair", str(cluster))
    assert asked.code == 2 and "--yes" in asked.err, "nobody to ask"
    assert damaged.exists()
    done = dr("data", "repair", str(cluster), "--yes", "--json")
    assert done.code == 0 and done.json["schema"] == "dynamo_ray.data_repair/1"
    assert [Path(one["directory"]).name for one in done.json["nodes"]] == ["n1", "n3"]
    assert all(one["clean"] and one["doubted"] for one in done.json["verified"])
    assert "quarantine" in done.err and "snap-0000000000000002/" in done.err
    assert dr("data", "verify", str(cluster)).code == 0
    again = dr("data", "repair", str(cluster), "--yes")
    assert again.code == 0 and "nothing to repair" in again.err
    [n1, _, _] = dr("data", "inspect", str(cluster), "--json").json["nodes"]
    assert n1["doubted"] == [int(damaged.name[1:6])] and n1["quarantine"]
    store = _opened(cluster / "n1")
    assert store.doubted == set(n1["doubted"]), "a start vouches for it no more than before"
    store.close()


def test_a_directory_in_use_is_refused_or_said(dr: Command, cluster: Path) -> None:
    flip(partition_file(cluster / "n1"))
    store = _opened(cluster / "n1")
    for command in ("verify", "repair"):
        refused = dr("data", command, str(cluster / "n1"))
        assert refused.code == 8 and f"pid {os.getpid()}" in refused.err
    looked = dr("data", "inspect", str(cluster / "n1"))
    assert looked.code == 0 and b"IN USE" in looked.out
    store.close()


def test_an_identity_that_is_damaged_is_found_and_not_repaired(dr: Command, cluster: Path) -> None:
    flip(cluster / "n1" / "IDENTITY", 30)
    done = dr("data", "verify", str(cluster), "--json")
    assert done.code == 9 and "replace the node" in done.json["nodes"][0]["refused"]
    refused = dr("data", "repair", str(cluster), "--yes")
    assert refused.code == 8 and "IDENTITY is damaged" in refused.err
    assert dr("data", "inspect", str(cluster / "n1")).code == 8


def test_a_node_of_another_cluster_is_found(dr: Command, cluster: Path, tmp_path: Path) -> None:
    (cluster / "n1").rename(tmp_path / "away")
    (cluster / "n2").rename(cluster / "n1")
    done = dr("data", "verify", str(cluster), "--json")
    assert done.code == 9
    said = [damage["what"] for node in done.json["nodes"] for damage in node["damages"]]
    assert any("belongs to node 'n2'" in one for one in said)
    assert any("directory is missing" in one for one in said)
    assert dr("data", "repair", str(cluster), "--yes").code == 8


def test_what_is_no_data_directory_is_a_mistake(dr: Command, tmp_path: Path) -> None:
    assert dr("data", "inspect", str(tmp_path / "nothing")).code == 2
    (tmp_path / "empty").mkdir()
    for command in ("inspect", "verify", "repair"):
        done = dr("data", command, str(tmp_path / "empty"))
        assert done.code == 2 and "holds no storage node's directory" in done.err
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_charter_that_cannot_be_read_is_said(dr: Command, cluster: Path) -> None:
    (cluster / "CLUSTER.json").write_text("{")
    assert dr("data", "verify", str(cluster)).code == 8


def test_strangers_are_named_and_left_alone(dr: Command, cluster: Path) -> None:
    (cluster / "n1" / "notes.txt").write_text("mine")
    (cluster / "n1" / "link").symlink_to(cluster)
    done = dr("data", "verify", str(cluster / "n1"), "--json")
    assert done.code == 0 and done.json["nodes"][0]["strangers"] == ["link", "notes.txt"]


def test_it_needs_no_ray(dr_in_a_process: Command, cluster: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, {root!r})\n"
        "from cli.main import run\n"
        "try: run()\n"
        "finally: print('ray' in sys.modules, file=sys.stderr)"
    )
    done = dr_in_a_process("data", "verify", str(cluster), code=code)
    assert done.code == 0 and done.err.splitlines()[-1] == "False"
