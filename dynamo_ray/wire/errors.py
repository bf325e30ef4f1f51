"""What can go wrong on the wire, as types.

Two families. Exceptions (all under WireError) end a connection, an attempt to connect, or an
attempt to listen. Failures are the ends of one call: they are values, because a call that fails is
an everyday event of the machines above, and each says the one thing those machines must know: may
the other side have received it?
"""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """Why a call has no reply. Only LOST and TIMED_OUT leave open whether it was received."""

    UNSENT = "unsent"  # nobody was connected, or the frame never left this side
    OVERLOADED = (
        "overloaded"  # too many calls in flight or bytes waiting; refused before it was queued
    )
    TOO_LONG = "too long"  # the other side's limit for a frame would refuse it
    LOST = "lost"  # the connection ended between the call and its reply
    TIMED_OUT = "timed out"  # no reply in the time given; a late one is ignored

    @property
    def maybe_received(self) -> bool:
        return self is Failure.LOST or self is Failure.TIMED_OUT


class FrameFault(StrEnum):
    """What is wrong with bytes that should have been a frame."""

    BAD_MAGIC = "bad magic"
    BAD_VERSION = "bad version"
    BAD_FLAGS = "bad flags"
    TOO_LONG = "too long"
    BAD_CHECKSUM = "bad checksum"
    NOT_A_MESSAGE = "not a message"


class RefusalCode(StrEnum):
    """Why a handshake ended without a connection. Sent as text: a newer side may know more."""

    MALFORMED = "malformed"
    WRONG_TOKEN = "wrong token"
    WRONG_ROLE = "wrong role"
    OTHER_CLUSTER = "other cluster"
    NEWER_PROTOCOL = "newer protocol"
    OLDER_PROTOCOL = "older protocol"
    IMPOSTOR = "impostor"
    BUSY = "busy"
    OTHER = "other"


class WireError(Exception):
    """Anything that this package raises on purpose."""


class FrameError(WireError):
    """These bytes are no frame of ours; whoever sent them is not listened to any more."""

    def __init__(self, fault: FrameFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault


class RefusedError(WireError):
    """A handshake was refused, by the other side or by this one; the sentence is for people."""

    def __init__(self, code: RefusalCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class UnreachableError(WireError, ConnectionError):
    """No connection came about: nobody listens, or it was closed or silent before it was known."""


class TokenError(WireError, ValueError):
    """The text is not a client token; most often a part of it was lost in copying."""


class PortInUseError(WireError, OSError):
    """Another program listens on this port."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is in use by another program; choose another port")
        self.host = host
        self.port = port


class CallError(WireError):
    """The awaitable form of a Failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"the call has no reply: {failure}")
        self.failure = failure
