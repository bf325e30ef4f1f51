"""The errors of dynamo_ray, typed, with the numbers that explain them (DESIGN §8).

All are DynamoErrors, and each is also what Python expects: a time-out is a TimeoutError, something
that cannot be reached a ConnectionError, a bad argument a ValueError or TypeError. `retryable` says
whether the same call may succeed later unchanged. A put or delete that fails with
`maybe_applied=True` may be repeated with the same put id without harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class DynamoError(Exception):
    """The root of all errors that dynamo_ray raises."""

    retryable = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries whole, whatever their constructors take.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[DynamoError], args: tuple[Any, ...], state: dict[str, Any]) -> DynamoError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class UnavailableError(DynamoError, ConnectionError):
    """Too few nodes could be reached; nothing was applied."""

    retryable = True

    def __init__(self, required: int, alive: int, text: str = "") -> None:
        reason = text or f"{required} nodes are needed and {alive} can be reached"
        super().__init__(f"{reason}; nothing was applied, try again later")
        self.required = required
        self.alive = alive


class UnsafeChangeError(DynamoError):
    """A change of nodes that would start from fewer than W living copies; nothing was changed."""

    def __init__(self, partitions: Sequence[int], least: int) -> None:
        some = ", ".join(map(str, partitions[:5])) + (", …" if len(partitions) > 5 else "")
        super().__init__(
            f"{len(partitions)} partitions ({some}) have fewer than {least} living copies;"
            " bring their nodes back first, or force it"
        )
        self.partitions = tuple(partitions)
        self.least = least


class OperationTimeoutError(DynamoError, TimeoutError):
    """Not enough answers in time. With `maybe_applied` the write may be there, now or later."""

    retryable = True

    def __init__(self, required: int, received: int, maybe_applied: bool, text: str = "") -> None:
        end = (
            "the write may have been applied; read the key, or repeat the call"
            if maybe_applied
            else "nothing was changed; repeat the call"
        )
        reason = text or f"{received} of {required} answers came in time"
        super().__init__(f"{reason}; {end}")
        self.required = required
        self.received = received
        self.maybe_applied = maybe_applied


class ConflictError(DynamoError, ValueError):
    """The key has several values at once, and one was asked for. `key` if there were many keys."""

    def __init__(self, siblings: Sequence[bytes], key: bytes | None = None) -> None:
        name = "the key" if key is None else f"the key {key[:100]!r}"
        super().__init__(
            f"{name} has {len(siblings)} concurrent values; use .values, or a resolver"
        )
        self.siblings = tuple(siblings)
        self.key = key


class InvalidContextError(DynamoError, ValueError):
    """A context that this cluster did not give for this key: malformed, altered, or foreign."""

    def __init__(self, text: str = "") -> None:
        super().__init__(
            text or "the context is not one that this cluster gave for this key; get the key again"
        )


class KeyTooLargeError(DynamoError, ValueError):
    """A key that is empty or longer than the cluster takes."""

    def __init__(self, limit: int, size: int) -> None:
        super().__init__(f"the key has {size} bytes; a key has 1 to {limit} bytes")
        self.limit = limit
        self.size = size


class ValueTooLargeError(DynamoError, ValueError):
    """A value longer than the cluster takes."""

    def __init__(self, limit: int, size: int) -> None:
        super().__init__(
            f"the value has {size:,} bytes; the most is {limit:,}: store a pointer to it instead"
        )
        self.limit = limit
        self.size = size


class TooManySiblingsError(DynamoError, ValueError):
    """The key's concurrent versions are larger together than the cluster takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the key's concurrent values would pass {limit:,} bytes; "
            "get the key and put one value back with its context"
        )
        self.limit = limit


class OverloadedError(DynamoError):
    """A bound was reached; nothing was applied."""

    retryable = True

    def __init__(self, retry_after_s: float, text: str = "") -> None:
        reason = text or "the cluster has as much in flight as it takes"
        super().__init__(f"{reason}; try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class BadRequestError(DynamoError, ValueError):
    """A request that no coordinator would take: R or W above N, too many keys, and the like."""


class WrongTypeError(BadRequestError, TypeError):
    """A key or value of a many-key call that is no text and no bytes; the others are not harmed."""


class AnswerTooLongError(BadRequestError):
    """An answer that fits no frame. Clients ask again for fewer keys at a time by themselves."""

    def __init__(self) -> None:
        super().__init__("the answer is longer than a frame may be; ask for fewer keys at a time")


class ClusterNotFoundError(DynamoError, ConnectionError):
    """No cluster of that name, or nothing of dynamo_ray at that address."""


class ClusterExistsError(DynamoError, ValueError):
    """A cluster of that name is running already."""


class AuthenticationError(DynamoError, ConnectionError):
    """The token, or the secret, is not this cluster's."""


class DataDirectoryError(DynamoError, ValueError):
    """A data directory that is another cluster's, of a newer format, in use, or damaged."""


class BackupError(DynamoError):
    """A backup could not be written or read: a full disk, a place that does not answer."""


class BackupNotFoundError(BackupError):
    """There is no backup of that name, or nothing at that place."""


class BackupRefusedError(BackupError, ValueError):
    """A backup that must not be used: unfinished, damaged, of a newer format, or none at all.

    `damaged` has what is wrong with each of its files, by name.
    """

    def __init__(self, text: str, damaged: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.damaged = dict(damaged or {})


class ClosedError(DynamoError, ConnectionError):
    """The client was closed."""


class BatchError(DynamoError):
    """Part of a many-key call failed; `failures` has each such key's own error.

    `results` holds what succeeded: contexts by key for puts and deletes, found keys for gets.
    """

    def __init__(
        self, failures: Mapping[Any, DynamoError], results: Mapping[Any, Any] | None = None
    ) -> None:
        self.failures = dict(failures)
        self.results = dict(results or {})
        self.retryable = all(error.retryable for error in self.failures.values())
        first = next(iter(self.failures.values()), None)
        super().__init__(
            f"{len(self.failures)} of {len(self.failures) + len(self.results)} keys failed; "
            f"the first: {first}"
        )
