"""Machines by the labels of their Ray nodes: what is read, in which order, and what cannot be."""

from __future__ import annotations

import pytest

from dynamo_ray.core.machines import Machine, freest, in_turns, machines_from, nodes_on
from dynamo_ray.core.settings import SettingsError


def labels(machine: str, zone: str = "", **more: str) -> dict[str, str]:
    found = {"dynamo-ray/machine": machine, "ray.io/node-id": "7a" * 28}
    return found | ({"dynamo-ray/zone": zone} if zone else {}) | more


def test_a_ray_node_without_the_label_holds_nothing() -> None:
    head, other = {"ray.io/node-id": "00" * 28}, {"dynamo-ray/zone": "a"}
    found = machines_from([(head, "192.0.2.1"), (labels("m1", "a"), "192.0.2.2"), (other, "")])
    assert found == [Machine("m1", "a", "192.0.2.2")]
    assert machines_from([(head, "192.0.2.1")]) == []


def test_the_zone_is_ours_or_else_ray_s_and_the_address_can_be_another() -> None:
    rays = {"ray.io/availability-zone": "z9"}
    assert machines_from([({**labels("m1"), **rays}, "192.0.2.2")])[0].zone == "z9"
    assert machines_from([({**labels("m1", "a"), **rays}, "192.0.2.2")])[0].zone == "a"
    second = {**labels("m1"), "dynamo-ray/address": "198.51.100.7"}
    assert machines_from([(second, "192.0.2.2")])[0].address == "198.51.100.7"


def test_two_ray_nodes_of_one_machine_are_one_and_two_machines_of_one_name_are_refused() -> None:
    twice = [(labels("m1", "a"), "192.0.2.2")] * 2
    assert len(machines_from(twice)) == 1
    for other in ((labels("m1", "a"), "192.0.2.3"), (labels("m1", "b"), "192.0.2.2")):
        with pytest.raises(SettingsError, match="give each machine a name of its own"):
            machines_from([*twice, other])


def test_zones_take_turns() -> None:
    many = [
        Machine(f"{zone}{i}", zone, "")
        for zone, count in zip("abc", (3, 1, 2), strict=True)
        for i in range(count)
    ]
    assert [one.name for one in in_turns(many)] == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert in_turns(reversed(many)) == in_turns(many)


def test_each_machine_has_one_node_unless_more_are_asked_for() -> None:
    three = [Machine(name, "", "") for name in "abc"]
    assert nodes_on(three, None, 3) == three
    assert nodes_on(three, 5, 3) == [*three, *three[:2]]
    assert nodes_on(three, 2, 2) == three[:2]


def test_one_more_node_goes_where_the_fewest_are() -> None:
    three = [Machine(name, "", "") for name in "abc"]
    assert freest(three, []) == three[0]
    assert freest(three, ["a", "c", "a"]) == three[1]
    assert freest(three, ["a", "b", "c", "gone"]) == three[0]
