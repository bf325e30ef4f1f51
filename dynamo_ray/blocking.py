"""Client: the same names as AsyncClient, for code without an event loop (DESIGN §8).

One background thread per client runs a loop with an AsyncClient in it, so the client may be used
from many threads, from inside a running loop, and after a fork (the child starts its own). Threads
that call at the same time share requests: natural batching works across threads too.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from dynamo_ray.client import AsyncClient
from dynamo_ray.errors import ClosedError
from dynamo_ray.found import Found, Written
from dynamo_ray.resolvers import Resolver
from dynamo_ray.rows import Key

Opener = Callable[[], Coroutine[Any, Any, AsyncClient]]
CLOSE_S = 5.0


class _Loop:
    """A loop in a thread of its own, and the AsyncClient that lives there."""

    def __init__(self, opener: Opener) -> None:
        self.pid = os.getpid()
        self.loop = _new_loop()
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
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self, wait_s: float) -> None:
        try:
            future = asyncio.run_coroutine_threadsafe(self.client.close(wait_s), self.loop)
            future.result(wait_s + CLOSE_S)
        finally:
            self.stop()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CLOSE_S)


class _Shared:
    """What a client and its copies share: the loop inside, ended when the last of them is gone."""

    def __init__(self) -> None:
        self.held: dict[str, _Loop | None] = {"loop": None}
        self.lock = threading.Lock()
        weakref.finalize(self, _abandon, self.held, os.getpid())


class Client:
    """A client of one cluster. Make it with `connect`; see AsyncClient for each operation."""

    def __init__(self, opener: Opener, restore: tuple[Any, ...] | None = None) -> None:
        self._opener = opener
        self._restore = restore
        self._options: dict[str, Any] = {}
        self._shared = _Shared()
        self._inside()

    # ---- operations

    def get(self, key: Key, **options: Any) -> Found:
        """What the key holds. Options: r, strict, timeout_s."""
        found: Found = self._run(lambda client: client.get(key, **options))
        return found

    def put(self, key: Key, value: Any, context: bytes | None = None, **options: Any) -> Written:
        """Write the key. Options: ttl_s, w, strict, timeout_s."""
        written: Written = self._run(lambda client: client.put(key, value, context, **options))
        return written

    def delete(self, key: Key, context: bytes | None = None, **options: Any) -> Written:
        """Delete the key. Options: w, strict, timeout_s."""
        written: Written = self._run(lambda client: client.delete(key, context, **options))
        return written

    def update(self, key: Key, change: Callable[[bytes | None], Any], **options: Any) -> Written:
        """Read, resolve, change, write back with the context. Options: resolver, timeout_s."""
        written: Written = self._run(lambda client: client.update(key, change, **options))
        return written

    def get_many(self, keys: Iterable[Key], **options: Any) -> dict[Key, Found]:
        """What the keys hold, by key. Options: r, strict, timeout_s."""
        found: dict[Key, Found] = self._run(lambda client: client.get_many(keys, **options))
        return found

    def put_many(self, items: Mapping[Key, Any], **options: Any) -> dict[Key, Written]:
        """Write many keys. Options: contexts, ttl_s, w, strict, timeout_s."""
        done: dict[Key, Written] = self._run(lambda client: client.put_many(items, **options))
        return done

    def delete_many(self, keys: Iterable[Key], **options: Any) -> dict[Key, Written]:
        """Delete many keys. Options: contexts, w, strict, timeout_s."""
        done: dict[Key, Written] = self._run(lambda client: client.delete_many(keys, **options))
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
        given = {"r": r, "w": w, "strict": strict, "timeout_s": timeout_s, "resolver": resolver}
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
            raise ClosedError("the client is closed; connect again")
        inside = held["loop"]
        if inside is not None and inside.pid == os.getpid():
            return inside
        if inside is not None:
            # After a fork the thread is gone and the lock's state is not to be trusted.
            self._shared.lock = threading.Lock()
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
