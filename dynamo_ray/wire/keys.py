"""Keys: what the cluster's secret turns into, and the text that a client is given.

    secret (32 random bytes) ─► peer key     of nodes and coordinators, who may say everything
                             └► client key   as text a token; its holder may say a client's things

Neither key tells anything about the secret or about the other key. A key has an id, sent in the
open, that picks it out of the few that a server honours: so two secrets can be valid at once while
one replaces the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from dynamo_ray.wire.errors import TokenError

PEER = "peer"
CLIENT = "client"
SECRET_BYTES = 32
KEY_ID_BYTES = 8
_TOKEN_MARK = "drc1."  # says what the text is, to people and to scanners for leaked secrets
_TOKEN_CHECK_BYTES = 4  # tells a token that was cut or mistyped from one of another cluster


@dataclass(frozen=True)
class Credentials:
    """With what one side connects: role, key, and the cluster that it expects (None: any)."""

    role: str
    key: bytes = field(repr=False)
    cluster_id: bytes | None = None


def peer_credentials(secret: bytes, cluster_id: bytes | None = None) -> Credentials:
    return Credentials(PEER, peer_key(secret), cluster_id)


def client_credentials(token: str, cluster_id: bytes | None = None) -> Credentials:
    return Credentials(CLIENT, client_key(token), cluster_id)


def peer_key(secret: bytes) -> bytes:
    return _derived(_checked(secret), b"peer")


def client_token(secret: bytes) -> str:
    """The text that lets a client in. It is as secret as a password."""
    key = _derived(_checked(secret), b"client")
    return _TOKEN_MARK + base64.urlsafe_b64encode(key + _check(key)).decode()


def client_key(token: str) -> bytes:
    """The key in a token; TokenError if the text is no token or not a whole one."""
    if not token.startswith(_TOKEN_MARK):
        raise TokenError(f"a client token starts with {_TOKEN_MARK!r}")
    try:
        content = base64.b64decode(token[len(_TOKEN_MARK) :], altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenError("the client token is cut, or has characters of something else") from None
    key, check = content[:-_TOKEN_CHECK_BYTES], content[-_TOKEN_CHECK_BYTES:]
    if len(key) != SECRET_BYTES or check != _check(key):
        raise TokenError("the client token is damaged: its check does not match; copy it whole")
    return key


def key_id(key: bytes) -> bytes:
    return _derived(key, b"id")[:KEY_ID_BYTES]


def honoured_keys(secrets: Sequence[bytes]) -> dict[bytes, tuple[str, bytes]]:
    """key id -> (role, key), for a server that honours these secrets."""
    honoured = {}
    for secret in secrets:
        for role, key in ((PEER, peer_key(secret)), (CLIENT, client_key(client_token(secret)))):
            honoured[key_id(key)] = (role, key)
    return honoured


def _derived(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, b"dynamo_ray/1 " + purpose, "sha256")


def _check(key: bytes) -> bytes:
    return hashlib.sha256(b"dynamo_ray token" + key).digest()[:_TOKEN_CHECK_BYTES]


def _checked(secret: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a cluster's secret has {SECRET_BYTES} bytes, this one has {len(secret)}")
    return secret
