"""Client: the same names as AsyncClient, for code without an event loop (DESIGN §8).

One background thread per client runs a loop with an AsyncClient in it, so the client may be used
from many threads, from inside a running loop, and after a fork (the child starts its own). Threads
that call at the same time share requests: natural batching works across threads too.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from dynamo_ray.client import AsyncClient
from dynamo_ray.errors import ClosedError
from dynamo_ray.found import Found, Written
from dynamo_ray.resolvers import Resolver
from dynamo_ray.rows import Key, answers, seconds

Opener = Callable[[], Coroutine[Any, Any, AsyncClient]]
CLOSE_S = 5.0
CLOSED = "the client is closed; connect again"
CUT_SHORT = "the client was closed meanwhile; what was under way may have been applied"

# After a fork the parent's loops must not be touched, not even to free them: their selectors are
# the parent's, too.
_INHERITED: list[Any] = []


class _Loop:
    """A loop in a thread of its own, and the AsyncClient that lives there."""

    def __init__(self, opener: Opener) -> None:
        self.pid = os.getpid()
        self.loop = _new_loop()
        self._stopped = False
        self._stopping = threading.Lock()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="dynamo_ray-client", daemon=True
        )
        self._thread.start()
        try:
            self.client = self.run(opener())
        except BaseException:
            self.stop()
            raise

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the loop and wait. Raises ClosedError if the loop ends meanwhile."""
        try:
            return self._submit(work).result()
        except concurrent.futures.CancelledError:
            raise ClosedError(CUT_SHORT) from None

    def _submit(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("called by its own loop, the client would wait for itself")
        with self._stopping:  # nothing may be handed to a loop that never runs again
            if self._stopped:
                work.close()
                raise ClosedError(CLOSED)
            return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self, wait_s: float) -> None:
        """Wait for what is under way, hang up, and end the thread."""
        try:
            self._submit(self.client.close(wait_s)).result(wait_s + CLOSE_S)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the thread; whoever waits for something in it is told."""
        with self._stopping:
            if not self._stopped:
                self._stopped = True
                asyncio.run_coroutine_threadsafe(_end(getattr(self, "client", None)), self.loop)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)
            if not self._thread.is_alive():
                self.loop.close()


async def _end(client: AsyncClient | None) -> None:
    """Hang up, cancel whatever runs in this loop, let it end, and stop the loop."""
    if client is not None:
        client.session.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=CLOSE_S / 2)
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)


class _Shared:
    """What a client and its copies share: the loop inside, ended when the last of them is gone."""

    def __init__(self) -> None:
        self.held: dict[str, _Loop | None] = {"loop": None}
        self.lock = threading.Lock()
        weakref.finalize(self, _abandon, self.held, os.getpid())


class Client:
    """A client of one cluster. Make it with `connect`; see AsyncClient for each operation."""

    def __init__(
        self, opener: Opener, restore: tuple[Any, ...] | None = None, lazily: bool = False
    ) -> None:
        self._opener = opener
        self._restore = restore
        self._options: dict[str, Any] = {}
        self._shared = _Shared()
        if not lazily:
            self._inside()

    # ---- operations

    def get(
        self,
        key: Key,
        *,
        r: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> Found:
        """What the key holds, from `r` owners."""
        given: dict[str, Any] = {"r": r, "strict": strict, "timeout_s": timeout_s}
        found: Found = self._run(lambda client: client.get(key, **given))
        return found

    def put(
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
        """Write the key: replace what is there, or with `context` exactly what was read."""
        given: dict[str, Any] = {"ttl_s": ttl_s, "w": w, "strict": strict, "timeout_s": timeout_s}
        written: Written = self._run(lambda client: client.put(key, value, context, **given))
        return written

    def delete(
        self,
        key: Key,
        context: bytes | None = None,
        *,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Delete the key: a put of a tombstone."""
        given: dict[str, Any] = {"w": w, "strict": strict, "timeout_s": timeout_s}
        written: Written = self._run(lambda client: client.delete(key, context, **given))
        return written

    def update(
        self,
        key: Key,
        change: Callable[[bytes | None], Any],
        *,
        resolver: Resolver | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Read, resolve, change, write back with the context; None from `change` deletes.

        `change` runs in the calling thread, once, and may use this client.
        """
        found = self.get(key, timeout_s=timeout_s)
        changed = change(found.resolved(resolver))
        written: Written = self._run(lambda c: c.write_back(key, changed, found, timeout_s))
        return written

    def get_many(
        self,
        keys: Iterable[Key],
        *,
        r: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> dict[Key, Found]:
        """What the keys hold, by key. Raises BatchError where part of them failed."""
        given: dict[str, Any] = {"r": r, "strict": strict, "timeout_s": timeout_s}
        found: dict[Key, Found] = self._run(lambda client: client.get_many(keys, **given))
        return found

    def put_many(
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
        given: dict[str, Any] = {"ttl_s": ttl_s, "w": w, "strict": strict, "timeout_s": timeout_s}
        done: dict[Key, Written] = self._run(
            lambda client: client.put_many(items, contexts=contexts, **given)
        )
        return done

    def delete_many(
        self,
        keys: Iterable[Key],
        *,
        contexts: Mapping[Key, bytes] | None = None,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> dict[Key, Written]:
        """Delete many keys, each with its own outcome. Raises BatchError where part failed."""
        given: dict[str, Any] = {"w": w, "strict": strict, "timeout_s": timeout_s}
        done: dict[Key, Written] = self._run(
            lambda client: client.delete_many(keys, contexts=contexts, **given)
        )
        return done

    def ask(self, kind: int, fields: Sequence[Any]) -> list[Any]:
        """Ask a coordinator something small that is not data (status, where)."""
        answer: list[Any] = self._run(lambda client: client.ask(kind, fields))
        return answer

    def with_options(
        self,
        *,
        r: int | None = None,
        w: int | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
        resolver: Resolver | None = None,
    ) -> Client:
        """A cheap copy with other defaults; it shares the connections, and their end."""
        given = {
            "r": None if r is None else answers("r", r),
            "w": None if w is None else answers("w", w),
            "strict": strict,
            "timeout_s": None if timeout_s is None else seconds(timeout_s),
            "resolver": resolver,
        }
        other = Client.__new__(Client)
        other.__dict__.update(self.__dict__)
        other._options = self._options | {k: v for k, v in given.items() if v is not None}
        return other

    def close(self, wait_s: float = 1.0) -> None:
        """Wait up to `wait_s` for what is in flight, then hang up."""
        inside = self._shared.held.pop("loop", None)
        if inside is not None and inside.pid == os.getpid():
            inside.close(wait_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._restore is None:
            raise TypeError("this client cannot be pickled; connect by name or address instead")
        function, args = self._restore
        return _restored, (function, args, self._options)

    # ---- the loop inside

    def _run(self, operation: Callable[[AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        inside = self._inside()
        client = inside.client
        if self._options:
            client = client.with_options(**self._options)
        return inside.run(operation(client))

    def _inside(self) -> _Loop:
        held = self._shared.held
        if "loop" not in held:
            raise ClosedError(CLOSED)
        inside = held["loop"]
        if inside is not None and inside.pid == os.getpid():
            return inside
        if inside is not None:
            # After a fork the thread is gone and the lock's state is not to be trusted.
            self._shared.lock = threading.Lock()
            _INHERITED.append(inside)
        with self._shared.lock:
            inside = held["loop"]
            if inside is None or inside.pid != os.getpid():
                inside = held["loop"] = _Loop(self._opener)
        return inside


def _restored(
    function: Callable[..., Client], args: tuple[Any, ...], options: dict[str, Any]
) -> Client:
    client = function(*args)
    return client.with_options(**options) if options else client


def _abandon(held: dict[str, _Loop | None], pid: int) -> None:
    inside = held.pop("loop", None)
    if inside is not None and inside.pid == os.getpid() == pid:
        inside.stop()


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
