"""Exit codes, and from an error to its code and one sentence: the only place that knows both."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Exit(IntEnum):
    """What a script reads; documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    UNKNOWN = 5
    CONFLICT = 6
    CANNOT_CONNECT = 7
    REFUSED = 8
    DEGRADED = 9
    INTERRUPTED = 130


class Ending(NamedTuple):
    """How a command ends: its exit code, and what is said on stderr (nothing if empty)."""

    code: Exit
    sentence: str = ""


class CommandError(Exception):
    """A command cannot go on; it carries the exit code and the sentence for the user."""

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.ending = Ending(code, sentence)


def ending_of(error: BaseException) -> Ending | None:
    """The ending for an error that a user can cause or meet; None for a mistake of our own."""
    if isinstance(error, CommandError):
        return error.ending
    if isinstance(error, KeyboardInterrupt):
        return Ending(Exit.INTERRUPTED, "interrupted")
    if type(error).__module__.partition(".")[0] == "ray":
        return Ending(Exit.CANNOT_CONNECT, f"Ray: {_first_line(error)}")
    code = _code_of(error)
    return None if code is None else Ending(code, str(error))


def _code_of(error: BaseException) -> Exit | None:
    # Imported here: a command that ends well has no need of them.
    from dynamo_ray import errors
    from dynamo_ray.core.settings import SettingsError

    if isinstance(error, errors.OperationTimeoutError):
        # A read that timed out changed nothing: it is known how it ended.
        return Exit.UNKNOWN if error.maybe_applied else Exit.UNAVAILABLE
    codes: tuple[tuple[type[Exception], Exit], ...] = (
        (errors.UnavailableError, Exit.UNAVAILABLE),
        (errors.OverloadedError, Exit.UNAVAILABLE),
        (errors.ConflictError, Exit.CONFLICT),
        (errors.ClusterNotFoundError, Exit.CANNOT_CONNECT),
        (errors.AuthenticationError, Exit.CANNOT_CONNECT),
        (errors.ClusterExistsError, Exit.REFUSED),
        (errors.UnsafeChangeError, Exit.REFUSED),
        (errors.DataDirectoryError, Exit.REFUSED),
        (errors.BackupNotFoundError, Exit.NOT_FOUND),
        (errors.BackupRefusedError, Exit.REFUSED),
        (errors.BadRequestError, Exit.USAGE),
        (SettingsError, Exit.USAGE),
        (errors.DynamoError, Exit.FAILED),
        (OSError, Exit.FAILED),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
