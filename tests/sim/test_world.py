"""The simulated world itself: time, hosts, links, the disk, and the picture of a run."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from dynamo_ray.sim.disk import SimulatedDisk
from dynamo_ray.sim.faults import Fault
from dynamo_ray.sim.network import Network, Peer, Weather
from dynamo_ray.sim.plan import Plan
from dynamo_ray.sim.run import Run
from dynamo_ray.sim.world import Host, World
from dynamo_ray.storage.errors import WriteFailedError

STEADY = Weather(delay_us=1000, tail_us=0, kept_by_cut=1.0)


class Echo(Peer):
    """Answers every call with what it was asked, and remembers what it was told."""

    def __init__(self, network: Network, name: str) -> None:
        super().__init__(network.world, network, name)
        self.told: list[Any] = []

    def on_call(
        self, src: Peer, call: int, message: Any, expires_ms: int, epoch: bytes | None
    ) -> None:
        self.told.append((message, expires_ms - self.mono_ms))
        self.answer(src, call, message)

    def ask(self, dst: Peer, message: Any) -> list[Any]:
        ends: list[Any] = []
        self.call(dst, message, 0.5, ends.append, lambda maybe: ends.append(maybe))
        return ends


@pytest.fixture
def pair() -> tuple[World, Echo, Echo]:
    world = World(1)
    network = Network(world, STEADY)
    one, other = Echo(network, "one"), Echo(network, "other")
    one.offset_us, other.offset_us = 5_000_000, 90_000_000
    return world, one, other


def test_events_of_one_moment_happen_in_the_order_of_planning() -> None:
    world, said = World(1), []
    for number in range(5):
        world.plan(10, None, "say", said.append, (number,))
    world.run_until(10)
    assert said == [0, 1, 2, 3, 4]


def test_a_crash_takes_away_what_the_host_had_planned() -> None:
    world, said = World(1), []
    host = Host(world, "one")
    host.after(10, "say", said.append, "never")
    host.end_run()
    host.up = True
    host.after(20, "say", said.append, "later")
    world.run_until(100)
    assert said == ["later"]


def test_a_paused_host_handles_everything_late_and_in_order() -> None:
    world, said = World(1), []
    host = Host(world, "one")
    for number in range(3):
        host.after(10 * number, "say", said.append, number)
    host.paused = True
    world.run_until(1000)
    assert said == []
    host.resume()
    world.run_until(2000)
    assert said == [0, 1, 2]


def test_a_request_expires_by_the_clock_of_its_receiver(pair: tuple[World, Echo, Echo]) -> None:
    world, one, other = pair
    assert one.ask(other, "first") == []
    world.run_until(10_000)
    assert other.told == [("first", 499)]


def test_calls_end_unsent_lost_or_not_at_all(pair: tuple[World, Echo, Echo]) -> None:
    world, one, other = pair
    one.network.cut(one, other)
    silent = one.ask(other, "into a cut")
    world.run_until(1_000_000)
    assert silent == []
    one.network.heal_all()
    lost = one.ask(other, "before the crash")
    other.end_run()
    other.break_off()
    world.run_until(2_000_000)
    assert lost == [True], "it may have been applied"
    assert one.ask(other, "to nobody") == [False], "it was never sent"


def test_what_a_cut_kept_arrives_late(pair: tuple[World, Echo, Echo]) -> None:
    world, one, other = pair
    one.network.cut(one, other)
    ends = one.ask(other, "late")
    world.run_until(700_000)
    one.network.heal(one, other)
    world.run_until(800_000)
    assert other.told == [("late", -201)]
    assert ends == ["late"]


def test_a_power_loss_keeps_what_was_synced_and_any_part_of_the_rest() -> None:
    kept = set()
    for seed in range(50):
        disk = SimulatedDisk("n1", Random(seed))
        disk.write("log", [b"synced"])
        disk.sync("log")
        disk.sync_dir("")
        disk.append("log", b"+rest")
        disk.write("new", [b"never synced"])
        disk.lose_power()
        kept.add(disk.read("log"))
        assert disk.read("log").startswith(b"synced")
        assert not disk.exists("new") or b"never synced".startswith(disk.read("new"))
    assert kept == {b"synced+rest"[:size] for size in range(6, 12)}


def test_the_end_of_a_process_loses_no_byte() -> None:
    disk = SimulatedDisk("n1", Random(1))
    disk.lock("LOCK")
    disk.write("log", [b"not synced"])
    disk.end_process()
    disk.lock("LOCK")
    assert disk.read("log") == b"not synced"


def test_a_rename_is_there_whole_or_not_at_all() -> None:
    for seed in range(20):
        disk = SimulatedDisk("n1", Random(seed))
        disk.write("old", [b"x"])
        disk.sync("old")
        disk.sync_dir("")
        disk.rename("old", "new")
        disk.lose_power()
        assert disk.names("") in (["old"], ["new"])


def test_a_full_disk_takes_a_part_and_says_how_much() -> None:
    disk = SimulatedDisk("n1", Random(3))
    disk.write("log", [b""])
    disk.room = 4
    with pytest.raises(WriteFailedError) as raised:
        disk.append("log", b"ten bytes.")
    assert disk.size("log") == raised.value.written == 4
    disk.truncate("log", 0)
    assert disk.size("log") == 0


def test_a_run_can_draw_itself() -> None:
    run = Run(1, Plan(clients=1, operations=3), (Fault("crash", "n1", at_us=1000),), trace=True)
    run.begin()
    run.work()
    run.calm()
    picture = run.result(ladder=True).ladder.splitlines()
    assert picture[0].split() == ["t", "(ms)", "client1", "c1", "c2", "n1", "n2", "n3"]
    assert any("** crash n1 **" in line for line in picture)
    assert any("ClientPut" in line for line in picture)
