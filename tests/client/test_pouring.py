"""Writing a stream of items: in order per key, bounded, retried where it may help."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dynamo_ray import pouring
from dynamo_ray.errors import BatchError, DynamoError, UnavailableError, ValueTooLargeError
from dynamo_ray.pouring import Item, Manner, Refusal, Tally, pour


class Recording:
    """A client that keeps what it was given, and fails as it is told to."""

    def __init__(self) -> None:
        self.values: dict[bytes, list[bytes]] = {}
        self.failures: dict[bytes, list[DynamoError]] = {}
        self.under_way = 0
        self.most_under_way = 0
        self.most_bytes = 0

    async def put_many(
        self, items: Mapping[bytes, bytes], *, contexts: Mapping[bytes, bytes], **manner: Any
    ) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.most_bytes = max(self.most_bytes, sum(map(len, items.values())))
        await asyncio.sleep(0.001)
        self.under_way -= 1
        failed = {key: self.failures[key].pop() for key in items if self.failures.get(key)}
        for key in items.keys() - failed.keys():
            before = self.values.get(key, []) if key in contexts else []
            self.values[key] = [*before, items[key]]
        if failed:
            raise BatchError(failed)


def poured(client: Recording, *items: Item | Refusal) -> Tally:
    return asyncio.run(pour(client, items, Manner(), lambda tally: None))  # type: ignore[arg-type]


def test_the_last_of_equal_keys_wins() -> None:
    client = Recording()
    items = [Item(b"k", str(i).encode()) for i in range(20)]
    assert poured(client, *items).objects == 20
    assert client.values == {b"k": [b"19"]}


def test_a_key_waits_for_itself_across_requests() -> None:
    """The first write of k fails once and comes late; the second must still be the last."""
    client = Recording()
    client.failures[b"k"] = [UnavailableError(2, 1)]
    others = [Item(str(i).encode(), b"") for i in range(pouring.BATCH_KEYS)]
    poured(client, Item(b"k", b"first"), *others, Item(b"k", b"last"))
    assert client.values[b"k"] == [b"last"]


def test_siblings_follow_the_value_that_they_stand_beside() -> None:
    client = Recording()
    poured(client, Item(b"k", b"0"), Item(b"k", b"1", True), Item(b"k", b"2", True))
    assert client.values == {b"k": [b"0", b"1", b"2"]}


def test_requests_and_bytes_under_way_are_bounded() -> None:
    client = Recording()

    def items() -> Iterator[Item]:
        for i in range(5000):
            yield Item(str(i).encode(), b"x" * 5000)

    tally = poured(client, *items())
    assert (tally.objects, tally.bytes) == (5000, 25_000_000)
    assert client.most_under_way <= pouring.AT_ONCE
    assert client.most_bytes <= pouring.BATCH_BYTES + 5000


def test_what_may_pass_is_tried_again() -> None:
    client = Recording()
    client.failures[b"k"] = [UnavailableError(2, 1), UnavailableError(2, 1)]
    tally = poured(client, Item(b"k", b"v"), Item(b"other", b"v"))
    assert (tally.objects, tally.retried, tally.refused) == (2, 2, 0)


def test_what_will_not_pass_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Recording()
    client.failures[b"k"] = [ValueTooLargeError(1, 2)] * 9
    tally = poured(client, Item(b"k", b"v"), Refusal("line 2", "no"), Item(b"other", b"v"))
    assert (tally.objects, tally.retried, tally.refused) == (1, 0, 2)
    assert {refusal.where for refusal in tally.refusals} == {"k", "line 2"}
    monkeypatch.setattr(pouring, "RETRY_FOR_S", -1.0)
    client.failures[b"k"] = [UnavailableError(2, 1)] * 9
    assert poured(client, Item(b"k", b"v")).refused == 1


def test_refusals_are_counted_all_and_kept_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pouring, "REFUSALS_KEPT", 3)
    tally = poured(Recording(), *(Refusal(str(i), "no") for i in range(10)))
    assert (tally.refused, len(tally.refusals)) == (10, 3)


def test_a_mistake_in_between_is_not_swallowed() -> None:
    class Broken(Recording):
        async def put_many(self, *args: Any, **named: Any) -> None:
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        poured(Broken(), Item(b"k", b"v"))
