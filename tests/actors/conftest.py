"""One small real Ray, and one cluster in it, for all tests here; ended by pid whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import dynamo_ray

NAME = "real"


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of our own, to which this process is connected; its temporary directory."""
    from dynamo_ray.actors import local_ray

    before = dict(os.environ)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["DYNAMO_RAY_HOME"] = str(tmp_path_factory.mktemp("home"))
    local_ray.start_here()
    import ray

    temp_dir = ray._private.worker.global_worker.node.get_temp_dir_path()
    try:
        yield temp_dir
    finally:
        with suppress(RuntimeError, OSError):
            ray.shutdown()
        local_ray.end({"temp_dir": temp_dir})
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes") / "real"


@pytest.fixture(scope="session")
def cluster(ray_here: str, data_dir: Path) -> Iterator[dynamo_ray.Cluster]:
    from tests.client.contract import LIMITS

    with dynamo_ray.start(NAME, nodes=5, data_dir=data_dir, limits=LIMITS) as started:
        yield started
