"""Pages lead through a whole partition, whatever comes and goes meanwhile, and sort it once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core import orders, pages
from dynamo_ray.core.pages import Pages, leads_on
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.upkeep import Copy, Scan
from tests.core.histories import dot, node_id, state, version

HELD = state(version(dot("a", 1), b"v"))


def of(*keys: bytes, partitions: int = 1) -> Pages:
    maps: list[dict[bytes, bytes]] = [dict.fromkeys(keys, HELD) for _ in range(partitions)]
    settings = Settings(partitions=partitions)
    return Pages(Replica(node_id("a"), settings, maps, frozenset({0})), 1 << 20)


_keys = st.sets(st.binary(min_size=1, max_size=3), max_size=40)


@given(_keys, _keys, _keys, st.integers(1, 7), st.booleans())
def test_all_that_was_there_from_first_to_last_is_read_once(
    held: set[bytes], come: set[bytes], go: set[bytes], size: int, is_scan: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "COPY_KEYS", size)
        patch.setattr(pages, "SCAN_KEYS", size)
        reading = of(*held)
        of_partition = reading._replica.maps[0]
        after, read, due = b"", list[bytes](), set[bytes]()
        while True:
            page = reading.page("co", (Scan if is_scan else Copy)(0, after)).message
            assert leads_on(after, page.keys) and page.complete
            read += page.keys
            if len(page.keys) < page.size:
                break
            after = page.keys[-1]
            of_partition.update(dict.fromkeys(come, HELD))
            for key in go:
                of_partition.pop(key, None)
            reading._replica.orders.mark([0] * (len(come) + len(go)), [*come, *go])
            # What came behind this page is on one that follows: nobody else may have it by then.
            due |= {key for key in come - go if key > after}
    assert len(set(read)) == len(read)
    assert due | (held - go) <= set(read) <= held | come


def test_a_partition_is_sorted_once_for_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "COPY_KEYS", 10)
    sorts = []
    monkeypatch.setattr(
        orders, "sorted", lambda keys: sorts.append(1) or sorted(keys), raising=False
    )
    reading = of(*(b"%03d" % i for i in range(100)))
    after = b""
    while page := reading.page("co", Copy(0, after)).message.keys:
        after = page[-1]
    assert len(sorts) <= 2 and not reading._replica.orders  # and once more to see that it has ended


def test_few_readings_are_remembered() -> None:
    keys = [b"%04d" % i for i in range(300)]
    reading = of(*keys, partitions=20)
    for partition in range(20):
        reading.page("co", Copy(partition, b""))
    assert len(reading._replica.orders) == orders.READINGS
    assert reading.page("co", Copy(0, keys[199])).message.keys == keys[200:]


def test_an_order_that_somebody_left_behind_hides_nothing_from_the_next_reading() -> None:
    reading = of(*(b"%03d" % i for i in range(300)))
    held, orders = reading._replica.maps[0], reading._replica.orders
    reading.page("co", Copy(0, b""))
    assert len(orders) == 1
    held.clear()
    held[b"after"] = HELD
    orders.mark([0] * 301, [*(b"%03d" % i for i in range(300)), b"after"])
    assert reading.page("co", Copy(0, b"150")).message.keys == [b"after"]
