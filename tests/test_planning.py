"""A change of nodes as it is wished: names, and what a wish refuses of a node as it is."""

from __future__ import annotations

import pytest

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.membership import View
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement, placed
from dynamo_ray.errors import BadRequestError, UnavailableError
from dynamo_ray.planning import member_of, name_for, newcomer, replacing, weighing

MEMBERS = tuple(Member(bytes([i]) * 8, f"n{i}", "z", 2.0) for i in range(1, 6))
PLACEMENT = placed(Charter(b"c" * 16, "carts", Settings(partitions=16), MEMBERS), View())
UP = {member.name: "up" for member in MEMBERS}
RING = PLACEMENT.ring


def without(name: str) -> Placement:
    return PLACEMENT.learn(View(ends={member_of(RING, name).node: b""}))


def test_a_new_node_has_the_next_name() -> None:
    assert name_for(None, PLACEMENT, ["n1", "n5"]) == "n6"
    assert name_for("cellar", PLACEMENT, ["n1"]) == "cellar"


def test_not_the_name_of_one_that_was_there() -> None:
    assert name_for(None, PLACEMENT, ["n12", "n", "nx", "lost+found"]) == "n13"
    assert name_for(None, without("n5"), []) == "n6"
    with pytest.raises(BadRequestError, match="'n6' is there already"):
        name_for("n6", PLACEMENT, ["n5", "n6"])


def test_not_the_name_of_a_founder_whose_directory_is_there_still() -> None:
    with pytest.raises(BadRequestError, match="'n5' is there already"):
        name_for("n5", without("n5"), ["n5"])
    assert name_for("n5", without("n5"), []) == "n5"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a:b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(BadRequestError, match="cannot be a name"):
        name_for(name, PLACEMENT, [])


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_what_is_no_weight(weight: float) -> None:
    with pytest.raises(BadRequestError, match="a weight is"):
        newcomer("n6", weight=weight)
    with pytest.raises(BadRequestError, match="a weight is"):
        weighing("n1", weight)(RING, UP)


@pytest.mark.parametrize("state", ["down", "silent", "read-only", "recovering", "failed"])
def test_who_is_not_up_hands_nothing_over(state: str) -> None:
    with pytest.raises(UnavailableError, match=f"'n2' is {state}"):
        weighing("n2", 0)(RING, {**UP, "n2": state})


def test_one_that_some_suspect_does() -> None:
    assert weighing("n2", 0)(RING, {**UP, "n2": "suspected by 1"}).moves


@pytest.mark.parametrize("state", ["up", "suspected by 2", "starting", "recovering"])
def test_who_is_there_or_coming_back_is_replaced_only_by_force(state: str) -> None:
    states = {**UP, "n2": state}
    with pytest.raises(BadRequestError, match=f"'n2' is {state}"):
        replacing("n2", newcomer("n6"))(RING, states)
    assert replacing("n2", newcomer("n6"), forced=True)(RING, states).moves


@pytest.mark.parametrize("state", ["down", "silent", "read-only", "failed"])
def test_a_replacement_has_the_old_ones_weight_and_slots(state: str) -> None:
    made = replacing("n2", newcomer("n6", "y"))(RING, {**UP, "n2": state})
    new = member_of(made.after, "n6")
    assert (new.weight, new.zone) == (2.0, "y")
    old = member_of(RING, "n2").node
    assert made.after.slots == tuple(new.node if s == old else s for s in RING.slots)
