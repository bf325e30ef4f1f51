"""sim run and sim soak."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dynamo_ray.sim import soak as soaking
from tests.cli.conftest import Command


def test_a_seed_is_a_run(dr: Command) -> None:
    first, second = dr("sim", "run", "--seed", "3", "--json"), dr("sim", "run", "--seed", "3")
    assert first.code == second.code == 0
    assert first.json["ok"] and first.json["digest"] in second.out.decode()


def test_a_soak_counts_and_goes_on(dr: Command) -> None:
    done = dr("sim", "soak", "--seeds", "4", "--first", "40", "--jobs", "2", "--json")
    assert done.code == 0
    assert (done.json["seeds"], done.json["failed"], done.json["ok"]) == (4, [], True)


def test_a_seed_that_fails_is_1_and_is_named(dr: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = soaking.Soak(seeds=2, failed=[soaking.FailedSeed(7, "seed 7: FAILED, repeat it")])
    monkeypatch.setattr(soaking, "soak", lambda *given, **options: found)
    done = dr("sim", "soak", "--seeds", "2")
    assert done.code == 1 and b"seed 7: FAILED, repeat it" in done.out
    assert dr("sim", "soak", "--seeds", "2", "--json").json["failed"] == [7]


def test_a_run_that_fails_is_1(dr: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamo_ray.sim import run as running

    failed = SimpleNamespace(ok=False, report=lambda: "seed 5: FAILED")
    monkeypatch.setattr(running, "run_seed", lambda seed: failed)
    done = dr("sim", "run", "--seed", "5")
    assert (done.code, done.out) == (1, b"seed 5: FAILED\n")


def test_sim_needs_a_seed(dr: Command) -> None:
    assert dr("sim", "run").code == 2
