"""How long copies take to be equal: that a node lacked them is seen, and that comparisons heal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import healing
from benchmarks.five import is_quiet
from benchmarks.healing import Copies, Healed, brought_to, lacking
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.settings import Limits, Settings, Times
from dynamo_ray.survey import NodeStatus, Status
from tests.server.loopback import Loopback, run

HEALED = Healed("n5", 1000, 1000, 0.3, 4.0, 5.0, 1000)


def test_a_node_lacks_what_it_has_not_or_has_otherwise() -> None:
    wanted = {b"a": b"1", b"b": b"2", b"c": b"3"}
    assert lacking({b"a": b"1", b"b": b"old"}, wanted) == 2
    assert lacking({**wanted, b"d": b"4"}, wanted) == 0


def test_a_round_in_which_hardly_anything_was_lacked_is_refused() -> None:
    HEALED.check()
    with pytest.raises(SystemExit, match="nothing was measured"):
        replace(HEALED, lacked=12, brought=1000).check()


def test_a_round_that_hints_healed_is_refused() -> None:
    with pytest.raises(SystemExit, match="by another way"):
        replace(HEALED, brought=3).check()


def test_what_came_is_what_the_node_pulled_and_what_others_pushed() -> None:
    def status(*counts: tuple[str, int, int]) -> Status:
        nodes = [
            NodeStatus(name, "up", repair={"keys_received": received, "keys_sent": sent})
            for name, received, sent in counts
        ]
        return Status("c", "", 3, 2, 2, 8, "written", nodes, [])

    before = status(("n1", 9, 100), ("n2", 9, 50), ("n3", 700, 800))
    after = status(("n1", 9, 130), ("n2", 9, 55), ("n3", 60, 2))  # n3 counts from its start
    assert brought_to("n3", before, after) == 60 + 30 + 5


@pytest.mark.parametrize(
    ("repair", "expected"),
    [
        ({"round_s": 3.0, "running": None}, True),
        ({"round_s": None, "running": None}, False),  # some were never made
        ({"round_s": 3.0, "running": 7}, False),
        ({}, False),  # the node does not answer
    ],
)
def test_a_node_is_quiet_when_nothing_is_due(repair: dict[str, object], expected: bool) -> None:
    assert is_quiet(repair) is expected


def test_copies_are_looked_at_before_anything_brings_what_is_missed(tmp_path: Path) -> None:
    async def story() -> None:
        # Comparisons wait for two seconds after it is back, and no hint is kept.
        times = Times(timeout_s=0.5, suspect_s=2.0)
        settings = Settings(partitions=2, times=times, limits=Limits(**healing.NO_HINTS))
        async with Loopback(tmp_path, nodes=4, settings=settings) as cluster:
            client = await cluster.connect()
            node = cluster.charter.member("n2").node
            ring = client.session.placement().ring
            names = (f"key:{i}" for i in range(1000))  # more of a partition than fit into a page
            keys = [k for k in names if node in ring.owners(partition_of(k.encode(), 2))]
            await client.put_many(dict.fromkeys(keys, b"old"), w=3)
            copies = Copies(client.session, cluster.credentials, [key.encode() for key in keys])
            assert lacking(await copies.at(node), await copies.beside(node)) == 0
            copies.close()
            await cluster.kill_node("n2")
            await client.put_many(dict.fromkeys(keys[:300], b"new"), strict=True)
            copies = Copies(client.session, cluster.credentials, [key.encode() for key in keys])
            wanted = await copies.beside(node)
            assert len(wanted) == len(keys) > 300
            await cluster.start_node("n2")
            await healing.listens(client.session, node, cluster.credentials)
            assert lacking(await copies.at(node), wanted) == 300
            copies.close()

    run(story())
