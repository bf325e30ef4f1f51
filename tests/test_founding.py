"""What a caller of `start` says: a new cluster is made of it, and an old one must agree with it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray import founding
from dynamo_ray.core.charter import FORMAT, charter_from
from dynamo_ray.core.machines import Machine
from dynamo_ray.core.membership import View
from dynamo_ray.core.settings import SettingsError
from dynamo_ray.core.slots import placed
from dynamo_ray.errors import BadRequestError, DataDirectoryError
from dynamo_ray.founding import CHARTER_FILE, Said, agreed, check_host, found, nodes_away, undo
from dynamo_ray.storage import identity as identities
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.disk import RealDisk
from dynamo_ray.storage.identity import Identity
from dynamo_ray.storage.ownership import Opening, holds_records
from dynamo_ray.storage.store import Store


def said(
    settings: dict[str, Any] | None = None,
    nodes: int | None = None,
    zones: tuple[str, ...] = (),
    weights: tuple[float, ...] = (),
) -> Said:
    return Said(settings or {}, nodes, zones, weights)


def test_a_new_cluster_has_what_was_said_and_defaults_for_the_rest() -> None:
    charter = said({"n": 2, "r": 1, "w": 1, "times": {"tick_s": 0.2}}, zones=("a", "b")).charter(
        "x"
    )
    assert (charter.settings.n, charter.settings.r, charter.settings.w) == (2, 1, 1)
    assert charter.settings.times.tick_s == 0.2
    assert charter.settings.durability == "written"
    assert [(m.name, m.zone) for m in charter.members][:3] == [
        ("n1", "a"),
        ("n2", "b"),
        ("n3", "a"),
    ]
    assert len(charter.members) == 5


@pytest.mark.parametrize(
    "wrong",
    [said({"n": 3, "r": 4}), said({"n": 3}, nodes=2), said(nodes=3, weights=(1.0,))],
    ids=str,
)
def test_what_cannot_be_is_refused(wrong: Said) -> None:
    with pytest.raises(SettingsError):
        wrong.charter("x")


OLD = said({"n": 1, "r": 1, "w": 1, "limits": {"key_bytes": 99}}, 3, ("a", "b"), (1, 2, 1))


@pytest.mark.parametrize(
    "same",
    [
        said(),
        said({"n": 1}),  # though R and W by default would not go with it
        said({"limits": {"key_bytes": 99}}, 3),
        said({"times": {"timeout_s": 2}}, zones=("a", "b"), weights=(1.0, 2.0, 1.0)),
        OLD,
    ],
    ids=str,
)
def test_an_old_cluster_agrees_with_what_it_has(same: Said) -> None:
    same.check(OLD.charter("x"))


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (said({"n": 3}), "n=1"),
        (said({"durability": "synced"}), "durability=written"),
        (said(nodes=5), "nodes=3"),
        (said({"limits": {"key_bytes": 100}}), "limits.key_bytes=99"),
        (said({"times": {"no_such": 1}}), "times.no_such=nothing of that name"),
        (said(zones=("a",)), "zones="),
        (said(weights=(1.0, 1.0, 1.0)), "weights="),
    ],
    ids=str,
)
def test_and_refuses_another(other: Said, word: str) -> None:
    with pytest.raises(SettingsError, match="for life") as told:
        other.check(OLD.charter("x"))
    assert word in str(told.value)


# ---- several machines

THREE = [Machine(name, zone, f"192.0.2.{i}") for i, (name, zone) in enumerate(["xa", "yb", "zc"])]


def on(machines: list[Machine], nodes: int | None = None, n: int = 3, **more: Any) -> Said:
    quorums = {"n": n, "r": min(n, 2), "w": min(n, 2)}
    return Said(quorums, nodes, more.get("zones", ()), more.get("weights", ()), machines)


def test_a_new_cluster_has_a_node_on_each_machine_and_keeps_where(tmp_path: Path) -> None:
    charter = found(tmp_path, "carts", on(THREE)).charter
    placed = [(m.name, m.machine, m.zone) for m in charter.members]
    assert placed == [("n1", "x", "a"), ("n2", "y", "b"), ("n3", "z", "c")]
    again = agreed(tmp_path, "carts", said())
    assert again == charter == charter_from(charter.to_dict())
    assert again.ring().epoch == charter.ring().epoch


def test_more_nodes_than_machines_take_turns_and_no_key_has_two_copies_on_one() -> None:
    charter = on(THREE, nodes=6).charter("x")
    assert [m.machine for m in charter.members] == ["x", "y", "z"] * 2
    ring, at = charter.ring(), {m.node: m.machine for m in charter.members}
    for partition in range(ring.partitions):
        assert len({at[node] for node in ring.owners(partition)}) == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (on(THREE, n=4), "n is 4 and 3 machines of the Ray cluster have the label dynamo-ray/mach"),
        (on(THREE[:1], n=2), "n is 2 and 1 machine of the Ray cluster has the label"),
        (on(THREE, nodes=2), "n is 3 and 2 nodes are asked for"),
        (on(THREE[:2], nodes=5), "n is 3 and 2 machines"),
        (on(THREE, zones=("a", "b")), "zones come from the Ray nodes' label dynamo-ray/zone"),
        (on(THREE, weights=(1.0, 2.0)), "2 weights for 3 nodes"),
    ],
    ids=str,
)
def test_what_machines_cannot_hold_is_refused_in_words(wrong: Said, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        wrong.charter("x")


def test_a_start_goes_without_machines_that_are_away_but_not_without_all() -> None:
    known = placed(on(THREE).charter("carts"), View())
    assert nodes_away(known, THREE, "ray") == []
    assert nodes_away(known, THREE[1:], "ray") == ["n1"]
    strangers = [Machine("q", "a", "192.0.2.9")]
    for there in ([], strangers):
        with pytest.raises(SettingsError, match=r"the data of cluster 'carts' is on x, y, z, and"):
            nodes_away(known, there, "ray")


def test_a_cluster_of_one_machine_is_not_spread_over_several() -> None:
    """Its data is on one of them, and nobody knows which."""
    known = placed(said().charter("carts"), View())
    assert nodes_away(known, [], "ray") == nodes_away(known, THREE[:1], "ray") == []
    with pytest.raises(SettingsError, match="was founded on one machine"):
        nodes_away(known, THREE, "ray")


def test_what_a_founding_left_is_undone_on_each_machine(tmp_path: Path) -> None:
    """Not where a machine has something to keep, and then nowhere."""
    folder = tmp_path / "carts"
    founded = found(folder, "carts", on(THREE))
    disks = {machine.name: tmp_path / machine.name for machine in THREE}
    for name, node in zip(disks, ("n1", "n2", "n3"), strict=True):
        (disks[name] / node).mkdir(parents=True)

    def do_on(machine: str, act: Any, places: list[Path]) -> Any:
        return act([disks[machine] / place.name for place in places])

    keeper = RealDisk(disks["z"] / "n3")
    keeper.lock("LOCK")
    undo(founded, do_on)
    assert all(disk.exists() for disk in disks.values()) and (folder / CHARTER_FILE).exists()
    keeper.close()
    undo(founded, do_on)
    assert not any(disk.exists() for disk in disks.values())
    assert not (folder / CHARTER_FILE).exists()


def test_two_who_found_one_cluster_at_once_found_the_same(tmp_path: Path) -> None:
    """Whoever wrote the charter last once replaced the other's, under a cluster that ran."""
    for turn in range(10):
        folder, all_found = tmp_path / str(turn), []
        gate = threading.Barrier(4)

        def begin(folder: Path = folder, all_found: Any = all_found, gate: Any = gate) -> None:
            gate.wait(5)
            founded = found(folder, "carts", said())
            all_found.append((founded.charter, founded.secrets))

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(all_found) == 4
        assert all(one == all_found[0] for one in all_found)
        assert [path.name for path in folder.iterdir()] == [CHARTER_FILE]


def identity_of(folder: Path, name: str, **changes: Any) -> None:
    """What the node of that name would have written, with changes."""
    founded = found(folder, "carts", said())
    member = founded.charter.member(name)
    given = {
        "cluster_id": founded.charter.cluster_id,
        "node_id": member.node,
        "name": name,
        "partitions": 256,
        "created_ms": 1,
    }
    identities.save(RealDisk(folder / name), Identity(**{**given, **changes}))


def test_a_directory_is_judged_before_anything_is_started(tmp_path: Path) -> None:
    found(tmp_path / "carts", "carts", said({"n": 1, "r": 1, "w": 1}, nodes=2))
    before = sorted(tmp_path.rglob("*"))
    assert agreed(tmp_path / "carts", "carts", said()) is not None
    assert agreed(tmp_path / "new", "new", said()) is None
    (tmp_path / "file").write_text("")
    for folder, name, word in (
        ("carts", "other", "belongs to cluster 'carts'"),
        ("file", "carts", "no directory"),
        (".", "carts", "not empty"),
    ):
        with pytest.raises(DataDirectoryError, match=word):
            agreed(tmp_path / folder, name, said())
    (tmp_path / "file").unlink()
    assert sorted(tmp_path.rglob("*")) == before, "nothing was changed"


def test_a_newer_charter_wants_the_newer_version(tmp_path: Path) -> None:
    found(tmp_path, "carts", said())
    path = tmp_path / CHARTER_FILE
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    with pytest.raises(DataDirectoryError, match="start it with the newer version"):
        agreed(tmp_path, "carts", said())


@pytest.mark.parametrize("change", [{"cluster_id": b"x" * 16}, {"node_id": b"y" * 8}], ids=str)
def test_a_node_s_directory_of_somebody_else_is_refused_at_once(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    identity_of(tmp_path, "n2")
    assert agreed(tmp_path, "carts", said()) is not None
    identity_of(tmp_path, "n2", **change)
    with pytest.raises(DataDirectoryError, match="directory of its own"):
        agreed(tmp_path, "carts", said())


def test_a_founding_that_failed_leaves_nothing_that_binds(tmp_path: Path) -> None:
    founded = found(tmp_path, "carts", said(nodes=3))
    (tmp_path / "n1").mkdir()
    undo(founded)
    assert list(tmp_path.iterdir()) == []
    again = found(tmp_path, "carts", said(nodes=5))
    assert len(again.charter.members) == 5


def test_what_was_there_before_or_runs_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(founding, "UNDO_S", 0.1)
    founded = found(tmp_path, "carts", said())
    undo(found(tmp_path, "carts", said()))
    assert (tmp_path / CHARTER_FILE).exists(), "it was founded before"
    disk = RealDisk(tmp_path / "n3")
    disk.lock("LOCK")
    undo(founded)
    assert (tmp_path / CHARTER_FILE).exists(), "a node runs there"
    disk.close()


def test_a_founding_that_took_a_write_is_not_undone(tmp_path: Path) -> None:
    founded = found(tmp_path, "carts", said())
    member = founded.charter.member("n1")
    opening = Opening(
        founded.charter.cluster_id, member.node, b"", "n1", 256, "written", "boot", 1, True
    )
    for write in (False, True):
        store = Store.open(RealDisk(tmp_path / "n1"), opening)
        store.recover()
        store.new_incarnation(1, bytes(8))
        if write:
            store.append([Record(0, b"k", b"state", b"")])
        store.close()
        assert holds_records(tmp_path / "n1") is write, "a log that was only closed is empty"
    undo(founded)
    assert (tmp_path / CHARTER_FILE).exists() and (tmp_path / "n1").is_dir()


def test_nobody_listens_at_an_address_of_another_machine() -> None:
    check_host("127.0.0.1")
    for host in ("203.0.113.7", "no.such.host.invalid"):
        with pytest.raises(BadRequestError, match="address of this machine"):
            check_host(host)
