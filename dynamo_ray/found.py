"""What a get gives and what a put gives: small values that a caller keeps and passes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynamo_ray.core.version import (
    EMPTY_CLOCK,
    EXPIRY_AT,
    KIND_AT,
    PAYLOAD_AT,
    WALL_AT,
    Kind,
    clock_of,
    decode,
    hide_expired,
    is_simple,
    never_expires,
)
from dynamo_ray.errors import ConflictError
from dynamo_ray.resolvers import Resolver, Sibling

CONCURRENT = b""
"""As a put's context: add a version beside all others, replace nothing (DESIGN rule 4)."""


class Written(NamedTuple):
    """A put or delete that was acknowledged; `context` is for the next put of the key."""

    context: bytes


class Found:
    """The answer to a get. `value` is None if the key holds nothing (never written, or deleted).

    `values` are the distinct concurrent values in canonical order, `context` is what was seen
    (there even if nothing was found), `degraded` tells that fewer than R owners answered and
    stand-ins filled in. Decoded only when looked at.
    """

    __slots__ = ("_resolver", "_seal", "_state", "degraded")

    def __init__(
        self, state: bytes | None, seal: bytes, degraded: bool, resolver: Resolver | None = None
    ) -> None:
        self._state = state
        self._seal = seal
        self._resolver = resolver
        self.degraded = degraded

    @property
    def siblings(self) -> tuple[Sibling, ...]:
        """The concurrent values with their minters' wall times, in canonical order."""
        if self._state is None:
            return ()
        versions = decode(self._state).versions
        return tuple(Sibling(v.payload, v.wall_ms) for v in versions if v.kind == Kind.VALUE)

    @property
    def values(self) -> tuple[bytes, ...]:
        """The distinct concurrent values; equal bytes are one value."""
        state = self._state
        if state is None:
            return ()
        if is_simple(state):
            return (state[PAYLOAD_AT:],) if state[KIND_AT] == Kind.VALUE else ()
        return tuple(dict.fromkeys(sibling.value for sibling in self.siblings))

    @property
    def found(self) -> bool:
        """True if the key holds a value."""
        return bool(self.values)

    @property
    def value(self) -> bytes | None:
        """The one value, or what the client's resolver makes of several.

        Raises ConflictError if there are several and no resolver.
        """
        values = self.values
        if len(values) > 1:
            if self._resolver is None:
                raise ConflictError(values)
            return self._resolver(self.siblings)
        return values[0] if values else None

    @property
    def context(self) -> bytes:
        """What was seen, as opaque bytes: a put with it replaces exactly that."""
        state = self._state
        return self._seal + (EMPTY_CLOCK if state is None else clock_of(state))

    def resolved(self, resolver: Resolver | None) -> bytes | None:
        """The value by another resolver than the client's."""
        return Found(self._state, self._seal, self.degraded, resolver or self._resolver).value

    def __repr__(self) -> str:
        values = self.values
        what = f"{len(values)} values" if len(values) > 1 else _shown(values)
        return f"Found({what}{', degraded' if self.degraded else ''})"


def shown_at(state: bytes, now_ms: int) -> tuple[Sibling, ...]:
    """The distinct values that a key's whole state shows at wall time `now_ms`, in canonical order.

    Of equal values the one of the greatest dot stands for all.
    """
    if is_simple(state) and never_expires(state):
        wall_ms = int.from_bytes(state[WALL_AT:EXPIRY_AT], "big")
        is_value = state[KIND_AT] == Kind.VALUE
        return (Sibling(state[PAYLOAD_AT:], wall_ms),) if is_value else ()
    siblings = Found(hide_expired(state, now_ms), b"", degraded=False).siblings
    return tuple({sibling.value: sibling for sibling in siblings}.values())


def _shown(values: Sequence[bytes]) -> str:
    return f"value of {len(values[0])} bytes" if values else "nothing"
