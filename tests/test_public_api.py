"""The public names: all there, documented, alike for both clients, and light to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import dynamo_ray
from dynamo_ray import AsyncClient, Client


def test_all_is_sorted_and_there() -> None:
    assert sorted(dynamo_ray.__all__) == sorted(set(dynamo_ray.__all__))
    for name in dynamo_ray.__all__:
        assert getattr(dynamo_ray, name) is not None
        assert name in dir(dynamo_ray)


def test_names_that_are_not_there_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cart'"):
        _ = dynamo_ray.Cart
    assert set(dynamo_ray._HOME_OF) == set(dynamo_ray.__all__)


def test_every_public_name_is_documented() -> None:
    plain = {"CONCURRENT", "Resolver"}
    for name in set(dynamo_ray.__all__) - plain:
        assert inspect.getdoc(getattr(dynamo_ray, name)), name
    for client in (Client, AsyncClient):
        for name, member in vars(client).items():
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{client.__name__}.{name}"


def operations(client: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in vars(client).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def test_both_clients_take_the_same() -> None:
    """Same names, same parameters, same defaults; one is awaited."""
    theirs, ours = operations(AsyncClient), operations(Client)
    inner = {"write_back"}  # the second half of update, which the synchronous client calls
    assert theirs.keys() - inner == ours.keys()
    for name, signature in ours.items():
        expected = theirs[name].parameters
        assert list(signature.parameters) == list(expected), name
        for one, parameter in signature.parameters.items():
            assert parameter.default == expected[one].default, f"{name}({one})"
            assert parameter.kind == expected[one].kind, f"{name}({one})"
    awaited = {n for n in theirs if inspect.iscoroutinefunction(getattr(AsyncClient, n))}
    assert awaited == theirs.keys() - {"with_options"}


def test_connecting_takes_the_same_by_both_ways() -> None:
    one, other = (inspect.signature(f) for f in (dynamo_ray.connect, dynamo_ray.connect_async))
    assert one.parameters == other.parameters


QUESTION = (
    "import sys, dynamo_ray; {}; print(sorted({{'ray', 'pyarrow', 'typer'}} & set(sys.modules)))"
)


@pytest.mark.parametrize(
    "use", ["pass", "dynamo_ray.connect", "dynamo_ray.codec('json')", "dynamo_ray.UnavailableError"]
)
def test_reading_and_writing_loads_neither_ray_nor_arrow(use: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUESTION.format(use)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == "[]"
