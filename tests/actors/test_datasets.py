"""read_dataset and write_dataset in a real Ray, against a real cluster."""

from __future__ import annotations

import pytest

import dynamo_ray
from dynamo_ray.resolvers import last_write_wins

pytest.importorskip("pandas", reason="the extra `data` is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(170)]


def test_there_and_back(cluster: dynamo_ray.Cluster) -> None:
    import ray.data

    rows = [{"key": f"dataset:{i}", "value": b"%d" % i} for i in range(300)]
    blocks = ray.data.from_items(rows, override_num_blocks=3)  # else Ray Data makes 200
    told = dynamo_ray.write_dataset(blocks, cluster.name, w=3)
    assert (told.objects, told.refused) == (300, 0)
    assert told.bytes == sum(len(f"{i}") for i in range(300))

    whole = dynamo_ray.read_dataset(cluster.name, siblings=last_write_wins, tasks=3)
    assert whole.schema().names == ["key", "value"]
    found = [row for row in whole.take_all() if row["key"].startswith(b"dataset:")]
    assert len(found) == 300
    assert {row["key"]: row["value"] for row in found} == {
        row["key"].encode(): row["value"] for row in rows
    }

    with cluster.connect() as client:
        client.put("dataset:1", b"other", context=dynamo_ray.CONCURRENT)
    by_address = {"address": cluster.addresses, "token": cluster.token}
    with pytest.raises(dynamo_ray.ConflictError, match="concurrent values"):
        dynamo_ray.read_dataset(**by_address, tasks=2).take_all()

    large = ray.data.from_items([{"key": "dataset:large", "value": b"x" * (2 << 20)}])
    with pytest.raises(dynamo_ray.BatchError) as caught:
        dynamo_ray.write_dataset(large, **by_address)
    assert set(caught.value.failures) == {b"dataset:large"}
