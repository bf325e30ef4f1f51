"""A contestant of workloads.py that is reached through dynamo_ray's own client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamo_ray.client import AsyncClient


class Served:
    """The verbs, by the client that a subclass connects."""

    _client: AsyncClient | None = None

    async def put(self, key: bytes, value: bytes) -> object:
        """One key."""
        assert self._client is not None
        return await self._client.put(key, value)

    async def get(self, key: bytes) -> bytes | None:
        """One key."""
        assert self._client is not None
        return (await self._client.get(key)).value

    async def put_many(self, mapping: Mapping[bytes, bytes]) -> object:
        """Many keys."""
        assert self._client is not None
        return await self._client.put_many(mapping)

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """Many keys."""
        assert self._client is not None
        found = await self._client.get_many(keys)
        return [found[key].value for key in keys]
