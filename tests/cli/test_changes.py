"""node add, drain, remove, replace, ring commit and transfers: planned, refused, looked on.

Clusters are real ones over loopback; what goes through Ray is played.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import changes
from dynamo_ray import changing
from dynamo_ray.changing import Site, Transfers
from tests.cli.conftest import Command
from tests.server.loopback import Threaded, until

CHANGES = [("add",), ("drain", "n2"), ("remove", "n2"), ("replace", "n2", "--force")]


class Played:
    """The cluster as it is reached through Ray: what it was told to do, and what comes of it."""

    name = "carts"

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None
        self.interrupted = False

    def _do(self, *what: Any, moved: Callable[[Transfers], None], **_: Any) -> str:
        self.told.append(what)
        for left in (8, 3, 0):
            moved(Transfers(left, 500, 1_000_000, {}))
        if self.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        if self.failure is not None:
            raise self.failure
        return str(what[1])

    def add_node(self, name: str, *, zone: str, weight: float, **rest: Any) -> str:
        return self._do("add", name, zone, weight, **rest)

    def drain_node(self, name: str, *, weight: float, force: bool, **rest: Any) -> None:
        self._do("drain", name, weight, force, **rest)

    def remove_node(self, name: str, *, force: bool, **rest: Any) -> None:
        self._do("remove", name, force, **rest)

    def replace_node(self, old: str, new: str, *, force: bool, **rest: Any) -> str:
        return self._do("replace", new, old, force, **rest)

    def rebalance(self, *, force: bool, **rest: Any) -> None:
        self._do("commit", force, **rest)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    cluster = Played()

    def site_for(name: str, node: str | None, zone: str = "", old: str | None = None) -> Site:
        return Site(node or "n6", zone, "", f"/nowhere/{node}")

    monkeypatch.setattr(changes, "attached_by_ray", lambda name, profile: cluster)
    monkeypatch.setattr(changing, "site_for", site_for)
    return cluster


def test_a_node_is_added(dr: Command, carts: Threaded, played: Played) -> None:
    done = dr("node", "add", "--zone", "b", "--weight", "0.5", "--yes")
    assert (done.code, done.out) == (0, b"")
    assert played.told == [("add", "n6", "b", 0.5)]
    assert "n6 has joined carts" in done.err
    assert [line.split()[0] for line in done.err.splitlines()[:7]] == [
        "NODE",
        *(f"n{i}" for i in range(1, 7)),
    ]


@pytest.mark.parametrize(
    "words, schema, node, told",
    [
        (("node", "add", "n7"), "node_add/1", "n7", ("add", "n7", "", 1.0)),
        (("node", "drain", "n2"), "node_drain/1", "n2", ("drain", "n2", 0.0, False)),
        (
            ("node", "drain", "n2", "--weight", "2"),
            "node_drain/1",
            "n2",
            ("drain", "n2", 2.0, False),
        ),
        (("node", "remove", "n2"), "node_remove/1", "n2", ("remove", "n2", False)),
        (
            ("node", "replace", "n2", "--by", "n9", "--force"),
            "node_replace/1",
            "n9",
            ("replace", "n9", "n2", True),
        ),
    ],
)
def test_as_json(
    dr: Command,
    carts: Threaded,
    played: Played,
    words: tuple[str, ...],
    schema: str,
    node: str,
    told: tuple[Any, ...],
) -> None:
    done = dr(*words, "--yes", "--json")
    assert done.code == 0
    assert done.json.keys() == {"schema", "name", "node", "moves"}
    assert (done.json["schema"], done.json["node"]) == (f"dynamo_ray.{schema}", node)
    assert done.json["moves"] > 0 and played.told == [told]


def test_a_commit_as_json(dr: Command, carts: Threaded, played: Played) -> None:
    done = dr("ring", "commit", "--yes", "--json")
    assert done.json == {"schema": "dynamo_ray.ring_commit/1", "name": "carts", "moves": 0}
    assert played.told == [("commit", False)]


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_a_dry_run_shows_the_moves_and_does_nothing(
    dr: Command, carts: Threaded, played: Played, words: tuple[str, ...]
) -> None:
    before = dr("ring", "--json").json["epoch"]
    done = dr("node", *words, "--dry-run")
    assert done.code == 0 and "copies move" in done.err
    assert played.told == [] and dr("ring", "--json").json["epoch"] == before


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_where_nobody_can_be_asked_nothing_is_done(
    dr: Command, carts: Threaded, played: Played, words: tuple[str, ...]
) -> None:
    done = dr("node", *words)
    assert done.code == 2 and "--yes" in done.err and played.told == []


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("add", "n2"), "'n2' is there already"),
        (("add", "--weight", "inf"), "a weight is finite"),
        (("add", "--weight", "-1"), "greater than or equal to 0"),
        (("add", "a/b"), "cannot be a name"),
        (("drain", "n9"), "no node 'n9'; there are n1, n2"),
        (("remove", "n9"), "no node 'n9'"),
        (("replace", "n9"), "no node 'n9'"),
        (("replace", "n2"), "'n2' is up"),
        (("replace", "n2", "--by", "n3", "--force"), "'n3' is there already"),
        (("drain",), "Missing argument"),
    ],
)
def test_a_change_that_cannot_be_is_2(
    dr: Command, carts: Threaded, played: Played, words: tuple[str, ...], sentence: str
) -> None:
    done = dr("node", *words, "--yes")
    assert done.code == 2 and sentence in done.err.replace("\n", " ")
    assert played.told == []


def test_fewer_nodes_than_copies_are_2(dr: Command, tmp_path: Path, played: Played) -> None:
    from tests.cli.conftest import known_as

    with Threaded(tmp_path / "small", nodes=3) as small:
        known_as("small", small)
        for words in (("remove", "n1"), ("drain", "n1")):
            done = dr("node", *words, "--yes", "-c", "small")
            assert done.code == 2 and "3 copies need 3 nodes with a weight" in done.err
    assert played.told == []


def test_too_few_living_copies_are_8_unless_forced(
    dr: Command, fragile: Threaded, played: Played
) -> None:
    for name in ("n2", "n3", "n4", "n5"):  # whatever moves has one left, at most
        fragile.run(fragile.cluster.kill_node(name))
    for words in (("add",), ("drain", "n1"), ("remove", "n1"), ("replace", "n2")):
        done = dr("node", *words, "--yes")
        assert done.code == 8 and "fewer than 2 living copies" in done.err
        assert played.told == []
        assert dr("node", *words, "--yes", "--force").code == 0
        played.told.clear()


def test_nor_does_a_commit_move_what_is_weak(
    dr: Command, fragile: Threaded, played: Played
) -> None:
    """A drain was interrupted after it had said the weight, and then others went down."""
    for name in ("n2", "n3", "n4"):
        fragile.run(fragile.cluster.kill_node(name))

    async def weigh() -> None:
        node, pool = fragile.cluster.nodes["n1"], fragile.cluster.coordinators.values()
        node.weigh(0.25)
        await until(lambda: all(one.view.nodes()[node.me].weight == 0.25 for one in pool))

    fragile.run(weigh())
    done = dr("ring", "commit", "--yes")
    assert done.code == 8 and "fewer than 2 living copies" in done.err
    assert played.told == []
    done = dr("ring", "commit", "--yes", "--force", "--json")
    assert done.code == 0 and done.json["moves"] > 0
    assert played.told == [("commit", True)]


def test_a_node_that_is_away_cannot_hand_over(
    dr: Command, fragile: Threaded, played: Played
) -> None:
    fragile.run(fragile.cluster.kill_node("n2"))
    for words in (("drain", "n2"), ("remove", "n2")):
        done = dr("node", *words, "--yes")
        assert done.code == 4 and "'n2' is down" in done.err and "replace it" in done.err
    assert played.told == []


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_who_interrupts_is_told_that_it_goes_on(
    dr: Command, carts: Threaded, played: Played, words: tuple[str, ...]
) -> None:
    """At the first Ctrl-C, which asyncio would keep to itself until all is done."""
    played.interrupted = True
    done = dr("node", *words, "--yes")
    assert done.code == 130 and "what has begun goes on" in done.err
    how = {"add": "ring transfers", "drain": "ring transfers", "remove": "node remove n2"}
    assert f"dynamo-ray {how.get(words[0], 'status --json')}" in done.err


def test_who_waited_long_enough_is_told_so_and_9(
    dr: Command, carts: Threaded, played: Played
) -> None:
    played.failure = TimeoutError("3 copies are still on their way")
    done = dr("node", "add", "--yes", "--wait", "1")
    assert done.code == 9 and "3 copies are still on their way" in done.err
    assert "ring commit" in done.err


def test_nothing_on_its_way_is_0(dr: Command, carts: Threaded) -> None:
    done = dr("ring", "transfers", "--json")
    assert done.code == 0
    assert done.json == {"schema": "dynamo_ray.transfers/1", "left": 0, "giving": []}
    assert dr("ring", "transfers").out == b"no copy of a partition is on its way\n"


def test_copies_on_their_way_are_9_until_they_are_there(dr: Command, fragile: Threaded) -> None:
    """Wished for a node that is away: its giver waits for it."""
    cluster = fragile.cluster
    giver, away = cluster.nodes["n1"], cluster.nodes["n5"].me
    fragile.run(cluster.kill_node("n5"))

    async def wish() -> None:
        ring, slots = giver.ring, range(len(giver.ring.slots))
        slot = next(
            slot
            for slot in slots
            if ring.slots[slot] == giver.me and away not in ring.owners(slot // ring.copies)
        )
        giver.learn(giver.placement.with_wishes([(slot, away)], os.urandom(8)))

    fragile.run(wish())
    shown = dr("ring", "transfers", "--json")
    assert shown.code == 9 and shown.json["left"] == 1
    (giving,) = shown.json["giving"]
    assert (giving["name"], giving["left"], giving["step"]) == ("n1", 1, None)
    assert giving.keys() == {"name", "partition", "to", "step", "left", "given", "keys", "bytes"}
    done = dr("ring", "transfers")
    assert done.code == 9 and b"copies of partitions on their way: 1" in done.out
    fragile.run(cluster.start_node("n5"))
    assert dr("ring", "transfers", "--watch").code == 0
