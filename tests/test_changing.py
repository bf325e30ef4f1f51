"""What a commit wishes for, and what it refuses, whoever asks."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray import changing
from dynamo_ray.actors import fleet
from dynamo_ray.changing import Transfers, commit
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.membership import NODE_ROLE, Fact, View, view_from
from dynamo_ray.core.plan import rebalanced
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement, placed
from dynamo_ray.errors import UnsafeChangeError

MEMBERS = tuple(Member(bytes([i]) * 8, f"n{i}") for i in range(1, 6))
CHARTER = Charter(b"c" * 16, "carts", Settings(partitions=16), MEMBERS)


def unbalanced() -> Placement:
    """A node joined, and the command that should have wished for its share was interrupted."""
    new = Fact(b"i" * 16, 1, b"\x06" * 8, NODE_ROLE, "n6", "127.0.0.1", 7300)
    return placed(CHARTER, View().with_facts([new]))


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    rows: list[Any] = []
    monkeypatch.setattr(fleet, "handles", lambda name: [])
    monkeypatch.setattr(fleet, "teach", lambda handles, told: rows.append(told))
    return rows


def seen(patch: pytest.MonkeyPatch, placement: Placement, down: tuple[str, ...] = ()) -> None:
    names = [member.name for member in placement.ring.members]
    states = {name: {"state": "down" if name in down else "up"} for name in names}
    patch.setattr(changing, "look", lambda name: (placement, Transfers(0, 0, 0, {}), states))


def test_a_commit_wishes_for_what_balance_asks(
    monkeypatch: pytest.MonkeyPatch, taught: list[Any]
) -> None:
    placement = unbalanced()
    due = rebalanced(placement.ring)
    assert due.moves
    seen(monkeypatch, placement)
    assert commit("carts") == len(due.moves)
    after = placed(CHARTER, view_from(taught[0]))
    assert {slot: wish.receiver for slot, wish in after.under_way.items()} == due.receivers
    seen(monkeypatch, after)
    assert commit("carts") == 0, "while something is under way nothing is planned"


def test_it_moves_nothing_of_which_too_few_copies_are_up_unless_forced(
    monkeypatch: pytest.MonkeyPatch, taught: list[Any]
) -> None:
    seen(monkeypatch, unbalanced(), down=("n1", "n2", "n3"))
    with pytest.raises(UnsafeChangeError):
        commit("carts")
    assert taught == []
    assert commit("carts", forced=True) > 0 and len(taught) == 1
