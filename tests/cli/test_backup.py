"""backup create, list, verify and restore as a user runs them; one round trip on real actors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cli.backup
from dynamo_ray import Cluster
from dynamo_ray.actors.local_ray import _pids_of
from dynamo_ray.config import load_profile
from dynamo_ray.restoring import Inside
from tests.cli.conftest import Command
from tests.server.loopback import Threaded


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Clusters over loopback are in no Ray: here is their secret."""

    def give(name: str, threaded: Threaded) -> None:
        cluster = threaded.cluster
        found = Inside(cluster.charter, cluster.view(), cluster.secrets)
        monkeypatch.setattr(cli.backup, "_inside", {name: found}.__getitem__)

    return give


def test_there_and_back(dr: Command, fragile: Threaded, tmp_path: Path, inside: Any) -> None:
    inside("fragile", fragile)
    place = str(tmp_path / "backups")
    for i in range(5):
        assert dr("put", f"k{i}", f"v{i}").code == 0
    assert dr("delete", "k4").code == 0
    made = dr("backup", "create", place)
    assert made.code == 0 and "backed up 5 keys, 4 values, 1 tombstones" in made.err
    where = made.out.decode().strip()
    assert Path(where).parent == Path(place)

    assert Path(where).name in (listed := dr("backup", "list", place).out.decode())
    assert "whole" in listed and "loopback" in listed
    [one] = dr("backup", "list", place, "--json").json["backups"]
    assert (one["state"], one["keys"], one["origin"]["cluster"]) == ("whole", 5, "loopback")
    assert dr("backup", "verify", where).code == 0
    assert dr("backup", "verify", where, "--json").json["damaged"] == {}

    assert dr("put", "k0", "newer").code == 0
    compared = dr("backup", "restore", where, "--dry-run", "--json")
    assert compared.code == 0 and compared.json["dry_run"]
    assert compared.json["comparison"] == {
        "new": 0,
        "newer_in_backup": 0,
        "concurrent": 0,
        "covered": 5,
    }
    asked = dr("backup", "restore", where)
    assert asked.code == 2 and "--yes" in asked.err
    done = dr("backup", "restore", where, "fragile", "--yes", "--json")
    assert done.code == 0 and (done.json["keys"], done.json["behind"]) == (5, [])
    assert dr("get", "k0").out == b"newer" and dr("get", "k4").code == 3


def test_degraded_and_refused(
    dr: Command, fragile: Threaded, tmp_path: Path, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_ray.restoring.RETRY_FOR_S", 0.1)
    inside("fragile", fragile)
    place = tmp_path / "backups"
    for i in range(40):
        dr("put", f"k{i}", "v")
    made = dr("backup", "create", str(place), "--json").json
    where = place / made["name"]
    fragile.run(fragile.cluster.kill_node("n1"))
    again = dr("backup", "create", str(place))
    assert again.code == 0 and "not all was read of n1" in again.err
    done = dr("backup", "restore", str(where), "--yes")
    assert done.code == 9 and "not all was taken by n1" in done.err
    fragile.run(fragile.cluster.kill_node("n2"))
    assert dr("backup", "create", str(place)).code == 4
    assert dr("backup", "restore", str(where), "--yes").code == 4
    states = sorted(
        one["state"] for one in dr("backup", "list", str(place), "--json").json["backups"]
    )
    assert states == ["unfinished", "whole", "whole"]

    file = sorted(where.glob("p*.arrow"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    found = dr("backup", "verify", str(where))
    assert found.code == 9 and file.name in found.err
    assert dr("backup", "restore", str(where), "--yes").code == 8
    (where / "MANIFEST").unlink()
    assert dr("backup", "restore", str(where), "--yes").code == 8
    assert dr("backup", "verify", str(place / "carts-20260101T000000Z")).code == 3
    assert dr("backup", "list", str(tmp_path / "nowhere")).code == 3


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(170)
def test_on_real_actors_into_a_cluster_of_another_size(
    dr: Command,
    dr_in_a_process: Command,
    real_cluster: Cluster,
    tmp_path: Path,
) -> None:
    """From five nodes into three with other partitions, begun and ended with a Ray of their own."""
    with real_cluster.connect() as client:
        client.put("backed up", b"book")
    way = ("--address", real_cluster.addresses[0], "--token", real_cluster.token)
    made = dr("backup", "create", str(tmp_path / "backups"), *way, "--json").json
    where = str(tmp_path / "backups" / made["name"])
    shape = ("--nodes", "3", "--coordinators", "1", "--partitions", "64")
    try:
        begun = dr_in_a_process("start", "new", *shape, "--yes")
        assert begun.code == 0, begun.err
        assert (profile := load_profile("new")) is not None
        assert _pids_of(profile.ray["temp_dir"])
        told = dr_in_a_process("backup", "restore", where, "new", "--yes", "--json")
        assert told.code == 0, told.err
        assert (told.json["keys"], told.json["behind"]) == (made["keys"], [])
        assert dr("get", "-c", "new", "backed up").out == b"book"
    finally:
        ended = dr_in_a_process("stop", "new", "--yes")
    assert ended.code == 0, ended.err
    assert not _pids_of(profile.ray["temp_dir"])
