"""repair run, repair status and verify, as a user runs them."""

from __future__ import annotations

from tests.cli.conftest import Command
from tests.server.loopback import Threaded


def lose(cluster: Threaded, name: str) -> int:
    """A node loses all it holds, and nobody is told."""

    async def forget() -> int:
        replica, gone = cluster.cluster.nodes[name].node.replica, 0
        for partition, of in enumerate(replica.maps):
            keys = list(of)
            of.clear()
            replica.forest.mark([partition] * len(keys), keys)
            gone += len(keys)
        return gone

    gone: int = cluster.run(forget())
    return gone


def test_what_differs_is_shown_and_mended(dr: Command, fragile: Threaded) -> None:
    for i in range(12):
        assert dr("put", f"key-{i}", "v", "-w", "3").code == 0
    fragile.run(fragile.cluster.compared())
    assert dr("verify").code == 0
    gone = lose(fragile, "n2")
    assert gone > 0
    done = dr("verify")
    assert done.code == 9
    text = done.out.decode()
    assert "PARTITION" in text and "n2:1" in text and "key-" in text
    assert f"{gone} keys differ" in text
    known = dr("verify", "--json")
    assert known.code == 9 and known.json["schema"] == "dynamo_ray.verify/1"
    assert sum(one["keys"] for one in known.json["differences"]) == gone
    assert known.json["differences"][0]["examples"][0]["key"].startswith("key-")
    done = dr("repair", "run", "--json")
    assert done.code == 0 and done.json["schema"] == "dynamo_ray.repair/1" and done.json["whole"]
    assert sum(one["keys_received"] + one["keys_sent"] for one in done.json["nodes"]) >= gone
    assert "all copies that were read are equal" in dr("verify").out.decode()
    assert dr("verify", "--json").json["equal"] is True


def test_status_says_how_far_each_node_is(dr: Command, fragile: Threaded) -> None:
    assert dr("repair", "run").code == 0
    text = dr("repair", "status").out.decode()
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["n1", "n2", "n3", "n4", "n5"]
    known = dr("repair", "status", "--json").json
    assert known["schema"] == "dynamo_ray.repair_status/1"
    assert sum(node["comparisons"] for node in known["nodes"]) >= 256 * 3


def test_one_partition_or_one_that_there_is_not(dr: Command, fragile: Threaded) -> None:
    assert "1 partitions compared" in dr("verify", "--partition", "7").out.decode()
    assert dr("repair", "run", "--partition", "7").code == 0
    for words in (("verify",), ("repair", "run")):
        done = dr(*words, "--partition", "256")
        assert done.code == 2 and "the last one is 255" in done.err


def test_owners_that_are_away_are_9_and_said(dr: Command, fragile: Threaded) -> None:
    fragile.run(fragile.cluster.kill_node("n2"))
    done = dr("verify")
    assert done.code == 9 and "n2 did not give their copies" in done.out.decode()
    done = dr("repair", "run")
    assert done.code == 9
    assert "n2 did not answer to the end" in done.out.decode()
    assert "could not reach n2" in done.out.decode()
    known = dr("repair", "status")
    assert known.code == 0 and "down" in known.out.decode()
