"""From an error to an exit code and one sentence; never a traceback for what a user can meet."""

from __future__ import annotations

import pytest

from cli import keys
from cli.exits import CommandError, Exit, ending_of
from dynamo_ray import errors
from dynamo_ray.core.settings import SettingsError
from tests.cli.conftest import Command

CODES = [
    (errors.UnavailableError(2, 1), 4),
    (errors.OverloadedError(0.1), 4),
    (errors.OperationTimeoutError(2, 1, maybe_applied=True), 5),
    (errors.OperationTimeoutError(2, 1, maybe_applied=False), 4),
    (errors.ConflictError((b"a", b"b")), 6),
    (errors.ClusterNotFoundError("no cluster"), 7),
    (errors.AuthenticationError("wrong token"), 7),
    (errors.ClusterExistsError("it runs"), 8),
    (errors.UnsafeChangeError([1, 2], 2), 8),
    (errors.DataDirectoryError("another's"), 8),
    (errors.BackupError("no room"), 1),
    (errors.BackupNotFoundError("none"), 3),
    (errors.BackupRefusedError("damaged"), 8),
    (errors.BadRequestError("r is 4"), 2),
    (SettingsError("n is 0"), 2),
    (errors.InvalidContextError(), 1),
    (errors.KeyTooLargeError(1024, 2000), 1),
    (errors.ValueTooLargeError(1024, 2000), 1),
    (errors.TooManySiblingsError(1024), 1),
    (errors.ClosedError("closed"), 1),
    (errors.BatchError({"k": errors.UnavailableError(1, 0)}), 1),
    (PermissionError(13, "Permission denied"), 1),
    (CommandError(Exit.REFUSED, "not this one"), 8),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize("error, code", CODES, ids=lambda one: type(one).__name__)
def test_every_error_has_its_code_and_one_sentence(
    error: BaseException, code: int, dr: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(target: object) -> None:
        raise error

    monkeypatch.setattr(keys, "connected", fail)
    done = dr("get", "k")
    assert done.code == code and done.out == b""
    assert code == 130 or (done.err.startswith("error: ") and done.err.count("\n") == 1)


def test_no_error_of_the_library_is_forgotten() -> None:
    known = {type(error) for error, _ in CODES}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {kind for kind in kinds if errors.DynamoError in kind.__bases__} <= known


def test_a_mistake_of_our_own_is_1_and_says_how_to_see_it(
    dr: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(target: object) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(keys, "connected", fail)
    done = dr("get", "k")
    assert done.code == 1 and "DYNAMO_RAY_TRACEBACK=1" in done.err


def test_an_error_of_ray_is_a_sentence() -> None:
    kind = type("RayError", (Exception,), {"__module__": "ray.exceptions"})
    ending = ending_of(kind("no raylet\nand forty lines more"))
    assert ending is not None
    assert (ending.code, ending.sentence) == (7, "Ray: no raylet")
