"""Storm, then calm, over many seeds: whatever a seed draws, every rule holds (DESIGN §5, §9)."""

from __future__ import annotations

import pytest

from dynamo_ray.sim.run import run_seed
from dynamo_ray.sim.soak import soak


@pytest.mark.timeout(0)
def test_every_seed_keeps_every_rule(seeds: range) -> None:
    """It is one run under any hash seed, too, and really works the cluster.

    One test, because all of it is seen in the same runs, and they take the longest of all.
    """
    soaked = soak(seeds, jobs=2)
    assert not soaked.failed, soaked.report()
    assert not soaked.deaths, soaked.report()
    assert soaked.differed == [], soaked.report()
    assert soaked.repeated >= soaked.seeds // 25
    assert soaked.acknowledged > soaked.writes / 2
    assert soaked.acknowledged < soaked.writes, "a storm in which nothing fails is none"


def test_a_seed_twice_here_is_one_run_and_another_seed_another() -> None:
    first, again, other = run_seed(3), run_seed(3), run_seed(4)
    assert (first.digest, first.events) == (again.digest, again.events)
    assert first.digest != other.digest


def test_the_same_run_on_real_storage() -> None:
    results = [run_seed(seed, real_storage=True) for seed in range(25)]
    assert [result.report() for result in results if not result.ok] == []
