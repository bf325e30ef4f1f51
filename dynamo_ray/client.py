"""AsyncClient: get, put, delete and update from inside an asyncio loop (DESIGN §8).

Needs no Ray. Every operation is part of a request of many keys; single ones are gathered by
batching.py. The synchronous Client in blocking.py has the same names.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from dynamo_ray.batching import Batch, Options
from dynamo_ray.core.messages import ClientGet, ClientPut, Code, Failure, GetDone, PutDone, Refused
from dynamo_ray.errors import (
    AnswerTooLongError,
    BatchError,
    ClosedError,
    DynamoError,
    OperationTimeoutError,
    OverloadedError,
    UnavailableError,
    WrongTypeError,
)
from dynamo_ray.found import Found, Written
from dynamo_ray.outcomes import error_of_key, error_of_request
from dynamo_ray.resolvers import Resolver
from dynamo_ray.rows import (
    BYTES_A_REQUEST,
    KEYS_A_REQUEST,
    Key,
    Row,
    answers,
    distinct,
    fitting,
    key_bytes,
    keys_bytes,
    put_row,
    put_rows,
    seconds,
    slices,
    usable,
    value_bytes,
)
from dynamo_ray.session import Session

T = TypeVar("T")
UPDATE_TRIES = 5
UPDATE_PAUSE_S = 0.1
# Of one many-key call. Times BYTES_A_REQUEST it stays well below what a connection queues.
PARTS_UNDER_WAY = 6


class AsyncClient:
    """A client of one cluster, for one asyncio loop. Make it with `connect_async`.

    Every operation takes `r` or `w` (answers to wait for), `strict` (owners only) and `timeout_s`;
    `with_options` sets them for a cheap copy. Errors: see dynamo_ray.errors. A single key's error
    is raised; a many-key call raises BatchError with each failed key's own error.
    """

    def __init__(self, session: Session, resolver: Resolver | None = None) -> None:
        self._session = session
        self._resolver = resolver
        self._r = 0
        self._w = 0
        self._strict = False
        self._timeout_s = 2.0
        self._puts: dict[Options, Batch] = {}
        self._gets: dict[Options, Batch] = {}
        self._closed = [False]
        self._bytes_a_key = [0.0]  # about, of the last answers; in a list because copies share it

    # ---- options

    def with_options(
        self,
        *,
        r: int | None = None,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
        resolver: Resolver | None = None,
    ) -> AsyncClient:
        """A cheap copy with other defaults; it shares the connections."""
        other = copy.copy(self)
        other._r = self._r if r is None else answers("r", r)
        other._w = self._w if w is None else answers("w", w)
        other._strict = self._strict if strict is None else bool(strict)
        other._timeout_s = self._timeout_s if timeout_s is None else seconds(timeout_s)
        other._resolver = self._resolver if resolver is None else resolver
        return other

    # ---- one key

    async def get(
        self,
        key: Key,
        *,
        r: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> Found:
        """What the key holds, from `r` owners.

        Raises UnavailableError, OperationTimeoutError, OverloadedError, KeyTooLargeError.
        """
        options = self._options(self._r if r is None else answers("r", r), strict, timeout_s)
        batch = self._gets.get(options) or self._batch(self._gets, options)
        row = (key_bytes(key),)
        try:
            state, seal, degraded = await batch.add(row)
        except AnswerTooLongError:  # together with what left in the same request
            (result,) = await self._many([row], options, self._send_gets, self._settle_gets)
            if isinstance(result, DynamoError):
                raise result from None
            state, seal, degraded = result
        return Found(state, seal, degraded, self._resolver)

    async def put(
        self,
        key: Key,
        value: Any,
        context: bytes | None = None,
        *,
        ttl_s: float | None = None,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Write the key; done when `w` nodes have it as durable as the cluster promises.

        Without a context it replaces what is there; with `Found.context` exactly what was read;
        with CONCURRENT nothing. `ttl_s`: seconds until it expires. Raises UnavailableError (nothing
        was applied), OperationTimeoutError (`maybe_applied`), InvalidContextError,
        ValueTooLargeError, KeyTooLargeError, TooManySiblingsError, OverloadedError.
        """
        row = put_row(key, value_bytes(value), context, ttl_s)
        return await self._write(row, w, strict, timeout_s)

    async def delete(
        self,
        key: Key,
        context: bytes | None = None,
        *,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Delete the key: a put of a tombstone, with the same manners and errors as `put`."""
        return await self._write(put_row(key, None, context, None), w, strict, timeout_s)

    async def update(
        self,
        key: Key,
        change: Callable[[bytes | None], Any],
        *,
        resolver: Resolver | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Read, resolve, change, write back with the context. `change` returning None deletes.

        After an unknown outcome the same put is repeated, with the same put id, never `change`.
        Raises ConflictError if there are several values and no resolver, else as `get` and `put`.
        """
        found = await self.get(key, timeout_s=timeout_s)
        return await self.write_back(key, change(found.resolved(resolver)), found, timeout_s)

    async def write_back(
        self, key: Key, changed: Any, found: Found, timeout_s: float | None = None
    ) -> Written:
        """The second half of `update`: put what was made of `found` (None deletes it)."""
        value = None if changed is None else value_bytes(changed)
        row = put_row(key, value, found.context, None)
        unknown: OperationTimeoutError | None = None
        for _ in range(UPDATE_TRIES):
            try:
                return await self._write(row, None, None, timeout_s)
            except OperationTimeoutError as error:
                unknown = error
            except (OverloadedError, UnavailableError):
                if unknown is None:
                    raise
                # This try applied nothing. One before it may have (rule 7).
                await asyncio.sleep(UPDATE_PAUSE_S)
        assert unknown is not None
        raise unknown

    # ---- many keys

    async def get_many(
        self,
        keys: Iterable[Key],
        *,
        r: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> dict[Key, Found]:
        """What the keys hold, by key. Raises BatchError where part of them failed."""
        good, wrong = usable(dict.fromkeys(distinct(keys)))
        options = self._options(self._r if r is None else answers("r", r), strict, timeout_s)
        rows: list[Row] = list(zip(keys_bytes(list(good))))
        results = await self._get_rows(rows, options)
        resolver = self._resolver
        return _outcomes(good, results, lambda one: Found(one[0], one[1], one[2], resolver), wrong)

    async def put_many(
        self,
        items: Mapping[Key, Any],
        *,
        contexts: Mapping[Key, bytes] | None = None,
        ttl_s: float | None = None,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> dict[Key, Written]:
        """Write many keys, each with its own outcome. Raises BatchError where part failed."""
        wrong: dict[Any, DynamoError] = {
            key: WrongTypeError("a value is bytes, not NoneType; delete_many deletes")
            for key, value in items.items()
            if value is None
        }
        if wrong:
            items = {key: value for key, value in items.items() if value is not None}
        return await self._write_many(items, wrong, contexts, ttl_s, w, strict, timeout_s)

    async def delete_many(
        self,
        keys: Iterable[Key],
        *,
        contexts: Mapping[Key, bytes] | None = None,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> dict[Key, Written]:
        """Delete many keys, each with its own outcome. Raises BatchError where part failed."""
        items = dict.fromkeys(distinct(keys))
        return await self._write_many(items, {}, contexts, None, w, strict, timeout_s)

    # ---- the cluster

    async def ask(self, kind: int, fields: Sequence[Any]) -> list[Any]:
        """Ask a coordinator something small that is not data (status, where)."""
        answer = await self._session.request(kind, fields, self._timeout_s)
        return [json.loads(one) if isinstance(one, str) else one for one in answer]

    @property
    def session(self) -> Session:
        """The connections behind this client."""
        return self._session

    async def close(self, wait_s: float = 1.0) -> None:
        """Wait up to `wait_s` for what is in flight, then hang up."""
        if not self._closed[0]:
            self._closed[0] = True
            await self._session.drain(wait_s)
            self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- the way out and back

    def _options(self, quorum: int, strict: bool | None, timeout_s: float | None) -> Options:
        if self._closed[0]:
            raise ClosedError("the client is closed; connect again")
        limit_s = self._timeout_s if timeout_s is None else seconds(timeout_s)
        return Options(quorum, self._strict if strict is None else bool(strict), limit_s)

    async def _get_rows(self, rows: list[Row], options: Options) -> list[Any]:
        """The results of many gets; what is too long for one answer is asked for in halves."""
        about = self._bytes_a_key[0]
        most = max(1, min(KEYS_A_REQUEST, int(self._request_bytes / about))) if about else None
        results = await self._many(rows, options, self._send_gets, self._settle_gets, most)
        long = [i for i, one in enumerate(results) if isinstance(one, AnswerTooLongError)]
        if len(long) > 1:
            half = (min(len(long), most or KEYS_A_REQUEST) + 1) // 2
            for at in range(0, len(long), half):
                part = long[at : at + half]
                again = await self._get_rows([rows[i] for i in part], options)
                for i, result in zip(part, again, strict=True):
                    results[i] = result
        return results

    async def _write(
        self, row: Row, w: int | None, strict: bool | None, timeout_s: float | None
    ) -> Written:
        options = self._options(self._w if w is None else answers("w", w), strict, timeout_s)
        batch = self._puts.get(options) or self._batch(self._puts, options)
        return Written(await batch.add(row))

    async def _write_many(
        self,
        items: Mapping[Key, Any],
        wrong: dict[Any, DynamoError],
        contexts: Mapping[Key, bytes] | None,
        ttl_s: float | None,
        w: int | None,
        strict: bool | None,
        timeout_s: float | None,
    ) -> dict[Key, Written]:
        options = self._options(self._w if w is None else answers("w", w), strict, timeout_s)
        good, unusable = usable(items)
        if unusable and contexts:
            contexts = {key: one for key, one in contexts.items() if key not in unusable}
        rows = put_rows(list(good), good.values(), contexts, ttl_s)
        results = await self._many(rows, options, self._send_puts, self._settle_puts)
        return _outcomes(good, results, Written, wrong | unusable)

    def _batch(self, batches: dict[Options, Batch], options: Options) -> Batch:
        if len(batches) > 100:
            batches.clear()
        puts = batches is self._puts
        send = self._send_puts if puts else self._send_gets
        settle = self._settle_puts if puts else self._settle_gets
        fits = partial(fitting, most=self._request_bytes)
        batch = batches[options] = Batch(send, _futures_of(settle), options, fits)
        return batch

    async def _many(
        self,
        rows: list[Row],
        options: Options,
        send: Callable[[list[Row], Options, Callable[[Any], None]], None],
        settle: Callable[[Any, list[Row]], list[Any]],
        keys: int | None = None,
    ) -> list[Any]:
        """Send rows in requests of bounded size, a bounded number at once; results in order."""
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Future[list[Any]]] = []
        for part in slices(rows, keys or KEYS_A_REQUEST, self._request_bytes):
            done: asyncio.Future[list[Any]] = loop.create_future()

            def arrived(
                reply: Any, part: list[Row] = part, done: asyncio.Future[list[Any]] = done
            ) -> None:
                if not done.done():
                    done.set_result(settle(reply, part))

            if len(waits) >= PARTS_UNDER_WAY:
                await waits[-PARTS_UNDER_WAY]
            send(part, options, arrived)
            waits.append(done)
        return [result for wait in waits for result in await wait]

    def _send_gets(self, rows: list[Row], options: Options, answer: Callable[[Any], None]) -> None:
        keys = [row[0] for row in rows]
        message = ClientGet(keys, options.quorum, options.strict)
        self._session.ask(message, options.timeout_s, answer)

    def _send_puts(self, rows: list[Row], options: Options, answer: Callable[[Any], None]) -> None:
        keys, values, contexts, put_ids, ttls_ms = zip(*rows, strict=True)
        columns = keys, values, contexts, put_ids, ttls_ms
        message = ClientPut(*columns, options.quorum, options.strict)
        self._session.ask(message, options.timeout_s, answer)

    def _settle_gets(self, reply: Any, rows: list[Row]) -> list[Any]:
        if not isinstance(reply, GetDone):
            return self._refused(reply, len(rows), is_write=False)
        if answered := len(rows) - len(reply.failures):
            size = sum(map(len, filter(None, reply.states))) / answered
            self._bytes_a_key[0] = (
                (self._bytes_a_key[0] + size) / 2 if self._bytes_a_key[0] else size
            )
        degraded = reply.degraded
        results: list[Any] = [
            (state, seal, degraded) for state, seal in zip(reply.states, reply.seals, strict=True)
        ]
        return self._with_failures(results, reply.failures, is_write=False)

    def _settle_puts(self, reply: Any, rows: list[Row]) -> list[Any]:
        if not isinstance(reply, PutDone):
            return self._refused(reply, len(rows), is_write=True)
        return self._with_failures(list(reply.contexts), reply.failures, is_write=True)

    def _refused(self, reply: Any, count: int, is_write: bool) -> list[Any]:
        refused = (
            reply if isinstance(reply, Refused) else Refused(Code.UNKNOWN, "an unexpected answer")
        )
        quorum = self._setting("w" if is_write else "r")
        return [error_of_request(refused, is_write, quorum) for _ in range(count)]

    def _with_failures(
        self, results: list[Any], failures: Sequence[Failure], is_write: bool
    ) -> list[Any]:
        if failures:
            limits = self._session.charter.get("settings", {}).get("limits", {})
            for failure in failures:
                results[failure.index] = error_of_key(
                    failure, is_write, limits.get("sibling_bytes", 0)
                )
        return results

    @property
    def _request_bytes(self) -> int:
        """The bytes of one request of several keys; the cluster may allow less than we like."""
        limits = self._session.charter.get("settings", {}).get("limits", {})
        return min(BYTES_A_REQUEST, int(limits.get("batch_bytes", BYTES_A_REQUEST)))

    def _setting(self, name: str) -> int:
        return int(self._session.charter.get("settings", {}).get(name, 0))


def _outcomes(
    keys: Collection[Key],
    results: list[Any],
    made_of: Callable[[Any], T],
    wrong: dict[Any, DynamoError],
) -> dict[Key, T]:
    """What is made of each key's result. Raises BatchError where some are errors, or `wrong`."""
    failures = wrong | {
        key: result
        for key, result in zip(keys, results, strict=True)
        if isinstance(result, DynamoError)
    }
    made = {
        key: made_of(result)
        for key, result in zip(keys, results, strict=True)
        if not failures or key not in failures
    }
    if failures:
        raise BatchError(failures, made)
    return made


def _futures_of(
    settle: Callable[[Any, list[Row]], list[Any]],
) -> Callable[[Any, list[Row], list[asyncio.Future[Any]]], None]:
    """Settle the futures of single operations from a reply's results."""

    def settled(reply: Any, rows: list[Row], futures: list[asyncio.Future[Any]]) -> None:
        for result, future in zip(settle(reply, rows), futures, strict=True):
            if future.done():
                continue
            if isinstance(result, DynamoError):
                future.set_exception(result)
            else:
                future.set_result(result)

    return settled
