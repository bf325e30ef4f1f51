"""Which cluster is meant, how it is reached, and what is said if it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command, known_as
from tests.server.loopback import Threaded


def test_the_only_cluster_needs_no_name(dr: Command, carts: Threaded) -> None:
    assert dr("put", "only", "v").code == 0


def test_no_cluster_at_all_is_7_and_says_what_to_do(dr: Command) -> None:
    done = dr("get", "k")
    assert done.code == 7 and "dynamo-ray start" in done.err


def test_one_of_several_must_be_named(
    dr: Command, carts: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_as("other", carts)
    done = dr("get", "k")
    assert done.code == 2 and "carts, other" in done.err
    assert dr("get", "k", "--cluster", "carts").code == 3
    assert dr("--cluster", "carts", "get", "k").code == 3
    monkeypatch.setenv("DYNAMO_RAY_CLUSTER", "carts")
    assert dr("get", "k").code == 3


def test_what_stands_after_the_command_wins(dr: Command, carts: Threaded) -> None:
    assert dr("--cluster", "nowhere", "get", "k", "-c", "carts").code == 3
    assert dr("--cluster", "carts", "get", "k", "-c", "nowhere").code == 7


def test_an_option_in_front_wins_over_the_environment(
    dr: Command, carts: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMO_RAY_CLUSTER", "nowhere")
    assert dr("-c", "carts", "get", "k").code == 3


def test_an_address_and_a_token_need_no_profile(
    dr: Command, served: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = served.address[0]
    assert dr("get", "k", "--address", address).code == 7
    assert dr("get", "k", "--address", address, "--token", served.cluster.token).code == 3
    monkeypatch.setenv("DYNAMO_RAY_TOKEN", served.cluster.token)
    assert dr("get", "k", "--address", address).code == 3
    assert dr("get", "k", "--address", f"127.0.0.1:1,{address}").code == 3


def test_a_known_address_needs_no_token(dr: Command, carts: Threaded) -> None:
    assert dr("get", "k", "--address", carts.address[0]).code == 3


def test_a_wrong_token_is_7_and_is_not_repeated(dr: Command, served: Threaded) -> None:
    good = served.cluster.token
    for wrong in ("nonsense", good[:-4] + ("aaaa" if not good.endswith("aaaa") else "bbbb")):
        done = dr("get", "k", "--address", served.address[0], "--token", wrong)
        assert done.code == 7
        assert wrong not in done.err


def test_an_address_that_is_none_is_2(dr: Command, carts: Threaded) -> None:
    assert dr("get", "k", "--address", "nonsense", "-c", "carts").code == 2


def test_nobody_there_is_7(dr: Command, served: Threaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamo_ray.connecting.CONNECT_S", 0.5)
    token = served.cluster.token
    done = dr("get", "k", "--address", "127.0.0.1:1", "--token", token)
    assert done.code == 7 and done.err.count("\n") == 1


def test_a_broken_profile_is_said(dr: Command, carts: Threaded, at_home: Path) -> None:
    [path] = (at_home / "clusters").glob("*.json")
    path.write_text("{")
    done = dr("get", "k")
    assert done.code == 2 and str(path) in done.err


def test_too_few_nodes_is_4(dr: Command, fragile: Threaded) -> None:
    dr("put", "k", "v")
    for name in ("n1", "n2", "n3", "n4"):
        fragile.run(fragile.cluster.kill_node(name))
    done = dr("put", "k", "v", "--strict", "--timeout", "1")
    assert done.code == 4 and "nothing was applied" in done.err
    assert dr("get", "k", "--strict", "--timeout", "1").code == 4


def test_the_token_is_never_printed(dr: Command, carts: Threaded) -> None:
    dr("put", "secret", "v")
    commands = (["status"], ["status", "--json"], ["ring", "--json"], ["get", "secret", "--json"])
    for arguments in commands:
        done = dr(*arguments)
        assert carts.cluster.token not in done.out.decode() + done.err
