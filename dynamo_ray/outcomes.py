"""From the codes of replies to typed errors, in one place."""

from __future__ import annotations

from dynamo_ray.core.messages import Code, Failure, Refused
from dynamo_ray.errors import (
    AnswerTooLongError,
    BadRequestError,
    DynamoError,
    InvalidContextError,
    KeyTooLargeError,
    OperationTimeoutError,
    OverloadedError,
    TooManySiblingsError,
    UnavailableError,
    ValueTooLargeError,
)

RETRY_AFTER_S = 0.1


def error_of_key(failure: Failure, is_write: bool, sibling_bytes: int) -> DynamoError:
    """The error of one key in a reply."""
    code, required, received = failure.code, failure.required, failure.received
    if code == Code.UNAVAILABLE:
        return UnavailableError(required, received, failure.text)
    if code == Code.UNKNOWN:
        return OperationTimeoutError(required, received, is_write, failure.text)
    if code == Code.INVALID_CONTEXT:
        return InvalidContextError()
    if code == Code.KEY_SIZE:
        return KeyTooLargeError(required, received)
    if code == Code.VALUE_SIZE:
        return ValueTooLargeError(required, received)
    if code == Code.TOO_MANY_SIBLINGS:
        return TooManySiblingsError(sibling_bytes)
    if code == Code.TOO_LONG:
        return AnswerTooLongError()
    if code == Code.BAD_REQUEST and required:
        return BadRequestError(f"{required} answers were asked for; a key has {received} copies")
    return BadRequestError(failure.text or f"the request was refused with code {code}")


def error_of_request(refused: Refused, is_write: bool, required: int) -> DynamoError:
    """The error of a request that was refused whole, or never answered."""
    if refused.code == Code.OVERLOADED:
        return OverloadedError(RETRY_AFTER_S, refused.text)
    if refused.code == Code.UNKNOWN:
        return OperationTimeoutError(required, 0, is_write, refused.text)
    if refused.code == Code.EXPIRED:
        return OperationTimeoutError(required, 0, False, refused.text)
    if refused.code == Code.TOO_LONG:
        return AnswerTooLongError()
    if refused.code in (Code.UNAVAILABLE, Code.NOT_READY):
        return UnavailableError(required, 0, refused.text)
    return BadRequestError(refused.text or f"the request was refused with code {refused.code}")
