"""Quantiles of a histogram that forgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.latency import EDGES, ENOUGH, GROWTH, KEEP, Latencies


def of(samples: list[float]) -> Latencies:
    latencies = Latencies()
    for sample in samples:
        latencies.add(sample)
    return latencies


def test_too_few_say_nothing() -> None:
    assert of([0.01] * (ENOUGH - 1)).quantile(0.99) is None
    assert of([0.01] * ENOUGH).quantile(0.99) == pytest.approx(0.01, rel=0.25)


def test_one_in_a_hundred_is_left_out_and_two_are_not() -> None:
    assert of([0.002] * 99 + [0.5]).quantile(0.99) < 0.003  # type: ignore[operator]
    assert of([0.002] * 98 + [0.5] * 2).quantile(0.99) >= 0.5  # type: ignore[operator]


def test_what_is_long_past_weighs_little() -> None:
    latencies = of([0.5] * 1000)
    for _ in range(int(KEEP) * 8):
        latencies.add(0.002)
    assert latencies.quantile(0.99) < 0.003  # type: ignore[operator]


@given(
    st.lists(st.floats(0.0, 100.0), min_size=ENOUGH, max_size=300),
    st.sampled_from([0.5, 0.9, 0.99, 1.0]),
)
def test_the_law_of_quantiles(samples: list[float], share: float) -> None:
    found = of(samples).quantile(share)
    assert found is not None
    within = sum(min(sample, EDGES[-1]) <= found for sample in samples)
    assert within >= share * len(samples) - 1e-6
    exact = sorted(min(s, EDGES[-1]) for s in samples)[-(-int(share * len(samples)) // 1) - 1]
    assert found <= max(EDGES[0], exact * GROWTH) * 1.0001 or within > share * len(samples)
