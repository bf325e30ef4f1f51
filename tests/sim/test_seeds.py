"""Storm, then calm, over many seeds: whatever a seed draws, every rule holds (DESIGN §5, §9)."""

from __future__ import annotations

import pytest

from dynamo_ray.sim.run import run_seed
from dynamo_ray.sim.soak import Soak, soak


@pytest.fixture(scope="module")
def soaked(seeds: range) -> Soak:
    return soak(seeds, jobs=2)


@pytest.mark.timeout(0)
def test_every_seed_keeps_every_rule(soaked: Soak) -> None:
    assert not soaked.failed, soaked.report()
    assert not soaked.deaths, soaked.report()


@pytest.mark.timeout(0)
def test_a_seed_is_one_run_under_any_hash_seed(soaked: Soak) -> None:
    assert soaked.repeated >= soaked.seeds // 25
    assert soaked.differed == []


def test_the_seeds_really_work_the_cluster(soaked: Soak) -> None:
    assert soaked.acknowledged > soaked.writes / 2
    assert soaked.acknowledged < soaked.writes, "a storm in which nothing fails is none"


def test_a_seed_twice_here_is_one_run_and_another_seed_another() -> None:
    first, again, other = run_seed(3), run_seed(3), run_seed(4)
    assert (first.digest, first.events) == (again.digest, again.events)
    assert first.digest != other.digest


def test_the_same_run_on_real_storage() -> None:
    results = [run_seed(seed, real_storage=True) for seed in range(25)]
    assert [result.report() for result in results if not result.ok] == []
