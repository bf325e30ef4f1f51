"""What several coordinators' answers to one request say together, key by key.

An answer that is not good for all keys may be bettered by another one: of the whole request, asked
of another coordinator while the first was silent (`better`), or of the keys alone that the first
found unavailable (`narrowed`, `filled`). Pure functions, for core/attempts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dynamo_ray.core.messages import ALWAYS_REFUSED, ClientPut, Code, PutDone, Refused

PUT_COLUMNS = ("keys", "values", "contexts", "put_ids", "ttls_ms")
GET_COLUMNS = ("keys",)


def is_final(reply: Any) -> bool:
    """True if no other coordinator could say anything better."""
    if isinstance(reply, Refused):
        return reply.code in ALWAYS_REFUSED
    return not reply.failures or all(f.code in ALWAYS_REFUSED for f in reply.failures)


def better(one: Any, other: Any) -> Any:
    """What two answers to one request say together: a key that either did well, went well."""
    if isinstance(one, Refused) or isinstance(other, Refused):
        return other if isinstance(one, Refused) else one
    failed = {failure.index for failure in one.failures}
    failures = tuple(failure for failure in other.failures if failure.index in failed)
    again = {failure.index for failure in other.failures} - failed
    filled = {}
    for name in _columns_of(one):
        filled[name] = [
            mine if row in again else theirs
            for row, (mine, theirs) in enumerate(
                zip(getattr(one, name), getattr(other, name), strict=True)
            )
        ]
    return replace(other, failures=failures, **filled)


def unavailable_rows(reply: Any) -> list[int]:
    """The keys, by their rows, of which the answer says: nothing applied, too few reached."""
    if isinstance(reply, Refused):
        return []
    return [failure.index for failure in reply.failures if failure.code == Code.UNAVAILABLE]


def narrowed(message: Any, rows: Sequence[int]) -> Any:
    """The same request for these rows alone, with the same put ids."""
    if len(rows) == len(message.keys):
        return message
    columns = PUT_COLUMNS if isinstance(message, ClientPut) else GET_COLUMNS
    return replace(
        message, **{name: [getattr(message, name)[row] for row in rows] for name in columns}
    )


def filled(reply: Any, rows: Sequence[int], part: Any, strict: bool) -> Any:
    """The answer `reply`, and in the place of these rows what `part` says of them.

    An answer with an unavailable key is `degraded` for that alone. Of other keys in it a sloppy
    answer may mean it, too; a strict one has no other degraded keys than those that failed.
    """
    asked = set(rows)
    failures = [failure for failure in reply.failures if failure.index not in asked]
    failures += [failure._replace(index=rows[failure.index]) for failure in part.failures]
    columns: dict[str, Any] = {name: list(getattr(reply, name)) for name in _columns_of(reply)}
    for name, column in columns.items():
        for row, cell in zip(rows, getattr(part, name), strict=True):
            column[row] = cell
    if not isinstance(reply, PutDone):
        has_others = not strict and len(asked) < len(reply.states)
        columns["degraded"] = part.degraded or (has_others and reply.degraded)
    return replace(reply, failures=tuple(sorted(failures)), **columns)


def doubted(reply: Any, rows: Sequence[int]) -> Any:
    """The answer to a put, with an unknown end for these rows: somebody may have applied them."""
    asked = set(rows)
    return replace(
        reply,
        failures=tuple(
            f._replace(code=Code.UNKNOWN) if f.index in asked else f for f in reply.failures
        ),
    )


def _columns_of(reply: Any) -> tuple[str, ...]:
    return ("contexts",) if isinstance(reply, PutDone) else ("states", "seals")
