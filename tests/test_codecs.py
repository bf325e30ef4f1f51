"""Codecs: objects to bytes and back by name; nothing is ever chosen by looking at the bytes."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray import codec

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize("name", ["json", "msgpack", "cloudpickle"])
@given(value=plain)
def test_plain_values_come_back(name: str, value: Any) -> None:
    chosen = codec(name)
    encoded = chosen.encode(value)
    assert type(encoded) is bytes
    assert chosen.decode(encoded) == value


@given(st.text())
def test_text_comes_back(value: str) -> None:
    assert codec("utf8").decode(codec("utf8").encode(value)) == value


@given(st.binary())
def test_bytes_come_back(value: bytes) -> None:
    assert codec("bytes").decode(codec("bytes").encode(value)) == value
    assert codec("msgpack").decode(codec("msgpack").encode(value)) == value


def test_tables_come_back() -> None:
    table = pa.table({"n": [1, 2, 3], "s": ["a", None, "c"]})
    assert codec("arrow").decode(codec("arrow").encode(table)) == table
    assert codec("arrow").decode(codec("arrow").encode({"n": [1]})).to_pylist() == [{"n": 1}]


def test_objects_come_back_only_by_name() -> None:
    back = codec("cloudpickle").decode(codec("cloudpickle").encode(lambda x: x + 1))
    assert back(1) == 2


def test_json_is_short_and_readable() -> None:
    assert codec("json").encode({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'.encode()
    assert math.isnan(codec("json").decode(codec("json").encode(math.nan)))


class Bomb:
    """Unpickled, it would leave a trace."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("name", ["bytes", "utf8", "json", "msgpack", "arrow"])
def test_a_pickle_is_never_run(name: str, tmp_path: Path) -> None:
    """Whatever the other codecs make of its bytes, or refuse: nothing in them runs."""
    trace = tmp_path / "trace"
    bomb = pickle.dumps(Bomb(str(trace)))
    try:
        codec(name).decode(bomb)
    except (ValueError, pa.ArrowInvalid, OSError):
        assert name != "bytes"
    assert not trace.exists()


@pytest.mark.parametrize("name", ["pickle", "", "JSON", "yaml"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no codec .*; there are arrow, bytes, cloudpickle"):
        codec(name)
