"""What a caller of `start` says: a new cluster is made of it, and an old one must agree with it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray import cluster
from dynamo_ray.core.settings import SettingsError
from dynamo_ray.founding import Said


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


def test_two_who_found_one_cluster_at_once_found_the_same(tmp_path: Path) -> None:
    """Whoever wrote the charter last once replaced the other's, under a cluster that ran."""
    for turn in range(10):
        folder, found = tmp_path / str(turn), []
        gate = threading.Barrier(4)

        def begin(folder: Path = folder, found: list[Any] = found, gate: Any = gate) -> None:
            gate.wait(5)
            found.append(cluster._found(folder, "carts", said()))

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(found) == 4
        assert all(one == found[0] for one in found)
        assert [path.name for path in folder.iterdir()] == [cluster.CHARTER_FILE]
