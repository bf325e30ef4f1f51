"""What the paper says, section by section, and that it is so here (Dynamo, SOSP 2007).

Short on purpose: each test is a sentence of the paper, or our answer where it leaves one open.
"""

from __future__ import annotations

from collections import Counter
from hashlib import md5

from dynamo_ray.core.context import ContextKeys
from dynamo_ray.core.merge import merge
from dynamo_ray.core.mint import CONCURRENT, mint
from dynamo_ray.core.ring import Member, claim, partition_of
from dynamo_ray.core.version import clock_of, decode, values
from tests.core.histories import body, dot, node_id, shown
from tests.scenarios.stage import Stage

MEMBERS = [Member(node_id(letter), letter, zone=f"z{i % 3}") for i, letter in enumerate("abcdef")]


def stage(*commands: str) -> Stage:
    made = Stage()
    for command in commands:
        made.run(command)
    return made


def told(at: Stage, command: str) -> str:
    """What the client heard."""
    (line,) = [line for line in at.run(command) if line.startswith("client <- ")]
    return line.removeprefix("client <- ")


# 4.1 System interface


def test_4_1_get_returns_one_object_or_several_conflicting_ones_and_a_context() -> None:
    at = stage("cluster nodes=3", "put cart milk", "put cart eggs context=concurrent")
    assert told(at, "get cart") == "milk and eggs"
    assert at.contexts["cart"]


def test_4_1_the_context_is_stored_so_that_its_validity_can_be_verified() -> None:
    keys = ContextKeys(b"cluster", [b"secret"])
    token = keys.seal(b"cart", CONCURRENT)
    assert keys.open(b"cart", token) == CONCURRENT
    assert keys.open(b"another", token) is None


def test_4_1_md5_on_the_key_gives_a_128_bit_identifier() -> None:
    identifier = int.from_bytes(md5(b"cart", usedforsecurity=False).digest(), "big")
    for partitions in (1, 7, 256, 1000):
        assert partition_of(b"cart", partitions) == identifier * partitions >> 128


# 4.2 and 4.3 Partitioning and replication


def test_4_3_each_data_item_is_replicated_at_n_distinct_hosts() -> None:
    ring = claim(MEMBERS, 64)
    assert all(len(set(ring.owners(partition))) == 3 for partition in range(64))


def test_4_3_the_preference_list_contains_more_than_n_nodes_to_account_for_failures() -> None:
    ring = claim(MEMBERS, 64)
    for partition in range(64):
        assert ring.preference(partition)[:3] == ring.owners(partition)
        assert sorted(ring.preference(partition)) == sorted(m.node for m in MEMBERS)


def test_4_6_the_preference_list_is_spread_over_data_centers() -> None:
    ring = claim(MEMBERS, 64)
    zone = {member.node: member.zone for member in MEMBERS}
    for partition in range(64):
        assert len({zone[node] for node in ring.owners(partition)}) == 3


def test_6_2_load_is_even() -> None:
    ring = claim(MEMBERS, 256)
    slots = Counter(node for partition in range(256) for node in ring.owners(partition))
    assert set(slots.values()) == {256 * 3 // 6}


# 4.4 Data versioning


def test_4_4_most_of_the_time_new_versions_subsume_the_previous_ones() -> None:
    at = stage("cluster nodes=3", "put cart milk", "get cart", "put cart eggs context=cart")
    assert told(at, "get cart") == "eggs"


def test_4_4_figure_3_branches_are_reconciled_by_a_put_with_their_common_context() -> None:
    d2 = mint(None, dot("x", 1), None, body(b"D2")).state
    d3 = mint(d2, dot("y", 1), clock_of(d2), body(b"D3")).state
    d4 = mint(d2, dot("z", 1), clock_of(d2), body(b"D4")).state
    both = merge(d3, d4)
    assert values(decode(both)) == (b"D3", b"D4")
    d5 = mint(both, dot("x", 2), clock_of(both), body(b"D5")).state
    assert shown(merge(d5, both)) == {dot("x", 2): b"D5"}


def test_4_4_an_add_to_cart_operation_can_never_be_forgotten_or_rejected() -> None:
    """While W nodes can be reached: here all three owners are down and the put is accepted."""
    at = stage("cluster nodes=6", "crash n0", "crash n1", "crash n2", "suspect n0 n1 n2")
    assert told(at, "put cart milk") == "ok"


def test_4_4_a_clock_grows_with_the_nodes_that_mint_not_with_the_clients() -> None:
    at = stage("cluster nodes=3", *["get cart", "put cart x context=cart"] * 100)
    held, _ = at.actors["n0"].disk[b"cart"]
    assert len(decode(held).clock.vector) == 1


# 4.5 Execution of get and put


def test_4_5_r_and_w_set_how_many_nodes_must_take_part() -> None:
    at = stage("cluster nodes=3 r=1 w=3", "put cart milk", "crash n0", "crash n1")
    assert told(at, "get cart") == "milk"
    assert told(at, "put cart eggs w=1") == "ok"
    assert told(at, "put cart eggs strict") != "ok"


def test_4_5_setting_r_and_w_so_that_they_overlap_reads_what_was_written() -> None:
    """Both strict: every two of three owners meet in one. A sloppy quorum promises less."""
    for down in ("n0", "n1", "n2"):
        at = stage("cluster nodes=3", "put cart milk strict", f"crash {down}")
        assert told(at, "get cart strict") == "milk"


# 4.6 Hinted handoff


def test_4_6_a_replica_for_a_is_sent_to_d_with_a_hint_and_delivered_when_a_recovers() -> None:
    at = stage("cluster nodes=4", "crash n0", "put cart milk")
    assert at.run("hints") == ["n3 keeps cart for n0"]
    at.run("restart n0")
    at.run("tick")
    assert b"cart" in at.actors["n0"].disk and b"cart" not in at.actors["n3"].disk


def test_4_6_with_w_1_a_write_is_only_rejected_if_all_nodes_are_unavailable() -> None:
    at = stage("cluster nodes=4 w=1", *[f"crash n{i}" for i in range(3)], "suspect n0 n1 n2")
    assert told(at, "put cart milk") == "ok"
    at.run("crash n3")
    assert told(at, "put cart milk") == "unavailable, 0 of 1"


# 4.8.3 Failure detection


def test_4_8_3_a_may_consider_b_failed_if_b_does_not_respond_to_a() -> None:
    """And ends nobody's membership: the same ring goes on, and n0 owns what it owned."""
    at = stage("cluster nodes=4", "suspect n0")
    assert at.run("put cart milk")[0] == "co -> n1  Mint cart=milk"
    at.run("suspect")
    assert at.run("put cart milk")[0] == "co -> n0  Mint cart=milk"


# 5 Implementation


def test_5_read_repair_relieves_the_anti_entropy_protocol() -> None:
    at = stage("cluster nodes=3", "crash n2", "put cart milk", "restart n2")
    assert b"cart" not in at.actors["n2"].disk
    assert told(at, "get cart") == "milk"
    assert b"cart" in at.actors["n2"].disk


def test_5_the_same_write_twice_is_one_write() -> None:
    """The paper leaves retries out of its state machine; a put id makes them harmless."""
    at = stage("cluster nodes=3", "put cart milk id=1", "put cart milk id=1")
    held, _ = at.actors["n0"].disk[b"cart"]
    assert [version.dot.counter for version in decode(held).versions] == [1]
