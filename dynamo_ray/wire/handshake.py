"""The handshake: each side proves that it holds the key before the other says or believes anything.

    connecting                                              accepting
    HELLO versions, role, key id, nonce, cluster ───►
              ◄─── CHALLENGE version, nonce                 or REFUSAL code, sentence
    PROOF mac, reading, max frame ───►
              ◄─── WELCOME mac, cluster, id, incarnation,   or REFUSAL code, sentence
                           reading, max frame

A mac is HMAC-SHA256 by the key of the role over everything said before it and beside it, under a
label of the side that speaks. So a proof cannot be replayed (the nonces are new each time), nor
sent back to its sender (the labels differ), nor survive a change of what was offered (versions are
under it). The accepting side tells who it is only to somebody who has proved itself, and its
WELCOME is at once its own proof and the word that the other is admitted.

What this does not do: it does not protect what is said afterwards against somebody who sits on the
path. That is TLS.

Two machines, one per side. `on_message` takes a message and returns what to answer; `outcome` tells
the end: None while it goes on. Nonces and clock readings are arguments. A REFUSAL proves nothing
about who sent it: it may only end the attempt, and its sentence is shown as text, cut and without
control characters.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from dynamo_ray.wire.errors import RefusalCode, RefusedError
from dynamo_ray.wire.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    STRANGER_FRAME_BYTES,
    Message,
    pack,
)
from dynamo_ray.wire.keys import Credentials, key_id

HELLO, CHALLENGE, PROOF, WELCOME, REFUSAL = 1, 2, 3, 4, 5
VERSIONS = (2, 2)  # the oldest and the newest protocol that this side speaks
NONCE_BYTES = 32
CLUSTER_ID_BYTES = 16
_SENTENCE_CHARS = 300


@dataclass(frozen=True)
class Identity:
    """Who the accepting side is; told only to those who proved themselves."""

    cluster_id: bytes
    server_id: bytes
    incarnation: bytes


@dataclass(frozen=True)
class Welcome:
    """What the connecting side learned."""

    identity: Identity
    reading_ms: int  # the other side's monotonic clock as it said this
    version: int
    max_frame_bytes: int  # the longest payload that the other side reads


@dataclass(frozen=True)
class Admitted:
    """What the accepting side learned."""

    role: str
    reading_ms: int
    version: int
    max_frame_bytes: int


class ConnectingHandshake:
    """The side that connects. Send `hello`, then feed `on_message` until there is an outcome."""

    def __init__(
        self,
        credentials: Credentials,
        nonce: bytes,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self.outcome: Welcome | RefusedError | None = None
        self._credentials = credentials
        self._nonce = nonce
        self._max_frame_bytes = max_frame_bytes
        self._versions = versions
        identifier = key_id(credentials.key)
        self.hello: Message = [
            0, HELLO, *versions, credentials.role, identifier, nonce, credentials.cluster_id,
        ]  # fmt: skip
        self._challenge: Message | None = None
        self._proof: Message = []

    def on_message(self, message: Message, now_ms: int) -> Message | None:
        if self.outcome is None:
            try:
                _check_flat(message)
                return self._answer(message, now_ms)
            except RefusedError as refused:
                self.outcome = refused
        return None

    def _answer(self, message: Message, now_ms: int) -> Message | None:
        kind = message[1]
        if kind == REFUSAL:
            raise _told(message)
        if kind == CHALLENGE and self._challenge is None:
            return self._prove(message, now_ms)
        if kind == WELCOME and self._challenge is not None:
            self.outcome = self._welcomed(message)
            return None
        raise _malformed("the other side's handshake is out of order")

    def _prove(self, challenge: Message, now_ms: int) -> Message:
        version, nonce = _fields(challenge, int, bytes)
        oldest, newest = self._versions
        if not oldest <= version <= newest:
            raise _malformed("the other side chose a protocol version that was not offered")
        if nonce == self._nonce or len(nonce) != NONCE_BYTES:
            raise _impostor("the other side sent back the challenge instead of its own")
        self._challenge = challenge
        said = [now_ms, self._max_frame_bytes]
        mac = _mac(self._credentials.key, b"connecting", self.hello, challenge, said)
        self._proof = [0, PROOF, mac, *said]
        return self._proof

    def _welcomed(self, message: Message) -> Welcome:
        mac, cluster_id, server_id, incarnation, reading_ms, max_frame_bytes = _fields(
            message, bytes, bytes, bytes, bytes, int, int
        )
        assert self._challenge is not None
        key, said = self._credentials.key, message[3:]
        mine = _mac(key, b"accepting", self.hello, self._challenge, self._proof, said)
        if not hmac.compare_digest(mac, mine):
            raise _impostor("the other side could not prove that it holds the cluster's secret")
        if self._credentials.cluster_id not in (None, cluster_id):
            raise _other_cluster()
        identity = Identity(cluster_id, server_id, incarnation)
        max_frame_bytes = max(max_frame_bytes, STRANGER_FRAME_BYTES)
        return Welcome(identity, reading_ms, self._challenge[2], max_frame_bytes)


class AcceptingHandshake:
    """The side that accepts, with the keys it honours (see keys.honoured_keys)."""

    def __init__(
        self,
        identity: Identity,
        honoured: Mapping[bytes, tuple[str, bytes]],
        nonce: bytes,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self.outcome: Admitted | RefusedError | None = None
        self._identity = identity
        self._honoured = honoured
        self._nonce = nonce
        self._max_frame_bytes = max_frame_bytes
        self._versions = versions
        self._role, self._key = "", b""
        self._hello: Message | None = None
        self._challenge: Message = []

    def on_message(self, message: Message, now_ms: int) -> Message | None:
        if self.outcome is not None:
            return None
        try:
            _check_flat(message)
            return self._answer(message, now_ms)
        except RefusedError as refused:
            self.outcome = refused
            return refusal(refused.code, refused.sentence)

    def _answer(self, message: Message, now_ms: int) -> Message:
        if message[1] == HELLO and self._hello is None:
            return self._challenged(message)
        if message[1] == PROOF and self._hello is not None:
            return self._welcome(message, now_ms)
        raise _malformed("the handshake is out of order")

    def _challenged(self, hello: Message) -> Message:
        oldest, newest, role, identifier, nonce, cluster_id = _fields(
            hello, int, int, str, bytes, bytes, (bytes, type(None))
        )
        version = self._chosen_version(oldest, newest)
        if cluster_id not in (None, self._identity.cluster_id):
            raise _other_cluster()
        self._role, self._key = self._honoured.get(identifier, ("", b""))
        if not self._key:
            sentence = "the token or secret is not one of this cluster's, or no longer"
            raise RefusedError(RefusalCode.WRONG_TOKEN, sentence)
        if role != self._role:
            sentence = f"this key does not admit in the role {role[:16]!r}"
            raise RefusedError(RefusalCode.WRONG_ROLE, sentence)
        if len(nonce) != NONCE_BYTES:
            raise _malformed("the nonce has the wrong length")
        self._hello = hello
        self._challenge = [0, CHALLENGE, version, self._nonce]
        return self._challenge

    def _chosen_version(self, oldest: int, newest: int) -> int:
        mine_oldest, mine_newest = self._versions
        if oldest > mine_newest:
            sentence = (
                f"protocol {oldest} or newer was asked for, this side speaks up to {mine_newest}"
            )
            raise RefusedError(RefusalCode.NEWER_PROTOCOL, sentence)
        if newest < mine_oldest:
            sentence = f"protocol {newest} or older was asked for, this side needs {mine_oldest}"
            raise RefusedError(RefusalCode.OLDER_PROTOCOL, sentence)
        return min(newest, mine_newest)

    def _welcome(self, proof: Message, now_ms: int) -> Message:
        mac, reading_ms, max_frame_bytes = _fields(proof, bytes, int, int)
        assert self._hello is not None
        mine = _mac(self._key, b"connecting", self._hello, self._challenge, proof[3:])
        if not hmac.compare_digest(mac, mine):
            sentence = "the proof does not match: another key, or altered on the way"
            raise RefusedError(RefusalCode.WRONG_TOKEN, sentence)
        max_frame_bytes = max(max_frame_bytes, STRANGER_FRAME_BYTES)
        self.outcome = Admitted(self._role, reading_ms, self._challenge[2], max_frame_bytes)
        who = self._identity
        said = [who.cluster_id, who.server_id, who.incarnation, now_ms, self._max_frame_bytes]
        mac = _mac(self._key, b"accepting", self._hello, self._challenge, proof, said)
        return [0, WELCOME, mac, *said]


def refusal(code: RefusalCode, sentence: str) -> Message:
    return [0, REFUSAL, str(code), sentence]


def _mac(key: bytes, label: bytes, *said: Message) -> bytes:
    """Over the encoding of all that was said: no byte can slide from one field to the next."""
    return hmac.digest(key, b"dynamo_ray/1 " + label + pack(said)[HEADER_BYTES:], "sha256")


def _fields(message: Message, *types: type | tuple[type, ...]) -> Message:
    """The fields of these types. A newer side may say more behind them."""
    fields = message[2 : 2 + len(types)]
    if len(fields) < len(types) or not all(map(isinstance, fields, types)):
        raise _malformed("a message of the handshake has the wrong form")
    return fields


def _check_flat(message: Message) -> None:
    """Lists in lists could be too deep to pack again, and a mac is over what was packed again."""
    if any(isinstance(field, list) for field in message):
        raise _malformed("a message of the handshake has a list in it")


def _told(message: Message) -> RefusedError:
    code, sentence = _fields(message, str, str)
    known = RefusalCode(code) if code in tuple(RefusalCode) else RefusalCode.OTHER
    shown = "".join(char if char.isprintable() else "?" for char in sentence[:_SENTENCE_CHARS])
    return RefusedError(known, f"refused by the other side: {shown}")


def _malformed(sentence: str) -> RefusedError:
    return RefusedError(RefusalCode.MALFORMED, sentence)


def _impostor(sentence: str) -> RefusedError:
    return RefusedError(RefusalCode.IMPOSTOR, sentence)


def _other_cluster() -> RefusedError:
    return RefusedError(RefusalCode.OTHER_CLUSTER, "this is not the cluster that was expected")
