"""Worlds and tapes that once failed, with their stories: seeds die with a change, tapes stay."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from dynamo_ray.core.messages import Code, Merge, Mint
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Settings
from dynamo_ray.sim.faults import Fault
from dynamo_ray.sim.network import Weather
from dynamo_ray.sim.plan import Plan
from dynamo_ray.sim.run import run_seed

MS = 1000


@dataclass(frozen=True)
class Story:
    """A run that once broke a rule."""

    name: str
    seed: int
    plan: Plan
    tape: tuple[Fault, ...]
    story: str


DISKS = Plan(
    real_storage=True,
    clients=3,
    operations=12,
    think_us=60 * MS,
    strict_share=1.0,
    suspect_s=0.3,
)
STORIES = (
    Story(
        "undone after its append",
        179,
        Plan(
            nodes=2,
            zones=2,
            coordinators=1,
            n=1,
            r=1,
            w=1,
            partitions=2,
            durability="synced",
            keys=2,
            styles=("cart", "set"),
            clients=4,
            operations=12,
            think_us=60 * MS,
            repeats=0,
            append_us=20 * MS,
            sync_us=500,
            suspect_s=0.3,
            sync_s=0.2,
            weather=Weather(delay_us=3000, tail_us=500),
        ),
        (
            Fault("full", "n2", at_us=410_950, for_us=591_830),
            Fault("power", "n1", at_us=1_341_807, for_us=280_299),
        ),
        "Under the level synced a mint waited for its fsync when the next append failed. The undo "
        "took it from the map although the log had it; then it was synced and acknowledged.",
    ),
    Story(
        "refused by the second coordinator",
        18,
        Plan(
            nodes=1,
            coordinators=3,
            n=1,
            r=1,
            w=1,
            durability="synced",
            clients=4,
            operations=5,
            think_us=5 * MS,
            timeout_ms=1500,
            repeats=0,
            strict_share=0.0,
            context_share=0.9,
            delete_share=0.0,
            append_us=20 * MS,
            sync_us=60 * MS,
            sync_s=0.2,
            weather=Weather(delay_us=500, tail_us=50, slow_share=0.2, slow_us=900 * MS),
        ),
        (
            Fault("coordinator", "c2", after=("c2", "ClientPut", 1), for_us=52_940),
            Fault("coordinator", "c1", after=("c1", "ClientPut", 1), for_us=52_940),
            Fault("crash", "n1", after=("n1", "Mint", 1), for_us=86_221),
        ),
        "A coordinator died after it had sent a mint, and the node after it had logged it. The "
        "next coordinator found nobody and said that nothing was applied; the client believed it.",
    ),
    Story(
        "a copy without a hint for ever",
        555,
        Plan(
            nodes=2,
            zones=3,
            n=1,
            r=1,
            w=1,
            partitions=8,
            keys=3,
            styles=("cart", "set", "concurrent"),
            clients=4,
            operations=23,
            think_us=60 * MS,
            timeout_ms=300,
            repeats=0,
            strict_share=0.0,
            context_share=0.9,
            delete_share=0.4,
            append_us=50,
            sync_us=5000,
            hint_bytes=400,
            sync_s=0.2,
            weather=Weather(delay_us=3000, tail_us=500, kept_by_cut=0.0),
        ),
        (
            Fault("full", "n2", at_us=800_000, for_us=150_000),
            Fault("full", "n1", after=("n2", "Merge", 1), for_us=364_408),
        ),
        "A stand-in had handed a copy home when its own disk was full, so that letting go was "
        "undone: the copy came back and its hint did not, and nobody would ever have let go of it.",
    ),
    Story(
        "nothing in the log, and sure of it",
        1,
        replace(DISKS, durability="memory", sync_s=5.0),
        (
            Fault("full", "n1", at_us=1, for_us=700 * MS),
            Fault("power", "n1", at_us=500 * MS, for_us=50 * MS),
        ),
        "At the level memory a node had acknowledged while its disk took nothing. After its end "
        "the log was as empty as that of a node that never ran, and nothing was doubted.",
    ),
    Story(
        "torn, or not read whole",
        4,
        replace(DISKS, nodes=4, clients=3, operations=10, think_us=30 * MS),
        tuple(Fault("unreadable", "n1", at_us=at * MS, for_us=60 * MS) for at in (150, 350, 550)),
        "A start was given less of the newest segment than it holds, which looked like the torn "
        "tail of a crash: it was cut, acknowledged records with it, and nothing was doubted.",
    ),
    Story(
        "a coordinator that knew nobody who was left",
        5148,
        Plan(nodes=1, n=1, r=1, w=1, newcomers=2, clients=3, operations=20, think_us=150 * MS),
        (
            Fault("join", "n1", at_us=250 * MS),
            Fault("replace", "n1", at_us=600 * MS),
            Fault("coordinator", "c2", at_us=1500 * MS, for_us=500 * MS),
        ),
        "It started again with what it was given when it was made, and all nodes of that time had "
        "gone: it found nobody, for ever. Each command teaches coordinators; here it did not.",
    ),
    Story(
        "replaced twice, and told of it piece by piece",
        1,
        Plan(
            nodes=4,
            n=1,
            r=1,
            w=1,
            newcomers=2,
            clients=3,
            operations=25,
            partitions=1,
            think_us=30 * MS,
            strict_share=0.0,
            context_share=0.2,
            delete_share=0.0,
            suspect_s=0.3,
        ),
        tuple(Fault("oust", "n1", at_us=at * MS) for at in (300, 340)),
        "A node that was replaced heard whose its slots were by now, and not yet that it had been "
        "replaced. So it let go of all it had, as if it had given that away; nobody else had it.",
    ),
    Story(
        "a promise that stood in the way",
        772,
        Plan(
            nodes=5,
            zones=2,
            durability="synced",
            keys=2,
            clients=4,
            think_us=20 * MS,
            timeout_ms=300,
            repeats=0,
            strict_share=1.0,
            odd_quorums=0.3,
            delete_share=0.0,
            many_share=0.2,
            weather=Weather(delay_us=100, tail_us=50, loss=0.02, repeat=0.3, kept_by_cut=1.0),
            append_us=20 * MS,
            sync_us=5 * MS,
            hint_bytes=1,
            sync_s=0.2,
            newcomers=3,
        ),
        (
            Fault("pause", "n4", at_us=131_352, for_us=84_138),
            Fault("oust", "n3", at_us=135_370),
            Fault("power", "n2", at_us=678_496, for_us=21_335),
            Fault("oust", "n3", at_us=763_876),
            Fault("full", "n5", at_us=708_973, for_us=39_675),
            Fault("pause", "n3", at_us=56_536, for_us=44_607),
            Fault("split", "n5", at_us=486_214, for_us=51_852),
            Fault("oust", "n3", at_us=96_025),
        ),
        "A slot had been promised to be kept, then its wish was overtaken by one for an owner of "
        "that partition. Nobody took the promise back: the node refused other slots for ever.",
    ),
    Story(
        "given to one that had been replaced",
        12,
        Plan(
            nodes=2,
            coordinators=1,
            n=1,
            r=1,
            w=1,
            styles=("blind",),
            clients=4,
            operations=16,
            think_us=20 * MS,
            timeout_ms=700,
            strict_share=1.0,
            odd_quorums=0.0,
            context_share=0.9,
            delete_share=0.4,
            many_share=0.2,
            ttl_share=0.2,
            weather=Weather(
                delay_us=3000, tail_us=500, slow_share=0.05, slow_us=900 * MS, repeat=0.05
            ),
            skew_ms=3_600_000,
            append_us=500,
            sync_us=5 * MS,
            real_storage=True,
            tick_s=0.2,
            newcomers=2,
        ),
        (
            Fault("oust", "n2", at_us=127_594),
            Fault("wipe", "n2", at_us=155_005, for_us=415_555),
            Fault("leave", "n1", at_us=293_798),
            Fault("full", "n1", at_us=424_400, for_us=165_158),
            Fault("full", "n1", at_us=541_158, for_us=368_904),
            Fault("full", "n1", at_us=545_708, for_us=345_803),
            Fault("power", "n1", at_us=561_867, for_us=315_706),
        ),
        "A node that did not know that another had been replaced gave it a partition, with N=1. "
        "It heard of that, and let go of its own copy as of one that its receiver has.",
    ),
    Story(
        "an owner of whom nobody had heard",
        185,
        Plan(
            nodes=2,
            zones=2,
            coordinators=3,
            n=1,
            r=1,
            w=1,
            partitions=2,
            keys=1,
            styles=("mixed",),
            operations=24,
            think_us=150 * MS,
            timeout_ms=300,
            repeats=0,
            strict_share=1.0,
            odd_quorums=0.0,
            context_share=0.2,
            delete_share=0.7,
            many_share=0.2,
            weather=Weather(delay_us=500, tail_us=50, loss=0.02, kept_by_cut=1.0),
            append_us=50,
            tick_s=0.1,
            timeout_max_s=0.3,
            linger_s=0.3,
            purge_s=0.05,
            grace_s=0.5,
            newcomers=3,
        ),
        (
            Fault("pause", "n2", at_us=296_979, for_us=5_567_261),
            Fault("replace", "n2", at_us=1_063_722),
            Fault("pause", "n1", for_us=1_373_833, after=("n1", "appended", 2)),
            Fault("split", "n1", at_us=3_270_252, for_us=6_996_165),
        ),
        "A node heard that a slot was another's by now, and not yet who that is. The slot fell to "
        "itself for want of an owner, and it took writes of which the owner knew nothing.",
    ),
)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_what_once_failed(story: Story) -> None:
    result = run_seed(story.seed, story.plan, story.tape)
    assert result.ok, f"{story.story}\n{result.report()}"


def test_a_retry_is_not_acknowledged_with_another_branch() -> None:
    """A stand-in had minted, handed home and forgotten; then another branch came, then the retry.

    It remembered the put id, held a state that knew nothing of the put, and answered ok with it:
    the coordinator would have spread that, and counted copies of what they did not hold.
    """
    settings = Settings(partitions=1)
    stand_in, other = (_replica(name, settings) for name in (b"stand-in", b"other..."))
    put = Mint([b"k"], [0], [b"v1"], [None], [b"put id of 16 byt"], [0], b"an owner")
    stand_in.on_mint("c1", put, 1000)
    stand_in.on_persisted(1)
    stand_in.on_tick(2000, frozenset())
    stand_in.on_delivered(b"an owner", stand_in.owned.__contains__)
    stand_in.on_persisted(2)
    assert stand_in.maps == [{}]

    mint = Mint([b"k"], [0], [b"v2"], [None], [b"another of 16 by"], [0])
    branch = other.on_mint("c1", mint, 1000)[-1].message.states[0]
    stand_in.on_merge("c1", Merge([b"k"], [0], [branch], b"an owner"))
    reply = stand_in.on_mint("c2", put, 3000)[-1]
    assert list(reply.message.codes) == [Code.UNKNOWN]


@pytest.mark.parametrize("seed", [100065, 100220])
def test_power_lost_on_the_way_of_an_answer_is_not_a_broken_quorum(seed: int) -> None:
    """With links of 900 ms a machine lost its power after its answer and before the client's.

    At the level `written` it may forget then what it logged; the checker called that a broken
    quorum, though nothing else was promised.
    """
    assert run_seed(seed).ok


def test_a_read_in_the_middle_of_a_reap_is_not_the_end() -> None:
    """The last read fetched a tombstone from owners that let go of it a moment later, and repaired
    the one that already had: for a while it alone held it. Reaping again is part of the plan.
    """
    assert run_seed(2840).ok


def test_a_client_all_of_whose_puts_run_out_of_time_comes_to_its_end() -> None:
    """With W = N and one message of seven lost, sixty puts took longer than two minutes.

    The run called that a client that never ended.
    """
    assert run_seed(4720).ok


def _replica(name: bytes, settings: Settings) -> Replica:
    replica = Replica(name, settings, [{}], frozenset())
    replica.on_incarnation(b"an incarnation")
    return replica
