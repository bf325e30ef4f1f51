"""What a reader has seen, as opaque bytes that cannot be made up (DESIGN §8).

A context token is a clock with a MAC over the clock, the key and the cluster's id. Without the MAC
a client could claim dots that it never saw and so delete every sibling, now and in future. A token
of another key or another cluster, or an altered one, is refused, never taken for an empty context.

    u8 form = 1 · u8 key id · MAC (16 bytes) · clock (core/version.py)
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from operator import add

from dynamo_ray.core.clock import Clock
from dynamo_ray.core.version import MalformedStateError, decode_clock

FORM = 1
MAC_BYTES = 16
CLOCK_AT = 2 + MAC_BYTES
LENGTH = struct.Struct(">I")


class ContextKeys:
    """The keys that seal contexts: the first seals, all open (so that a secret can be rotated)."""

    def __init__(self, cluster_id: bytes, secrets: Sequence[bytes]) -> None:
        self._keys = [
            blake2b(b"context" + cluster_id, key=secret[:64], digest_size=32).digest()
            for secret in secrets
        ]
        self._ids = [blake2b(key, digest_size=1).digest()[0] for key in self._keys]
        self._sealing = blake2b(key=self._keys[0], digest_size=MAC_BYTES)
        self._head = bytes((FORM, self._ids[0]))

    def seal(self, key: bytes, clock: bytes) -> bytes:
        """The token for a clock of `key`."""
        return self.tokens((key,), (clock,))[0]

    def seals(self, keys: Iterable[bytes], clocks: Iterable[bytes]) -> list[bytes]:
        """What stands before the clock in the token of each key."""
        copy, head, pack = self._sealing.copy, self._head, LENGTH.pack
        seals: list[bytes] = []
        for key, clock in zip(keys, clocks, strict=True):
            mac = copy()
            mac.update(pack(len(key)) + key + clock)
            seals.append(head + mac.digest())
        return seals

    def tokens(self, keys: Sequence[bytes], clocks: Sequence[bytes]) -> list[bytes]:
        """The token for each key's clock."""
        return list(map(add, self.seals(keys, clocks), clocks))

    def open(self, key: bytes, token: bytes) -> bytes | None:
        """The clock's canonical bytes, or None if this cluster did not seal the token for `key`."""
        if len(token) <= CLOCK_AT or token[0] != FORM:
            return None
        clock = token[CLOCK_AT:]
        bound = LENGTH.pack(len(key)) + key + clock
        for key_id, secret in zip(self._ids, self._keys, strict=True):
            mac = blake2b(bound, key=secret, digest_size=MAC_BYTES).digest()
            if key_id == token[1] and hmac.compare_digest(mac, token[2:CLOCK_AT]):
                return clock
        return None


def clock_of_token(token: bytes) -> Clock:
    """What a token says was seen, for people and tests; it proves nothing.

    Raises MalformedStateError.
    """
    if len(token) <= CLOCK_AT or token[0] != FORM:
        raise MalformedStateError("these bytes are not a context")
    return decode_clock(token[CLOCK_AT:])
