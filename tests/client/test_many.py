"""What AsyncClient makes of answers, with a session that answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dynamo_ray.client import UPDATE_TRIES, AsyncClient
from dynamo_ray.core.messages import ClientGet, Code, Failure, GetDone, PutDone, Refused
from dynamo_ray.errors import OperationTimeoutError, OverloadedError
from dynamo_ray.found import Found
from dynamo_ray.rows import BYTES_A_REQUEST, KEYS_A_REQUEST

UNKNOWN, BUSY = Refused(Code.UNKNOWN, "?"), Refused(Code.OVERLOADED, "busy")


class Told:
    """A session whose answers are made by a function of the request."""

    def __init__(self, answer: Callable[[Any], Any], **limits: int) -> None:
        self.charter = {"settings": {"limits": limits}}
        self.asked: list[Any] = []
        self._answer = answer

    def ask(self, message: Any, timeout_s: float, on_answer: Callable[[Any], None]) -> None:
        self.asked.append(message)
        on_answer(self._answer(message))

    @property
    def sizes(self) -> list[int]:
        sizes = [len(message.keys) for message in self.asked]
        self.asked.clear()
        return sizes


def story(told: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(told(), 10))


def states_of(size: int) -> Callable[[Any], Any]:
    """Every key has a state of so many bytes; no answer is longer than two megabytes."""

    def answer(message: ClientGet) -> Any:
        count = len(message.keys)
        if count > 1 and count * size > 2 * BYTES_A_REQUEST:
            failures = [Failure(i, Code.TOO_LONG, 2, 0) for i in range(count)]
            return GetDone([None] * count, [b""] * count, False, failures)
        return GetDone([bytes(size)] * count, [b"seal"] * count)

    return answer


def test_gets_are_as_large_as_the_values_allow() -> None:
    async def told() -> None:
        session = Told(states_of(40_000))
        client = AsyncClient(session)  # type: ignore[arg-type]
        keys = [b"%d" % i for i in range(400)]
        assert len(await client.get_many(keys)) == 400
        assert session.sizes[0] == 400
        await client.get_many(keys)
        sizes = session.sizes
        assert max(sizes) * 40_000 <= BYTES_A_REQUEST and len(sizes) < 20, sizes
        # Nor does it stay so when values are small again, even after some that fill a request.
        session._answer = states_of(600_000)
        for _ in range(8):
            await client.get_many(keys[:8])
        session._answer = states_of(100)
        for _ in range(20):
            await client.get_many(keys[:8])
        session.asked.clear()
        await client.get_many([b"%d" % i for i in range(1000)])
        assert session.sizes == [KEYS_A_REQUEST] * 2

    story(told)


def test_answers_that_failed_say_nothing_of_sizes() -> None:
    async def told() -> None:
        session = Told(states_of(100_000))
        client = AsyncClient(session)  # type: ignore[arg-type]
        await client.get_many([b"a", b"b"])
        before = client._bytes_a_key[0]
        rows = [(b"a",), (b"b",)]
        failed = [Failure(i, Code.UNAVAILABLE, 2, 1) for i in range(2)]
        client._settle_gets(GetDone([None, None], [b"", b""], False, failed), rows)
        assert client._bytes_a_key[0] == before

    story(told)


def test_a_cluster_that_takes_less_gets_less() -> None:
    async def told() -> None:
        session = Told(lambda m: PutDone([b"c"] * len(m.keys)), batch_bytes=10_000)
        client = AsyncClient(session)  # type: ignore[arg-type]
        await client.put_many({b"%d" % i: bytes(999) for i in range(30)})
        assert max(session.sizes) <= 10

    story(told)


@pytest.mark.parametrize("after", [BUSY, Refused(Code.UNAVAILABLE, "nobody")])
def test_an_update_that_was_unknown_once_is_never_told_as_not_applied(after: Refused) -> None:
    async def told() -> None:
        for answers, error in (
            ([UNKNOWN, *[after] * UPDATE_TRIES], OperationTimeoutError),
            ([after], type_of(after)),
            ([UNKNOWN, after, PutDone([b"c"])], None),
        ):
            left = list(answers)
            client = AsyncClient(Told(lambda _, left=left: left.pop(0)))  # type: ignore[arg-type]
            writing = client.write_back(b"k", b"v", Found(None, b"seal", False))
            if error is None:
                assert (await writing).context == b"c"
                continue
            with pytest.raises(error) as raised:
                await writing
            assert getattr(raised.value, "maybe_applied", False) is (len(answers) > 1)

    story(told)


def type_of(refused: Refused) -> type[Exception]:
    return OverloadedError if refused is BUSY else ConnectionError
