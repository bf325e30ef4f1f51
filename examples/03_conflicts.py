"""Two writers change one cart at the same time: both survive, and you say how they become one.

    python examples/03_conflicts.py

A store that keeps the last write would have lost a lamp or a chair here, without a word.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence

import dynamo_ray
from dynamo_ray import Sibling


def most_of_each(siblings: Sequence[Sibling]) -> bytes:
    """A resolver of one's own: of each item the highest count, in whatever order they come."""
    merged: dict[str, int] = {}
    for sibling in siblings:
        for item, count in json.loads(sibling.value).items():
            merged[item] = max(count, merged.get(item, 0))
    return json.dumps(merged, sort_keys=True).encode()


def main() -> None:
    """The whole example."""
    with (
        tempfile.TemporaryDirectory() as folder,
        dynamo_ray.start("conflicts", nodes=3, data_dir=folder) as cluster,
        cluster.connect() as phone,
        cluster.connect() as laptop,
    ):
        phone.put("cart", b'{"book": 1}')

        # Both have read the same cart, and each puts what it made of it.
        on_phone, on_laptop = phone.get("cart"), laptop.get("cart")
        phone.put("cart", b'{"book": 1, "lamp": 1}', context=on_phone.context)
        laptop.put("cart", b'{"book": 2, "chair": 1}', context=on_laptop.context)

        found = phone.get("cart")
        print("both survive:", *found.values)
        try:
            print(found.value)
        except dynamo_ray.ConflictError as error:
            print("no guessing :", error)

        # Read, resolve, change, write back with the context; repeated safely if it must be.
        phone.update("cart", add_a_pen, resolver=most_of_each)
        print("one again   :", laptop.get("cart").value)

        # Or let every read of a client resolve by itself.
        with cluster.connect(resolver=dynamo_ray.last_write_wins) as casual:
            print("last one    :", casual.get("cart").value)


def add_a_pen(cart: bytes | None) -> bytes:
    """What is changed in the cart."""
    return json.dumps({**json.loads(cart or b"{}"), "pen": 1}, sort_keys=True).encode()


if __name__ == "__main__":
    main()
