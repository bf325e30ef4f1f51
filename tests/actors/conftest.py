"""All tests here share the one real cluster of the session."""

from __future__ import annotations

import pytest

import dynamo_ray


@pytest.fixture
def cluster(real_cluster: dynamo_ray.Cluster) -> dynamo_ray.Cluster:
    return real_cluster
