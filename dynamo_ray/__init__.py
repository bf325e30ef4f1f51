"""dynamo_ray: a highly available, replicated key-value store that runs inside a Ray cluster.

    cluster = dynamo_ray.start("carts", nodes=5, n=3, r=2, w=2)
    client = dynamo_ray.connect("carts")
    client.put("cart:14075", b"...")
    client.get("cart:14075").value

In the manner of Amazon's Dynamo (SOSP 2007): every key on N nodes, no leader, writes always
accepted while W nodes can be reached, conflicts kept as siblings and never silently dropped.

Names are imported when they are first used, so that a program that only reads and writes loads
neither Ray nor Arrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_ray.blocking import Client
    from dynamo_ray.client import AsyncClient
    from dynamo_ray.cluster import Cluster, attach, start
    from dynamo_ray.codecs import Codec, codec
    from dynamo_ray.connecting import connect, connect_async
    from dynamo_ray.core.settings import SettingsError
    from dynamo_ray.errors import (
        AuthenticationError,
        BackupError,
        BackupNotFoundError,
        BackupRefusedError,
        BadRequestError,
        BatchError,
        ClosedError,
        ClusterExistsError,
        ClusterNotFoundError,
        ConflictError,
        DataDirectoryError,
        DynamoError,
        InvalidContextError,
        KeyTooLargeError,
        OperationTimeoutError,
        OverloadedError,
        TooManySiblingsError,
        UnavailableError,
        UnsafeChangeError,
        ValueTooLargeError,
        WrongTypeError,
    )
    from dynamo_ray.found import CONCURRENT, Found, Written
    from dynamo_ray.resolvers import (
        Resolver,
        Sibling,
        keep_all,
        last_write_wins,
        union_of_sets,
    )
    from dynamo_ray.survey import NodeStatus, Status
    from dynamo_ray.tables import read_dataset, write_dataset

__version__ = "0.1.0"

_HOMES = {
    "blocking": ("Client",),
    "client": ("AsyncClient",),
    "cluster": ("Cluster", "attach", "start"),
    "codecs": ("Codec", "codec"),
    "connecting": ("connect", "connect_async"),
    "core.settings": ("SettingsError",),
    "errors": (
        "AuthenticationError",
        "BackupError",
        "BackupNotFoundError",
        "BackupRefusedError",
        "BadRequestError",
        "BatchError",
        "ClosedError",
        "ClusterExistsError",
        "ClusterNotFoundError",
        "ConflictError",
        "DataDirectoryError",
        "DynamoError",
        "InvalidContextError",
        "KeyTooLargeError",
        "OperationTimeoutError",
        "OverloadedError",
        "TooManySiblingsError",
        "UnavailableError",
        "UnsafeChangeError",
        "ValueTooLargeError",
        "WrongTypeError",
    ),
    "found": ("CONCURRENT", "Found", "Written"),
    "resolvers": ("Resolver", "Sibling", "keep_all", "last_write_wins", "union_of_sets"),
    "survey": ("NodeStatus", "Status"),
    "tables": ("read_dataset", "write_dataset"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CONCURRENT",
    "AsyncClient",
    "AuthenticationError",
    "BackupError",
    "BackupNotFoundError",
    "BackupRefusedError",
    "BadRequestError",
    "BatchError",
    "Client",
    "ClosedError",
    "Cluster",
    "ClusterExistsError",
    "ClusterNotFoundError",
    "Codec",
    "ConflictError",
    "DataDirectoryError",
    "DynamoError",
    "Found",
    "InvalidContextError",
    "KeyTooLargeError",
    "NodeStatus",
    "OperationTimeoutError",
    "OverloadedError",
    "Resolver",
    "SettingsError",
    "Sibling",
    "Status",
    "TooManySiblingsError",
    "UnavailableError",
    "UnsafeChangeError",
    "ValueTooLargeError",
    "Written",
    "WrongTypeError",
    "attach",
    "codec",
    "connect",
    "connect_async",
    "keep_all",
    "last_write_wins",
    "read_dataset",
    "start",
    "union_of_sets",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'dynamo_ray' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"dynamo_ray.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
