"""start, stop and node kill: what is planned, asked, done, undone. No Ray: it is played."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import dynamo_ray
from cli import cluster as commands
from dynamo_ray.config import Profile, list_profiles, load_profile, save_profile
from dynamo_ray.core.machines import Machine
from dynamo_ray.core.pool import Scaling, scaling
from dynamo_ray.errors import BadRequestError, DataDirectoryError, UnavailableError
from tests.cli.conftest import Command
from tests.server.loopback import Threaded

BEGUN = {"temp_dir": "/tmp/dr-played", "pids": [1 << 30], "address": "127.0.0.1:6399"}


class Played:
    """Ray and `dynamo_ray.start`, as far as the commands can see."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.ended: list[str] = []
        self.stopped: list[str] = []
        self.asked: list[tuple[Any, ...]] = []
        self.taken: dict[str, dict[str, Any]] = {}
        self.pool = {"c1": "up", "c2": "up"}
        self.scaled: list[int] = []
        self.failure: Exception | None = None
        self.machines: list[Machine] = []
        self.cluster_id = "ab" * 16

    def launch(self) -> dict[str, Any]:
        return dict(BEGUN)

    def start(self, name: str, **options: Any) -> None:
        self.started.append((name, options))
        logging.getLogger("dynamo_ray.start").info("n1 reads its data back")
        if self.failure is not None:
            raise self.failure
        save_profile(
            Profile(name, self.cluster_id, ["127.0.0.1:7400"], "SECRET", str(options["data_dir"]))
        )

    def attach(self, name: str, ray_address: str | None = None) -> Any:
        played = self

        class Attached:
            class charter:
                cluster_id = bytes.fromhex(played.cluster_id)

            def stop(self) -> None:
                played.stopped.append(name)

            def snapshot(self, timeout_s: float, *, nodes: list[str] | None) -> Any:
                played.asked.append((name, ray_address, timeout_s, nodes))
                return played.taken

            def scale_coordinators(self, count: int, *, dry_run: bool = False) -> Scaling:
                if played.failure is not None:
                    raise played.failure
                made = scaling(count, played.pool)
                if not dry_run:
                    played.scaled.append(count)
                    logging.getLogger("dynamo_ray.pool").info("c3 is up")
                return made

        return Attached()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    ray = Played()
    monkeypatch.setattr(commands, "launch_ray", ray.launch)
    monkeypatch.setattr(commands, "use_ray", lambda begun: None)
    monkeypatch.setattr(commands, "machines_at", lambda ray_address: ray.machines)
    monkeypatch.setattr(commands, "end_ray", lambda begun: ray.ended.append(begun["temp_dir"]))
    monkeypatch.setattr(dynamo_ray, "start", ray.start)
    monkeypatch.setattr(dynamo_ray, "attach", ray.attach)
    return ray


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The played Ray's process runs."""
    command = b"gcs_server\0--session-dir=/tmp/dr-played/session\0"
    monkeypatch.setattr(commands, "_command_of", lambda pid: command)


# ---- start


def test_start_leaves_a_profile_that_knows_what_it_began(dr: Command, played: Played) -> None:
    done = dr("start", "carts", "--nodes", "7", "--r", "1", "--zones", "a,b")
    assert done.code == 0 and b"127.0.0.1:7400" in done.out
    [(name, options)] = played.started
    assert name == "carts" and options["ray_address"] == BEGUN["address"]
    assert (options["nodes"], options["r"]) == (7, 1)
    assert not options.keys() & {"n", "w"}, "what was not said is not said"
    assert options["zones"] == ["a", "b"]
    profile = load_profile("carts")
    assert profile is not None and profile.ray == {**BEGUN, "started_here": True}
    assert "SECRET" not in done.out.decode() + done.err
    assert str(Path("clusters") / "carts.json") in done.err


def test_start_shows_that_nodes_read_their_data_back(dr: Command, played: Played) -> None:
    done = dr("start", "carts")
    assert "n1 reads its data back\n" in done.err
    log = logging.getLogger("dynamo_ray.start")
    assert log.handlers == [] and log.propagate, "and the log is as it was"


def test_start_as_json_has_no_token(dr: Command, played: Played) -> None:
    done = dr("start", "carts", "--json")
    assert done.json["addresses"] == ["127.0.0.1:7400"]
    assert "SECRET" not in done.out.decode()


def test_a_dry_run_starts_nothing(dr: Command, played: Played) -> None:
    done = dr("start", "carts", "--dry-run")
    assert done.code == 0 and "5 nodes, N=3 R=2 W=2" in done.err
    assert played.started == [] and list_profiles() == []


def test_the_plan_tells_what_is_in_the_directory(
    dr: Command, played: Played, carts: Threaded, tmp_path: Path
) -> None:
    given = {**carts.cluster.charter.to_dict(), "secrets": []}
    (tmp_path / "CLUSTER.json").write_text(json.dumps(given))
    assert dr("start", "other", "--data-dir", str(tmp_path), "--dry-run").code == 8
    (tmp_path / "CLUSTER.json").write_text(json.dumps({**given, "name": "other"}))
    done = dr("start", "other", "--nodes", "9", "--data-dir", str(tmp_path), "--dry-run")
    assert done.code == 2 and "nodes=5 for life, not 9" in done.err
    done = dr("start", "other", "--data-dir", str(tmp_path), "--dry-run")
    assert "5 nodes" in done.err and "again" in done.err


def test_a_start_that_fails_leaves_no_ray_behind(dr: Command, played: Played) -> None:
    played.failure = DataDirectoryError("another cluster's")
    done = dr("start", "carts")
    assert done.code == 8 and "another cluster's" in done.err
    assert played.ended == [BEGUN["temp_dir"]] and list_profiles() == []


def test_a_running_cluster_is_not_started_again(dr: Command, played: Played, alive: None) -> None:
    dr("start", "carts")
    assert dr("start", "carts").code == 8
    assert dr("start", "carts", "--exist-ok").code == 0
    assert len(played.started) == 1 and played.ended == []


def test_what_is_left_of_a_dead_one_is_cleared_first(dr: Command, played: Played) -> None:
    dr("start", "carts")
    assert dr("start", "carts").code == 0
    assert played.ended == [BEGUN["temp_dir"]]


def test_a_ray_that_is_named_is_used_and_never_ended(
    dr: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert dr("start", "carts").code == 0
    assert played.started[0][1]["ray_address"] == "10.0.0.1:6379"
    profile = load_profile("carts")
    assert profile is not None and profile.ray == {}
    assert dr("stop", "carts", "--yes").code == 0
    assert played.stopped == ["carts"] and played.ended == []


def test_the_plan_tells_the_machines_of_a_ray_that_is_named(dr: Command, played: Played) -> None:
    played.machines = [Machine(f"m{i}", "", f"192.0.2.{i}") for i in range(4)]
    done = dr("start", "carts", "--ray-address", "192.0.2.9:6379", "--dry-run")
    assert done.code == 0 and "4 nodes" in done.err and "on m0, m1, m2, m3" in done.err
    done = dr("start", "carts", "--ray-address", "192.0.2.9:6379", "--n", "5", "--dry-run")
    assert done.code != 0 and "4 machines of the Ray cluster have the label" in done.err


@pytest.mark.parametrize(
    "given",
    [
        ["--nodes", "0"],
        ["--n", "x"],
        ["bad/name"],
        ["--nodes", "2"],
        ["--r", "4"],
        ["--durability", "wished"],
    ],
)
def test_a_mistake_starts_nothing(
    dr: Command, played: Played, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    """Not even a Ray, which takes seconds."""
    monkeypatch.setattr(commands, "launch_ray", lambda: pytest.fail("Ray was started"))
    assert dr("start", *given).code == 2
    assert dr("start", *given, "--dry-run").code == 2
    assert played.started == []


# ---- stop


def test_stop_ends_what_start_began(dr: Command, played: Played, alive: None) -> None:
    dr("start", "carts")
    done = dr("stop", "carts", "--yes")
    assert done.code == 0 and "data stays" in done.err
    assert played.stopped == ["carts"] and played.ended == [BEGUN["temp_dir"]]
    assert list_profiles() == []


def test_without_a_terminal_yes_is_needed(dr: Command, played: Played, alive: None) -> None:
    dr("start", "carts")
    done = dr("stop")
    assert done.code == 2 and "--yes" in done.err
    assert dr("stop", "--dry-run").code == 0
    assert played.stopped == [] and list_profiles() == ["carts"]


def test_another_cluster_of_that_name_is_not_stopped(
    dr: Command, played: Played, alive: None
) -> None:
    dr("start", "carts")
    played.cluster_id = "cd" * 16
    assert dr("stop", "carts", "--yes").code == 8
    assert played.stopped == [] and played.ended == [] and list_profiles() == ["carts"]


def test_a_cluster_that_died_can_be_stopped(dr: Command, played: Played) -> None:
    dr("start", "carts")
    assert dr("stop", "carts", "--yes").code == 0
    assert played.stopped == [] and played.ended == [BEGUN["temp_dir"]]


# ---- node kill


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The servers of these tests live in the tests' own process: nothing is really killed."""
    pids: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, sign: pids.append(pid))
    return pids


def test_only_a_process_of_a_node_is_killed(
    dr: Command, carts: Threaded, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = dr("node", "kill", "n1", "--yes")
    assert done.code == 8 and killed == []
    monkeypatch.setattr(commands, "_command_of", lambda pid: b"ray::NodeActor")
    assert dr("node", "kill", "n1").code == 2
    assert dr("node", "kill", "n1", "--dry-run").code == 0
    assert killed == []
    assert dr("node", "kill", "n1", "--yes", "--json").json["node"] == "n1"
    assert killed == [os.getpid()]


def test_a_node_elsewhere_is_not_killed(
    dr: Command, carts: Threaded, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be a process of that number here, too."""
    monkeypatch.setattr(commands, "_command_of", lambda pid: b"ray::NodeActor")
    monkeypatch.setattr(commands, "_is_here", lambda host: False)
    assert dr("node", "kill", "n1", "--yes").code == 8
    assert killed == []


def test_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands._is_here("127.0.0.1") and commands._is_here(socket.gethostname())
    assert not commands._is_here("198.51.100.1")
    assert not commands._is_here("no-such-host.invalid")


def test_a_node_that_is_not_there_is_2(dr: Command, carts: Threaded) -> None:
    done = dr("node", "kill", "n9", "--yes")
    assert done.code == 2 and "n1, n2" in done.err


# ---- node snapshot

WRITTEN = {"generation": 1, "records": 1200, "bytes": 250_000, "seconds": 0.41}
FAILED = {"problem": "the disk is full"}


def test_snapshots_are_asked_for_through_ray_and_told(dr: Command, played: Played) -> None:
    dr("start", "carts")
    played.taken = {"n2": WRITTEN, "n1": WRITTEN}
    done = dr("node", "snapshot")
    assert done.code == 0
    assert done.out.decode().splitlines() == [
        f"{name}: 1,200 records, 250.0 kB, in 0.4 s" for name in ("n1", "n2")
    ]
    assert dr("node", "snapshot", "n2", "--wait", "5", "--json").json == {
        "schema": "dynamo_ray.snapshot/1",
        "nodes": played.taken,
    }
    address = BEGUN["address"]
    assert played.asked == [("carts", address, 600.0, None), ("carts", address, 5.0, ["n2"])]


@pytest.mark.parametrize(
    ("taken", "code"), [({"n1": WRITTEN, "n2": FAILED}, 9), ({"n1": FAILED}, 1)]
)
def test_a_snapshot_that_was_not_taken_is_no_success(
    dr: Command, played: Played, taken: dict[str, Any], code: int
) -> None:
    dr("start", "carts")
    played.taken = taken
    done = dr("node", "snapshot")
    assert done.code == code and "the disk is full" in done.err
    assert done.out.count(b"records") == len(taken) - 1


def test_snapshots_of_another_cluster_of_that_name_are_not_asked_for(
    dr: Command, played: Played
) -> None:
    dr("start", "carts")
    played.cluster_id = "cd" * 16
    assert dr("node", "snapshot").code == 8 and played.asked == []


# ---- coordinator scale


def test_the_pool_is_scaled_once_that_is_agreed(dr: Command, played: Played) -> None:
    dr("start", "carts")
    done = dr("coordinator", "scale", "4", "--dry-run")
    assert done.code == 0 and done.out == b"" and played.scaled == []
    assert "cluster carts, to 4 coordinators: start c3, c4\n" in done.err
    assert dr("coordinator", "scale", "4").code == 2, "there is nobody to ask"
    assert played.scaled == []
    done = dr("coordinator", "scale", "4", "--yes", "--json")
    assert done.json == {
        "schema": "dynamo_ray.coordinators/1",
        "name": "carts",
        "coordinators": ["c1", "c2", "c3", "c4"],
        "started": ["c3", "c4"],
        "ended": [],
    }
    assert played.scaled == [4] and "c3 is up\n" in done.err


def test_a_pool_shrinks_or_stays(dr: Command, played: Played) -> None:
    dr("start", "carts")
    done = dr("coordinator", "scale", "1", "--yes")
    assert done.code == 0 and done.out == b"" and "end c2\n" in done.err
    done = dr("coordinator", "scale", "2", "--json")
    assert done.json["started"] == done.json["ended"] == []
    assert "has c1, c2 already" in done.err and played.scaled == [1]


@pytest.mark.parametrize(
    ("failure", "code"), [(BadRequestError("not 0"), 2), (UnavailableError(1, 0, "c3: no"), 4)]
)
def test_a_pool_that_cannot_be_scaled(
    dr: Command, played: Played, failure: Exception, code: int
) -> None:
    dr("start", "carts")
    played.failure = failure
    done = dr("coordinator", "scale", "3", "--yes", "--json")
    assert done.code == code and done.out == b"" and done.err.startswith("error: ")


def test_a_pool_of_another_cluster_of_that_name_is_not_scaled(dr: Command, played: Played) -> None:
    dr("start", "carts")
    played.cluster_id = "cd" * 16
    assert dr("coordinator", "scale", "1", "--yes").code == 8 and played.scaled == []
