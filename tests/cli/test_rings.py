"""ring plan: what a change of nodes would move, said and not done."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Command
from tests.server.loopback import Threaded


def test_a_newcomer_gets_its_share(dr: Command, carts: Threaded) -> None:
    before = dr("ring", "--json").json["epoch"]
    shown = dr("ring", "plan", "--add", "n6:b", "--json").json
    by_name = {one["name"]: one for one in shown["nodes"]}
    assert shown["moves"] == by_name["n6"]["gets"] == by_name["n6"]["after"] == 256 * 3 // 6
    assert sum(one["gives"] for one in shown["nodes"]) == shown["moves"]
    assert shown["unsafe_partitions"] == []
    text = dr("ring", "plan", "--add", "n6:b").out.decode()
    assert "128 of 768 copies move (16.7%)" in text and text.splitlines()[-2].startswith("n6")
    assert dr("ring", "--json").json["epoch"] == before


def test_a_replacement_takes_what_the_old_one_had(dr: Command, carts: Threaded) -> None:
    shown = dr("ring", "plan", "--replace", "n2:n9", "--json").json
    by_name = {one["name"]: one for one in shown["nodes"]}
    assert by_name["n9"]["gets"] == by_name["n2"]["gives"] == by_name["n2"]["before"]
    assert by_name["n2"]["after"] == 0


def test_too_few_living_copies_are_8(dr: Command, fragile: Threaded) -> None:
    for name in ("n2", "n3"):
        fragile.run(fragile.cluster.kill_node(name))
    done = dr("ring", "plan", "--replace", "n2:n9", "--json")
    assert done.code == 8 and "fewer than 2 living copies" in done.err
    assert done.json["unsafe_partitions"]


@pytest.mark.parametrize(
    "wish, sentence",
    [
        (("--remove", "n9"), "no node 'n9'"),
        (("--add", "n1"), "'n1' is there already"),
        (("--add", "n6:z:heavy"), "--add n6:z:heavy"),
        (("--replace", "n2"), "OLD:NEW"),
        (("--replace", "n9:n10"), "OLD one of n1"),
        (("--remove", "n1", "--remove", "n2", "--remove", "n3"), "3 copies need 3 nodes"),
    ],
)
def test_a_wish_that_cannot_be_is_2(
    dr: Command, carts: Threaded, wish: tuple[str, ...], sentence: str
) -> None:
    done = dr("ring", "plan", *wish)
    assert done.code == 2 and sentence in done.err
