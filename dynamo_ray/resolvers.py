"""Ready-made resolvers: from several concurrent values to one (Dynamo §4.4).

A resolver is a pure function from the versions (`Sibling`: value, wall time), in canonical order,
to one value. It must not depend on their order beyond that, so that every reader resolves alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dynamo_ray.errors import ConflictError


class Sibling(NamedTuple):
    """One of a key's concurrent values, and the wall time at its minter, in ms since 1970."""

    value: bytes
    wall_ms: int


Resolver = Callable[[Sequence[Sibling]], bytes]


def last_write_wins(siblings: Sequence[Sibling]) -> bytes:
    """The value with the latest wall time; a tie goes to the greater dot, which comes last."""
    latest = max(sibling.wall_ms for sibling in siblings)
    return [sibling.value for sibling in siblings if sibling.wall_ms == latest][-1]


def union_of_sets(siblings: Sequence[Sibling]) -> bytes:
    """The union of JSON lists of distinct items, sorted by their JSON text.

    Adds are never lost; an item that one writer removed while another wrote may come back (§4.4).
    Raises ValueError if a value is not a JSON list.
    """
    items: dict[str, object] = {}
    for sibling in siblings:
        found = json.loads(sibling.value)
        if not isinstance(found, list):
            raise ValueError("union_of_sets needs values that are JSON lists")
        items.update({json.dumps(item, sort_keys=True): item for item in found})
    return json.dumps([items[text] for text in sorted(items)]).encode()


def keep_all(siblings: Sequence[Sibling]) -> bytes:
    """Refuse to choose: raises ConflictError with all values (the manner without a resolver)."""
    distinct = tuple(dict.fromkeys(sibling.value for sibling in siblings))
    if len(distinct) == 1:
        return distinct[0]
    raise ConflictError(distinct)


BY_NAME: dict[str, Resolver] = {
    "last_write_wins": last_write_wins,
    "union_of_sets": union_of_sets,
    "keep_all": keep_all,
}
