"""A message that went in parts: what its machine hears in the end."""

from __future__ import annotations

from typing import Any

from dynamo_ray.core.joint import Failed, Joint
from dynamo_ray.core.messages import (
    Code,
    Fetch,
    Fetched,
    Merge,
    Merged,
    Refused,
    Send,
)
from dynamo_ray.core.rerouting import Part

KEYS = [b"a", b"b", b"c"]
FIRST, SECOND = Part([0, 2], b"A" * 8, None, b""), Part([1], b"B" * 8, None, b"")
REFUSED = Refused(Code.NOT_READY)
LOST = Failed(True)


def joined(message: Any, first: Any, second: Any) -> Any:
    """The end of a message whose second part ended before its first."""
    joint = Joint(Send(b"A" * 8, message))
    joint.on_parted([FIRST, SECOND])
    assert joint.on_end(SECOND, second) is None
    return joint.on_end(FIRST, first)


def test_what_was_fetched_is_in_the_order_of_the_keys() -> None:
    message = Fetch(KEYS, [0, 1, 0])
    end = joined(message, Fetched([b"1", None]), Fetched([b"2"]))
    assert end == Fetched([b"1", b"2", None], True)
    assert not joined(message, Fetched([b"1", None]), Fetched([b"2"], False)).complete


def test_a_merge_counts_only_whole() -> None:
    message = Merge(KEYS, [0, 1, 0], [b"s"] * 3)
    assert joined(message, Merged(), Merged()) == Merged()
    assert joined(message, Merged(), REFUSED) == LOST
    assert joined(message, REFUSED, REFUSED) == REFUSED


def test_a_part_may_part_again() -> None:
    joint = Joint(Send(b"A" * 8, Fetch(KEYS, [0, 1, 0])))
    joint.on_parted([FIRST, SECOND])
    parts = [Part([row], b"C" * 8, None, b"") for row in (0, 2)]
    joint.on_parted(parts)
    assert joint.on_end(parts[1], Fetched([b"3"])) is None
    assert joint.on_end(SECOND, Fetched([b"2"])) is None
    assert joint.on_end(parts[0], Fetched([b"1"])) == Fetched([b"1", b"2", b"3"], True)
