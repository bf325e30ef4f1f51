"""Objects to bytes and back, by name. The store itself only ever sees bytes.

`cloudpickle` runs code when it loads, so it is used only where both sides name it: asking for it by
name when encoding and when decoding is that consent. Nothing is ever chosen by looking at the
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Codec(NamedTuple):
    """A pair of pure functions; `decode(encode(x))` equals x for what the codec can hold."""

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _json_encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _msgpack_encode(value: Any) -> bytes:
    import msgpack

    return bytes(msgpack.packb(value, use_bin_type=True))


def _msgpack_decode(data: bytes) -> Any:
    import msgpack

    return msgpack.unpackb(data, raw=False)


def _arrow_encode(value: Any) -> bytes:
    import pyarrow as pa

    table = value if isinstance(value, pa.Table) else pa.table(value)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _arrow_decode(data: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(data).read_all()


def _cloudpickle_encode(value: Any) -> bytes:
    import cloudpickle

    return bytes(cloudpickle.dumps(value))


def _cloudpickle_decode(data: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(data)


def _utf8_encode(value: str) -> bytes:
    return value.encode()


_CODECS = {
    codec.name: codec
    for codec in (
        Codec("bytes", bytes, bytes),
        Codec("utf8", _utf8_encode, bytes.decode),
        Codec("json", _json_encode, json.loads),
        Codec("msgpack", _msgpack_encode, _msgpack_decode),
        Codec("arrow", _arrow_encode, _arrow_decode),
        Codec("cloudpickle", _cloudpickle_encode, _cloudpickle_decode),
    )
}


def codec(name: str) -> Codec:
    """The codec of that name: bytes, utf8, json, msgpack, arrow or cloudpickle.

    Raises ValueError for another name.
    """
    try:
        return _CODECS[name]
    except KeyError:
        raise ValueError(f"no codec {name!r}; there are {', '.join(sorted(_CODECS))}") from None
