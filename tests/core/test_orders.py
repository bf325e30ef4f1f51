"""The order of a partition that is being read is always that of the keys that are held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.orders import READINGS, Orders

_keys = st.lists(st.binary(min_size=1, max_size=2), max_size=8)


@given(_keys, st.lists(st.tuples(st.booleans(), _keys), max_size=8))
def test_it_is_as_if_it_were_sorted_anew(
    held: list[bytes], changes: list[tuple[bool, list[bytes]]]
) -> None:
    maps = [dict.fromkeys(held, b""), {b"of another": b""}]
    orders = Orders(maps)
    orders.keep(0, orders.take(0))
    for comes, keys in changes:
        for key in keys:
            if comes:
                maps[0][key] = b""
            else:
                maps[0].pop(key, None)
        orders.mark([0] * len(keys) + [1], [*keys, b"of another"])
        orders.keep(0, in_order := orders.take(0))
        assert in_order == sorted(maps[0])


def test_who_was_not_asked_for_longest_goes_first() -> None:
    orders = Orders([{} for _ in range(READINGS + 1)])
    for partition in range(READINGS):
        orders.keep(partition, [b"%d" % partition])
    orders.keep(0, orders.take(0))
    orders.keep(READINGS, [])
    assert len(orders) == READINGS
    assert orders.take(0) == [b"0"] and orders.take(1) == []
