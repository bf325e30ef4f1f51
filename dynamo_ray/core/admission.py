"""Which requests a coordinator does not begin: it refuses them whole and quickly (rule 19)."""

from __future__ import annotations

from typing import Any

from dynamo_ray.core.messages import ClientGet, ClientPut, Code, Refused
from dynamo_ray.core.settings import Limits

EXPIRED = Refused(
    Code.EXPIRED, "the request came too late to a coordinator, which did not begin it"
)


def refusal(message: Any, is_late: bool, waiting: int, limits: Limits) -> Refused | None:
    """Why a client's request is not begun; None if it is.

    What is late waited here while this process was stopped: its caller has gone elsewhere with it.
    `waiting` is how many groups of keys callers wait for already.
    """
    if is_late:
        return EXPIRED
    if not isinstance(message, ClientPut | ClientGet):
        return Refused(Code.BAD_REQUEST, "not a request of a client")
    text = _too_much(message, limits)
    if text:
        return Refused(Code.BAD_REQUEST, text)
    if waiting >= limits.in_flight:
        text = f"the coordinator has {waiting} requests in flight; try again"
        return Refused(Code.OVERLOADED, text)
    return None


def _too_much(message: ClientPut | ClientGet, limits: Limits) -> str:
    """Why a request is over the bounds of one request; "" if it is not."""
    if len(message.keys) > limits.batch_keys:
        return f"{len(message.keys)} keys in one request; the most is {limits.batch_keys}"
    if isinstance(message, ClientPut) and len(message.keys) > 1:
        size = sum(map(len, filter(None, message.values)))
        if size > limits.batch_bytes:
            return f"{size:,} bytes in one request; the most is {limits.batch_bytes:,}"
    return ""
