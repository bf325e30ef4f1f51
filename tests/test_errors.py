"""Errors are typed, carry their numbers, and are what Python expects (DESIGN §8)."""

from __future__ import annotations

import pickle

import pytest

import dynamo_ray
from dynamo_ray import errors
from dynamo_ray.core.messages import ALWAYS_REFUSED, Code, Failure, Refused
from dynamo_ray.errors import DynamoError
from dynamo_ray.outcomes import error_of_key, error_of_request

# One of each, the builtin that it also is, whether to try again, and its numbers.
ALL: list[tuple[DynamoError, type[Exception], bool, dict[str, object]]] = [
    (errors.UnavailableError(2, 1), ConnectionError, True, {"required": 2, "alive": 1}),
    (
        errors.OperationTimeoutError(2, 1, True),
        TimeoutError,
        True,
        {"required": 2, "received": 1, "maybe_applied": True},
    ),
    (errors.ConflictError([b"a", b"b"]), ValueError, False, {"siblings": (b"a", b"b")}),
    (errors.InvalidContextError(), ValueError, False, {}),
    (errors.KeyTooLargeError(1024, 2000), ValueError, False, {"limit": 1024, "size": 2000}),
    (errors.ValueTooLargeError(10, 11), ValueError, False, {"limit": 10, "size": 11}),
    (errors.TooManySiblingsError(100), ValueError, False, {"limit": 100}),
    (errors.OverloadedError(0.5), DynamoError, True, {"retry_after_s": 0.5}),
    (errors.BadRequestError("no"), ValueError, False, {}),
    (errors.WrongTypeError("no"), TypeError, False, {}),
    (errors.AnswerTooLongError(), ValueError, False, {}),
    (errors.ClusterNotFoundError("none"), ConnectionError, False, {}),
    (errors.ClusterExistsError("one"), ValueError, False, {}),
    (errors.AuthenticationError("no"), ConnectionError, False, {}),
    (errors.UnsafeChangeError([7], 2), DynamoError, False, {"partitions": (7,), "least": 2}),
    (errors.DataDirectoryError("no"), ValueError, False, {}),
    (errors.BackupError("no"), DynamoError, False, {}),
    (errors.BackupNotFoundError("no"), errors.BackupError, False, {}),
    (errors.BackupRefusedError("no", {"f": "w"}), ValueError, False, {"damaged": {"f": "w"}}),
    (errors.ClosedError("no"), ConnectionError, False, {}),
    (
        errors.BatchError({"k": errors.UnavailableError(2, 0)}, {"j": 1}),
        DynamoError,
        True,
        {"results": {"j": 1}},
    ),
]


@pytest.mark.parametrize(("error", "builtin", "retryable", "numbers"), ALL)
def test_each_error(
    error: DynamoError, builtin: type[Exception], retryable: bool, numbers: dict[str, object]
) -> None:
    assert isinstance(error, DynamoError) and isinstance(error, builtin)
    assert error.retryable is retryable
    assert {name: getattr(error, name) for name in numbers} == numbers
    assert str(error) and len(str(error)) < 200


@pytest.mark.parametrize("error", [one for one, *_ in ALL], ids=lambda error: type(error).__name__)
def test_each_error_crosses_processes_whole(error: DynamoError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error)
    plain = {name: value for name, value in vars(error).items() if name != "failures"}
    assert {name: value for name, value in vars(back).items() if name != "failures"} == plain


def test_every_error_is_tried_here() -> None:
    classes = {
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, DynamoError) and one is not DynamoError
    }
    assert classes == {type(error) for error, *_ in ALL}


def test_a_batch_may_be_tried_again_only_if_all_of_it_may() -> None:
    may, may_not = errors.UnavailableError(2, 0), errors.InvalidContextError()
    assert errors.BatchError({"a": may}).retryable
    assert not errors.BatchError({"a": may, "b": may_not}).retryable
    assert "1 of 2 keys failed" in str(errors.BatchError({"a": may}, {"b": 1}))


def test_a_timeout_says_whether_to_worry() -> None:
    assert "may have been applied" in str(errors.OperationTimeoutError(2, 1, True))
    assert "nothing was changed" in str(errors.OperationTimeoutError(2, 1, False))


@pytest.mark.parametrize("is_write", [True, False])
@pytest.mark.parametrize("code", [code for code in Code if code != Code.OK])
def test_every_code_has_an_error(code: Code, is_write: bool) -> None:
    """And none says "nothing was applied" of what may have been (rule 7)."""
    for error in (
        error_of_key(Failure(0, code, 2, 1), is_write, 100),
        error_of_request(Refused(code, "text"), is_write, 2),
    ):
        assert isinstance(error, DynamoError) and str(error)
        if code == Code.UNKNOWN:
            assert isinstance(error, errors.OperationTimeoutError)
            assert error.maybe_applied is is_write
        if code in ALWAYS_REFUSED:
            assert not error.retryable


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, dynamo_ray.UnavailableError),
        (Code.INVALID_CONTEXT, dynamo_ray.InvalidContextError),
        (Code.KEY_SIZE, dynamo_ray.KeyTooLargeError),
        (Code.VALUE_SIZE, dynamo_ray.ValueTooLargeError),
        (Code.TOO_MANY_SIBLINGS, dynamo_ray.TooManySiblingsError),
        (Code.BAD_REQUEST, dynamo_ray.BadRequestError),
    ],
)
def test_the_error_of_one_key(code: Code, kind: type[DynamoError]) -> None:
    error = error_of_key(Failure(0, code, 3, 2, "text"), True, 100)
    assert type(error) is kind
    numbers = {"required": 3, "alive": 2, "limit": 3, "size": 2}
    for name, value in numbers.items():
        if hasattr(error, name) and kind is not dynamo_ray.TooManySiblingsError:
            assert getattr(error, name) == value


def test_a_request_that_was_refused_whole() -> None:
    overloaded = error_of_request(Refused(Code.OVERLOADED, "too much"), True, 2)
    assert isinstance(overloaded, dynamo_ray.OverloadedError)
    assert "too much" in str(overloaded) and overloaded.retry_after_s > 0
    not_ready = error_of_request(Refused(Code.NOT_READY, "starting"), True, 2)
    assert isinstance(not_ready, dynamo_ray.UnavailableError) and not_ready.required == 2
