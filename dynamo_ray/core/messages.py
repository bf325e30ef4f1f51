"""Every request, reply, effect and outcome of the data path, as frozen data.

The unit of work is a list of keys that share a route (DESIGN §4); a single put is a list of one. A
message about keys holds parallel columns: the i-th partition, value, state … belongs to the i-th
key. Messages say *what*; when they expire, under which ring epoch and with which call number they
travel is the envelope's business, and the shells'.

Requests to a storage node: Mint, Merge, Fetch.   Its replies: Minted, Merged, Fetched, Refused.
Requests of a client: ClientPut, ClientGet.       A coordinator's replies: PutDone, GetDone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple

from dynamo_ray.core.values import value
from dynamo_ray.core.version import clock_of


class Code(IntEnum):
    """How an operation ended, or why a receiver refused a message. Refusals applied nothing."""

    OK = 0
    UNAVAILABLE = 1
    UNKNOWN = 2
    INVALID_CONTEXT = 3
    KEY_SIZE = 4
    VALUE_SIZE = 5
    TOO_MANY_SIBLINGS = 6
    OVERLOADED = 7
    EXPIRED = 8
    READ_ONLY = 9
    NOT_READY = 10
    OTHER_EPOCH = 11
    BAD_REQUEST = 12
    HINTS_FULL = 13
    FORBIDDEN = 14
    TOO_LONG = 15


# Refusals that depend on the request alone, so that whoever had it before refused it too. Every
# other refusal speaks for one receiver: it cannot undo what an earlier one may have applied.
ALWAYS_REFUSED = frozenset({Code.INVALID_CONTEXT, Code.KEY_SIZE, Code.VALUE_SIZE, Code.BAD_REQUEST})


@value
class Mint:
    """Make one new dot per key. A value of None is a delete; `contexts` are clocks or None.

    `hint_for` names the owner that the receiver stands in for, b"" if it is an owner.
    """

    KIND: ClassVar[int] = 10
    keys: Sequence[bytes]
    partitions: Sequence[int]
    values: Sequence[bytes | None]
    contexts: Sequence[bytes | None]
    put_ids: Sequence[bytes]
    ttls_ms: Sequence[int]
    hint_for: bytes = b""


@value
class Merge:
    """Merge these whole states. `durable`: answer only once they are fsynced (rule 8)."""

    KIND: ClassVar[int] = 11
    keys: Sequence[bytes]
    partitions: Sequence[int]
    states: Sequence[bytes]
    hint_for: bytes = b""
    durable: bool = False


@value
class Fetch:
    """Send the whole states of these keys."""

    KIND: ClassVar[int] = 12
    keys: Sequence[bytes]
    partitions: Sequence[int]


@value
class Minted:
    """Per key the whole state after the mint and the context for the next put.

    Where `codes` is not OK the key was refused and its state and context are None. An empty `codes`
    means that all are OK, an empty `contexts` that each is the clock of its state.
    """

    KIND: ClassVar[int] = 20
    states: Sequence[bytes | None]
    contexts: Sequence[bytes | None]
    codes: Sequence[int] = ()

    @property
    def clocks(self) -> Sequence[bytes | None]:
        """The context of each key, written out."""
        return self.contexts or [clock_of(state or b"") for state in self.states]


@value
class Merged:
    """All states were merged and persisted."""

    KIND: ClassVar[int] = 21


@value
class Fetched:
    """The states held, None for none. `complete` is False where nothing may be concluded from None.

    (A stand-in, or an owner that cannot prove that it holds all it acknowledged: rule 9.)
    """

    KIND: ClassVar[int] = 22
    states: Sequence[bytes | None]
    complete: bool = True


@value
class Refused:
    """The receiver did nothing, for the reason `code`; `text` is one sentence for people."""

    KIND: ClassVar[int] = 23
    code: int
    text: str = ""


@value
class ClientPut:
    """A client's puts and deletes. Contexts are tokens, None (replace), or b"" (CONCURRENT)."""

    KIND: ClassVar[int] = 40
    keys: Sequence[bytes]
    values: Sequence[bytes | None]
    contexts: Sequence[bytes | None]
    put_ids: Sequence[bytes]
    ttls_ms: Sequence[int]
    w: int
    strict: bool


@value
class ClientGet:
    """A client's gets."""

    KIND: ClassVar[int] = 41
    keys: Sequence[bytes]
    r: int
    strict: bool


class Failure(NamedTuple):
    """Why the key at `index` failed: the code and the numbers that explain it."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here
    code: int
    required: int
    received: int
    text: str = ""


@value
class PutDone:
    """Per key the context for its next put (None where it failed), and the failures."""

    KIND: ClassVar[int] = 50
    contexts: Sequence[bytes | None]
    failures: Sequence[Failure] = ()


@value
class GetDone:
    """Per key its state (None: not found, or failed) and the seal of its context.

    `degraded`: fewer than R owners answered, and stand-ins filled in (DESIGN §4).
    """

    KIND: ClassVar[int] = 51
    states: Sequence[bytes | None]
    seals: Sequence[bytes]
    degraded: bool = False
    failures: Sequence[Failure] = ()


Message = Any


@value
class Send:
    """Effect: ask `node`; its reply or its failure comes back as an event."""

    node: bytes
    message: Message


@value
class Done:
    """Effect: the caller's answer. Work may go on after it (stragglers, read repair)."""

    outcome: PutOutcome | GetOutcome


@value
class Persist:
    """Effect: append these records to the log, in order of `position`; then say `on_persisted`.

    Columns as in `storage`: a state of None is a key that the node forgets; `hints` are the owners
    for whom the copy is kept (node ids, concatenated), so copy and hint are one record (rule 10).
    """

    position: int
    partitions: Sequence[int]
    keys: Sequence[bytes]
    states: Sequence[bytes | None]
    hints: Sequence[bytes]


@value
class Reply:
    """Effect: answer `to`, but not before the log is persisted up to `after` (rules 1 and 8).

    `durable` asks for fsync up to there, whatever the durability level.
    """

    to: Any
    message: Message
    after: int = 0
    durable: bool = False


@value
class Renew:
    """Effect: an append failed and was undone; start a new incarnation (rule 1)."""


@value
class PutOutcome:
    """How a list of puts ended: contexts (clocks) per key, None where `failures` says why."""

    contexts: Sequence[bytes | None]
    failures: Sequence[Failure] = ()


@value
class GetOutcome:
    """How a list of gets ended: merged states per key, None where nothing is held or it failed."""

    states: Sequence[bytes | None]
    degraded: bool = False
    failures: Sequence[Failure] = ()


Effect = Send | Done | Persist | Reply | Renew
