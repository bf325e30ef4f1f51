"""What a client promises (DESIGN §8), as one suite that every kind of client has to pass.

Each clause is a coroutine that takes a `Maker`: `await make(**options)` gives a client whose
operations can be awaited. Which client that is, and how it reaches the cluster, the clause does not
know. The clusters have LIMITS, and n=3, r=w=2; a clause uses fresh keys, because some share one.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import dynamo_ray
from dynamo_ray import CONCURRENT
from dynamo_ray.core.context import CLOCK_AT, ContextKeys
from dynamo_ray.core.kinds import STATUS, WHERE
from dynamo_ray.core.version import EMPTY_CLOCK

LIMITS = {"value_bytes": 64 * 1024, "sibling_bytes": 200 * 1024}
KEY_MOST, VALUE_MOST = 1024, LIMITS["value_bytes"]

Maker = Callable[..., Awaitable[Any]]
Clause = Callable[[Maker], Awaitable[None]]
CLAUSES: list[Clause] = []


def clause(function: Clause) -> Clause:
    """Count the function as a clause of the contract."""
    CLAUSES.append(function)
    return function


def fresh(name: str = "key") -> str:
    """A key that nobody has used."""
    return f"{name}:{uuid.uuid4().hex}"


class Awaited:
    """A synchronous client whose operations can be awaited: each runs in a thread."""

    def __init__(self, client: dynamo_ray.Client) -> None:
        self.client = client

    def with_options(self, **options: Any) -> Awaited:
        return Awaited(self.client.with_options(**options))

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.client, name)

        async def awaited(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(operation, *args, **options)

        return awaited


async def siblings_of(client: Any, key: str, *values: bytes) -> bytes:
    """Give the key these concurrent values; the context that has seen all of them."""
    for value in values:
        await client.put(key, value, CONCURRENT)
    return (await client.get(key)).context


# --- one key ---------------------------------------------------------------------------------


@clause
async def a_value_that_was_put_is_found(make: Maker) -> None:
    client, key = await make(), fresh("cart")
    done = await client.put(key, b"milk")
    found = await client.get(key)
    assert (found.found, found.value, found.values) == (True, b"milk", (b"milk",))
    assert not found.degraded
    assert found.context == done.context
    assert repr(found) == "Found(value of 4 bytes)"


@clause
async def nothing_is_found_where_nothing_was_put(make: Maker) -> None:
    found = await (await make()).get(fresh())
    assert (found.found, found.value, found.values, found.siblings) == (False, None, (), ())
    assert found.context, "also nothing can be what a put replaces"
    assert repr(found) == "Found(nothing)"


@clause
async def a_put_without_context_replaces_like_any_key_value_store(make: Maker) -> None:
    client, key = await make(), fresh()
    for i in range(5):
        await client.put(key, b"%d" % i)
    assert (await client.get(key)).values == (b"4",)


@clause
async def a_put_with_a_context_replaces_exactly_what_was_read(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.put(key, b"read")
    read = await client.get(key)
    await client.put(key, b"unread", CONCURRENT)
    await client.put(key, b"instead", read.context)
    assert set((await client.get(key)).values) == {b"unread", b"instead"}


@clause
async def two_writers_who_read_the_same_leave_siblings(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.put(key, b"old")
    read = await client.get(key)
    await client.put(key, b"left", read.context)
    await client.put(key, b"right", context=read.context)
    found = await client.get(key)
    assert set(found.values) == {b"left", b"right"}
    with pytest.raises(dynamo_ray.ConflictError) as caught:
        _ = found.value
    assert set(caught.value.siblings) == {b"left", b"right"}
    assert isinstance(caught.value, ValueError) and not caught.value.retryable
    await client.put(key, b"both", found.context)
    assert (await client.get(key)).value == b"both"


@clause
async def two_writers_who_found_nothing_leave_siblings(make: Maker) -> None:
    client, key = await make(), fresh()
    nothing = (await client.get(key)).context
    await client.put(key, b"a", nothing)
    await client.put(key, b"b", nothing)
    assert set((await client.get(key)).values) == {b"a", b"b"}


@clause
async def a_concurrent_put_replaces_nothing(make: Maker) -> None:
    client, key = await make(), fresh()
    await siblings_of(client, key, b"a", b"b", b"c")
    found = await client.get(key)
    assert set(found.values) == {b"a", b"b", b"c"}
    assert repr(found) == "Found(3 values)"
    now_ms = time.time() * 1000
    assert all(abs(one.wall_ms - now_ms) < 60_000 for one in found.siblings)


@clause
async def equal_values_are_one_value(make: Maker) -> None:
    client, key = await make(), fresh()
    await siblings_of(client, key, b"same", b"same", b"other")
    found = await client.get(key)
    assert sorted(found.values) == [b"other", b"same"]
    assert len(found.siblings) == 3


@clause
async def siblings_come_in_the_same_order_for_everybody(make: Maker) -> None:
    client, key = await make(), fresh()
    await siblings_of(client, key, *(b"%d" % i for i in range(6)))
    seen = {(await client.get(key, r=r)).values for r in (1, 2, 3) for _ in range(3)}
    assert len(seen) == 1


@clause
async def the_context_of_a_put_is_for_the_next_one(make: Maker) -> None:
    client, key = await make(), fresh()
    done = await client.put(key, b"1", (await client.get(key)).context)
    for i in range(2, 5):
        done = await client.put(key, b"%d" % i, done.context)
    assert (await client.get(key)).values == (b"4",)


@clause
async def the_context_of_a_put_covers_nothing_unseen(make: Maker) -> None:
    """Rule 5: what others wrote in between is not in it."""
    client, key = await make(), fresh()
    first = await client.put(key, b"mine", (await client.get(key)).context)
    await client.put(key, b"theirs", CONCURRENT)
    second = await client.put(key, b"mine again", first.context)
    await client.put(key, b"mine at last", second.context)
    assert set((await client.get(key)).values) == {b"theirs", b"mine at last"}


@clause
async def a_concurrent_puts_context_covers_only_itself(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.put(key, b"theirs")
    mine = await client.put(key, b"mine", CONCURRENT)
    await client.put(key, b"mine again", mine.context)
    assert set((await client.get(key)).values) == {b"theirs", b"mine again"}


@clause
async def a_delete_leaves_nothing(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.put(key, b"x")
    done = await client.delete(key)
    assert not (await client.get(key)).found
    await client.put(key, b"y", done.context)
    assert (await client.get(key)).value == b"y"
    await client.delete(fresh("never written"))


@clause
async def a_delete_with_a_context_leaves_what_was_not_read(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.put(key, b"read")
    read = await client.get(key)
    await client.put(key, b"unread", CONCURRENT)
    await client.delete(key, read.context)
    assert (await client.get(key)).value == b"unread"


@clause
async def a_value_expires(make: Maker) -> None:
    client, key, kept = await make(), fresh(), fresh()
    await client.put(key, b"x", ttl_s=0.4)
    await client.put(kept, b"x", ttl_s=60)
    assert (await client.get(key)).value == b"x"
    deadline = time.monotonic() + 5
    while (await client.get(key)).found:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert (await client.get(kept)).value == b"x"
    await client.put(key, b"back", (await client.get(key)).context)
    assert (await client.get(key)).value == b"back"


@clause
async def a_lifetime_must_be_a_time(make: Maker) -> None:
    client = await make()
    for ttl_s in (0, -1, float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="ttl_s"):
            await client.put(fresh(), b"x", ttl_s=ttl_s)
    with pytest.raises(TypeError):
        await client.put(fresh(), b"x", ttl_s="1")


# --- keys and values -------------------------------------------------------------------------


@clause
async def text_and_its_bytes_are_one_key(make: Maker) -> None:
    client, key = await make(), fresh("käse")
    await client.put(key, b"x")
    assert (await client.get(key.encode())).value == b"x"


@clause
async def a_key_may_hold_any_bytes(make: Maker) -> None:
    client = await make()
    end = uuid.uuid4().bytes
    keys = [b"\0" + end, bytes(range(256)) + end, b"\n" + end, (b"k" * KEY_MOST)[:-16] + end]
    await client.put_many({key: key for key in keys})
    assert {k: f.value for k, f in (await client.get_many(keys)).items()} == {k: k for k in keys}


@clause
async def keys_have_bounds(make: Maker) -> None:
    client = await make()
    for key, size in ((b"", 0), ("", 0), (b"k" * (KEY_MOST + 1), KEY_MOST + 1), ("ü" * 600, 1200)):
        for operation in (client.get(key), client.put(key, b"x"), client.delete(key)):
            with pytest.raises(dynamo_ray.KeyTooLargeError) as caught:
                await operation
            assert (caught.value.limit, caught.value.size) == (KEY_MOST, size)
            assert isinstance(caught.value, ValueError) and not caught.value.retryable


@clause
async def a_key_is_text_or_bytes(make: Maker) -> None:
    client = await make()
    for key in (1, None, 1.5, ("a",), bytearray(b"a")):
        with pytest.raises(TypeError, match="a key is str or bytes"):
            await client.get(key)
        with pytest.raises(TypeError, match="a key is str or bytes"):
            await client.put(key, b"x")
    with pytest.raises(ValueError):
        await client.get("\ud800")  # half a character has no bytes


@clause
async def one_wrong_key_or_value_fails_alone(make: Maker) -> None:
    client = await make()
    good, value = fresh(), fresh()
    items = {good: b"x", 5: b"y", "\ud800": b"z", value: "text", fresh(): None}
    with pytest.raises(dynamo_ray.BatchError) as caught:
        await client.put_many(items)
    assert list(caught.value.results) == [good]
    kinds = {key: type(error).__name__ for key, error in caught.value.failures.items()}
    assert kinds.pop("\ud800") == "BadRequestError"
    assert set(kinds.values()) == {"WrongTypeError"} and len(kinds) == 3
    assert all(isinstance(caught.value.failures[key], TypeError) for key in (5, value))
    for many in (client.get_many, client.delete_many):
        with pytest.raises(dynamo_ray.BatchError) as caught:
            await many([good, 5, None])
        assert list(caught.value.results) == [good]
        assert set(caught.value.failures) == {5, None}
        with pytest.raises(TypeError, match="a key is str or bytes"):
            await many([bytearray(b"a")])
    assert not (await client.get(good)).found


@clause
async def values_are_bytes(make: Maker) -> None:
    client, key = await make(), fresh()
    for value in (b"", b"\0" * 10, bytearray(b"abc"), memoryview(b"abc"), bytes(range(256))):
        await client.put(key, value)
        assert (await client.get(key)).value == bytes(value)
    for wrong in ("text", 1, None, {"a": 1}, [1]):
        with pytest.raises(TypeError, match="a value is bytes"):
            await client.put(key, wrong)
    assert (await client.get(key)).value == bytes(range(256))


@clause
async def values_have_a_bound(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.put(key, b"v" * VALUE_MOST)
    assert (await client.get(key)).value == b"v" * VALUE_MOST
    for size in (VALUE_MOST + 1, 1 << 20):
        with pytest.raises(dynamo_ray.ValueTooLargeError) as caught:
            await client.put(key, b"w" * size)
        assert (caught.value.limit, caught.value.size) == (VALUE_MOST, size)
        assert isinstance(caught.value, ValueError) and not caught.value.retryable
    assert (await client.get(key)).value == b"v" * VALUE_MOST


@clause
async def siblings_have_a_bound_that_a_context_gets_out_of(make: Maker) -> None:
    client, key = await make(), fresh()
    with pytest.raises(dynamo_ray.TooManySiblingsError) as caught:
        for i in range(10):
            await client.put(key, b"%d" % i * VALUE_MOST, CONCURRENT)
    assert caught.value.limit == LIMITS["sibling_bytes"]
    assert isinstance(caught.value, ValueError)
    found = await client.get(key)
    assert len(found.values) == 3
    await client.put(key, b"one", found.context)
    assert (await client.get(key)).value == b"one"


# --- contexts --------------------------------------------------------------------------------


@clause
async def contexts_cannot_be_made_up(make: Maker) -> None:
    client, key = await make(), fresh()
    await siblings_of(client, key, b"a", b"b")
    real = (await client.get(key)).context
    altered = [
        real[:at] + bytes([real[at] ^ bit]) + real[at + 1 :]
        for at in range(0, len(real), 7)
        for bit in (1, 128)
    ]
    foreign = ContextKeys(bytes(16), [bytes(32)]).seal(key.encode(), real[CLOCK_AT:])
    wrong = [*altered, foreign, real[:-1], real + b"\0", real[:CLOCK_AT], b"\0", b"x" * 200]
    wrong.append(ContextKeys(bytes(16), [bytes(32)]).seal(key.encode(), EMPTY_CLOCK))
    for context in wrong:
        with pytest.raises(dynamo_ray.InvalidContextError) as caught:
            await client.put(key, b"x", context)
        assert isinstance(caught.value, ValueError) and not caught.value.retryable
        with pytest.raises(dynamo_ray.InvalidContextError):
            await client.delete(key, context)
    assert set((await client.get(key)).values) == {b"a", b"b"}


@clause
async def a_context_belongs_to_its_key(make: Maker) -> None:
    client, key, other = await make(), fresh(), fresh()
    done = await client.put(key, b"x")
    nothing = (await client.get(key + "0")).context
    for context in (done.context, (await client.get(key)).context, nothing):
        with pytest.raises(dynamo_ray.InvalidContextError):
            await client.put(other, b"y", context)
    assert not (await client.get(other)).found


@clause
async def a_context_is_bytes(make: Maker) -> None:
    client = await make()
    for context in ("text", 1, {}, dynamo_ray.Written(b"x")):
        with pytest.raises(TypeError, match="a context is bytes"):
            await client.put(fresh(), b"x", context)


# --- many keys -------------------------------------------------------------------------------


@clause
async def many_keys_go_and_come_together(make: Maker) -> None:
    client, name = await make(), fresh()
    items = {f"{name}:{i}": b"%d" % i for i in range(2500)}
    done = await client.put_many(items, timeout_s=9)
    assert list(done) == list(items)
    found = await client.get_many(items, timeout_s=9)
    assert {key: one.value for key, one in found.items()} == items
    assert all(found[key].context == done[key].context for key in items)
    gone = list(items)[::2]
    assert list(await client.delete_many(gone, timeout_s=9)) == gone
    left = {key for key, one in (await client.get_many(items, timeout_s=9)).items() if one.found}
    assert left == items.keys() - set(gone)


@clause
async def no_keys_are_no_work(make: Maker) -> None:
    client = await make()
    assert await client.put_many({}) == {}
    assert await client.get_many([]) == {}
    assert await client.delete_many([]) == {}


@clause
async def a_key_that_is_asked_for_twice_comes_once(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.put(key, b"x")
    assert list(await client.get_many([key, key])) == [key]
    assert list(await client.delete_many(iter([key, key]))) == [key]


@clause
async def a_text_is_not_many_keys(make: Maker) -> None:
    client = await make()
    for keys in ("abc", b"abc"):
        with pytest.raises(TypeError, match="keys"):
            await client.get_many(keys)
        with pytest.raises(TypeError, match="keys"):
            await client.delete_many(keys)


@clause
async def many_puts_each_have_their_context(make: Maker) -> None:
    client, read, blind, beside = await make(), fresh("r"), fresh("b"), fresh("c")
    keys = [read, blind, beside]
    await client.put_many({key: b"old" for key in keys})
    seen = (await client.get(read)).context
    await client.put(read, b"unread", CONCURRENT)
    contexts = {read: seen, beside: CONCURRENT}
    await client.put_many({key: b"new" for key in keys}, contexts=contexts)
    values = {key: set(one.values) for key, one in (await client.get_many(keys)).items()}
    assert values == {read: {b"unread", b"new"}, blind: {b"new"}, beside: {b"old", b"new"}}


@clause
async def a_context_of_no_key_is_a_mistake(make: Maker) -> None:
    """It would make the put that it was meant for a blind one, and delete what nobody read."""
    client, key = await make(), fresh()
    done = await client.put(key, b"x")
    for contexts in ({key + "?": done.context}, {key.encode(): done.context}):
        with pytest.raises(ValueError, match="contexts"):
            await client.put_many({key: b"y"}, contexts=contexts)
        with pytest.raises(ValueError, match="contexts"):
            await client.delete_many([key], contexts=contexts)
    assert (await client.get(key)).value == b"x"


@clause
async def one_bad_key_fails_alone(make: Maker) -> None:
    client, good, large, forged = await make(), fresh("good"), fresh("large"), fresh("forged")
    items = {good: b"x", "": b"x", large: b"w" * (VALUE_MOST + 1), forged: b"x"}
    with pytest.raises(dynamo_ray.BatchError) as caught:
        await client.put_many(items, contexts={forged: b"forged"})
    failures, results = caught.value.failures, caught.value.results
    kinds = {key: type(error) for key, error in failures.items()}
    assert kinds == {
        "": dynamo_ray.KeyTooLargeError,
        large: dynamo_ray.ValueTooLargeError,
        forged: dynamo_ray.InvalidContextError,
    }
    assert failures[large].size == VALUE_MOST + 1
    assert list(results) == [good]
    assert not caught.value.retryable and "3 of 4 keys failed" in str(caught.value)
    await client.put(good, b"y", results[good].context)
    with pytest.raises(dynamo_ray.BatchError) as caught:
        await client.get_many([good, "", large])
    assert [one.value for one in caught.value.results.values()] == [b"y", None]
    assert list(caught.value.failures) == [""]
    with pytest.raises(dynamo_ray.BatchError) as caught:
        await client.delete_many([good, ""])
    assert list(caught.value.results) == [good]
    assert not (await client.get(good)).found


@clause
async def what_leaves_together_fails_apart(make: Maker) -> None:
    """Single operations share requests; their errors are their own."""
    client, good = await make(), fresh()
    ends = await asyncio.gather(
        client.put(good, b"x"),
        client.put("", b"x"),
        client.put(fresh(), b"x", b"forged"),
        client.get(""),
        client.get(good + "?"),
        return_exceptions=True,
    )
    assert [type(end).__name__ for end in ends] == [
        "Written",
        "KeyTooLargeError",
        "InvalidContextError",
        "KeyTooLargeError",
        "Found",
    ]


# --- options ---------------------------------------------------------------------------------


@clause
async def quorums_can_be_chosen(make: Maker) -> None:
    client, key = await make(), fresh()
    for r, w, strict in ((1, 1, False), (2, 2, True), (3, 3, False), (3, 3, True)):
        await client.put(key, b"%d" % w, w=w, strict=strict)
        assert (await client.get(key, r=4 - w, strict=True)).value == b"%d" % w
        other = client.with_options(r=r, w=w, strict=strict, timeout_s=5)
        await other.put(key, b"again")
        assert (await other.get(key)).found
    assert (await make(r=3, w=3, strict=True, timeout_s=5)) is not None


@clause
async def more_answers_than_copies_are_refused(make: Maker) -> None:
    client, key = await make(), fresh()
    for operation in (client.get(key, r=4), client.put(key, b"x", w=4), client.delete(key, w=99)):
        with pytest.raises(dynamo_ray.BadRequestError, match="a key has 3 copies"):
            await operation
    with pytest.raises(dynamo_ray.BatchError) as caught:
        await client.with_options(w=5).put_many({key: b"x"})
    assert isinstance(caught.value.failures[key], ValueError)
    assert not (await client.get(key)).found


@clause
async def options_that_cannot_be_are_refused_at_once(make: Maker) -> None:
    client, key = await make(), fresh()
    for wrong in (0, -1, 2**70):
        with pytest.raises(ValueError):
            await client.get(key, r=wrong)
        with pytest.raises(ValueError):
            await client.put(key, b"x", w=wrong)
        with pytest.raises(ValueError):
            client.with_options(r=wrong)
    for wrong in ("2", 1.5, [1]):
        with pytest.raises(TypeError):
            await client.get(key, r=wrong)
        with pytest.raises(TypeError):
            client.with_options(w=wrong)
    for timeout_s in (0, -1, 1e9, float("nan")):
        with pytest.raises(ValueError, match="timeout_s"):
            await client.get(key, timeout_s=timeout_s)
        with pytest.raises(ValueError, match="timeout_s"):
            client.with_options(timeout_s=timeout_s)
    with pytest.raises(TypeError):
        await client.get(key, timeout_s="1")


@clause
async def options_that_are_not_known_are_refused_at_once(make: Maker) -> None:
    client, key = await make(), fresh()
    wrong: list[Callable[[], Any]] = [
        lambda: client.get(key, w=1),
        lambda: client.get(key, timeout=1),
        lambda: client.put(key, b"x", r=1),
        lambda: client.put(key, b"x", ttl=1),
        lambda: client.delete(key, ttl_s=1),
        lambda: client.get_many([key], contexts={}),
        lambda: client.put_many({key: b"x"}, context=b""),
        lambda: client.delete_many([key], ttl_s=1),
        lambda: client.update(key, bytes, w=1),
    ]
    for call in wrong:
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            await call()
    with pytest.raises(TypeError):
        client.with_options(timeout=1)
    assert not (await client.get(key)).found


@clause
async def time_runs_out(make: Maker) -> None:
    """Too little time for anything: an error of the right kind, or done; never a hang."""
    client, key = await make(), fresh()
    for _ in range(5):
        (end,) = await asyncio.gather(
            client.put(key, b"x", timeout_s=0.000_1), return_exceptions=True
        )
        if isinstance(end, TimeoutError):
            assert isinstance(end, dynamo_ray.OperationTimeoutError)
            assert end.retryable and end.required == 2
            assert end.maybe_applied or "not begin" in str(end) or "be asked" in str(end)
        else:
            assert isinstance(end, dynamo_ray.UnavailableError | dynamo_ray.Written)


# --- update and resolvers --------------------------------------------------------------------


@clause
async def update_reads_changes_and_writes_back(make: Maker) -> None:
    client, key = await make(), fresh()
    await client.update(key, lambda value: b"first" if value is None else b"no")
    done = await client.update(key, lambda value: (value or b"") + b" second")
    assert (await client.get(key)).value == b"first second"
    await client.put(key, b"third", done.context)
    await client.update(key, lambda value: None)
    assert not (await client.get(key)).found


@clause
async def update_refuses_siblings_without_a_resolver(make: Maker) -> None:
    client, key = await make(), fresh()
    await siblings_of(client, key, b"[1]", b"[2]")
    with pytest.raises(dynamo_ray.ConflictError):
        await client.update(key, lambda value: b"never")
    await client.update(
        key,
        lambda value: json.dumps([*json.loads(value or b""), 3]).encode(),
        resolver=dynamo_ray.union_of_sets,
    )
    assert (await client.get(key)).values == (b"[1, 2, 3]",)


@clause
async def what_change_raises_is_raised(make: Maker) -> None:
    client, key = await make(), fresh()

    def change(value: bytes | None) -> bytes:
        raise ZeroDivisionError("of the caller")

    with pytest.raises(ZeroDivisionError, match="of the caller"):
        await client.update(key, change)
    with pytest.raises(TypeError, match="a value is bytes"):
        await client.update(key, lambda value: "text")
    assert not (await client.get(key)).found


@clause
async def concurrent_updates_lose_nothing(make: Maker) -> None:
    """Each replaces what it has read, so adds of others stay as siblings and are united."""
    client, key = (await make()).with_options(resolver=dynamo_ray.union_of_sets), fresh()

    def add(item: int) -> Callable[[bytes | None], bytes]:
        return lambda value: json.dumps(sorted({*json.loads(value or b"[]"), item})).encode()

    await asyncio.gather(*(client.update(key, add(i)) for i in range(12)))
    assert sorted(json.loads((await client.get(key)).value)) == list(range(12))


@clause
async def a_resolver_makes_the_value_total(make: Maker) -> None:
    client, key = await make(), fresh()
    await siblings_of(client, key, b"older", b"newer")
    last = client.with_options(resolver=dynamo_ray.last_write_wins)
    assert (await last.get(key)).value in (b"older", b"newer")
    assert (await last.get(key)).value == (await last.get_many([key]))[key].value
    assert len((await last.get(key)).values) == 2
    with pytest.raises(dynamo_ray.ConflictError):
        _ = (await client.get(key)).value
    given = await make(resolver=lambda siblings: b"%d" % len(siblings))
    assert (await given.get(key)).value == b"2"
    assert (await given.get(fresh())).value is None


# --- the client itself -----------------------------------------------------------------------


@clause
async def members_tell_small_things(make: Maker) -> None:
    client, key = await make(), fresh()
    (status,) = await client.ask(STATUS, ())
    assert status["role"] in ("coordinator", "") and status["suspected"] == {}
    (place,) = await client.ask(WHERE, (key.encode(),))
    assert len(place["owners"]) == 3 and not set(place["owners"]) & set(place["stand_ins"])
    with pytest.raises(dynamo_ray.DynamoError):
        await client.ask(WHERE, ())


@clause
async def a_closed_client_says_so(make: Maker) -> None:
    client, key = await make(), fresh()
    copy = client.with_options(r=1)
    await client.put(key, b"x")
    await client.close()
    await client.close()
    for operation in (client.get(key), copy.put(key, b"y"), copy.get_many([key])):
        with pytest.raises(dynamo_ray.ClosedError, match="closed") as caught:
            await operation
        assert isinstance(caught.value, ConnectionError)


@clause
async def closing_waits_for_what_is_under_way(make: Maker) -> None:
    client, name = await make(), fresh()
    puts = [asyncio.ensure_future(client.put(f"{name}:{i}", b"x")) for i in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await client.close()
    ends = await asyncio.wait_for(asyncio.gather(*puts, return_exceptions=True), 10)
    other = await make()
    for i, end in enumerate(ends):
        if isinstance(end, dynamo_ray.Written):
            assert (await other.get(f"{name}:{i}")).value == b"x"
        else:
            assert isinstance(end, dynamo_ray.ClosedError), end
