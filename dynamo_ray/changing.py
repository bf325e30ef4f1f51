"""How an operator lets storage nodes come and go (Dynamo §4.8.1, §4.9): the commands, step by step.

    add       a new node starts, says that it is there, and gets its share
    drain     a node's weight becomes 0: what it owns goes to the others, and it stays
    remove    it is drained; once it has nothing left it is removed, and its process ends
    replace   a node is gone for good: a new one owns what it owned, copied from the other owners

No command holds anything together: what is wished is a part of the view, each owner gives its slots
away by itself (core/handover.py), and a command only looks on. So one that is interrupted does no
harm, goes on without its caller, and may be given again. What has to move is planned anew whenever
nothing is under way, so commands that were given at the same time end in one balanced ring.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamo_ray.core.machines import MACHINE, ZONE, Machine, freest
from dynamo_ray.core.membership import View
from dynamo_ray.core.plan import Plan
from dynamo_ray.core.ring import Member
from dynamo_ray.core.slots import Placement, placed
from dynamo_ray.errors import BadRequestError, UnavailableError
from dynamo_ray.planning import (
    Wish,
    adding,
    balancing,
    check_safety,
    member_of,
    name_for,
    newcomer,
    replacing,
    weighing,
)

# A look asks all members, which takes their time from clients: what takes long is looked at less.
LOOK_S, LOOK_S_MAX = 0.2, 2.0


@dataclass(frozen=True, slots=True)
class Transfers:
    """How far slots are on their way: how many are left, and what each giver does now.

    `giving` is by the giver's name what its status says (docs/operating.md); `keys` and `bytes` is
    what all of them have sent since they started.
    """

    left: int
    keys: int
    bytes: int
    giving: dict[str, dict[str, Any]]


Moved = Callable[[Transfers], None]


def nobody(transfers: Transfers) -> None:
    """Nobody wants to hear how far it is."""


def _wait(condition: Callable[[], bool], deadline: float, what: str) -> None:
    """Look on, bounded. Raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"gave up waiting for {what}, which goes on all the same")
        time.sleep(_rest_s(time.monotonic() - began))


def look(name: str) -> tuple[Placement, Transfers, dict[str, dict[str, Any]]]:
    """Who owns what by now, what is on its way, and each node's description."""
    from dynamo_ray.actors import fleet

    place, described = fleet.survey(name)
    placement = placed(place.charter, place.view)
    giving = {node: one["handover"] for node, one in described.items() if "handover" in one}
    moving = {node: one for node, one in giving.items() if one["left"] or one["step"]}
    keys, size = (sum(one[what] for one in giving.values()) for what in ("keys", "bytes"))
    return placement, Transfers(len(placement.under_way), keys, size, moving), described


def commit(name: str, forced: bool = False) -> int:
    """Wish for what makes the ring balanced, if nothing is under way; how many slots that moves.

    Raises UnsafeChangeError where what would move has fewer than W living copies.
    """
    from dynamo_ray.actors import fleet

    placement, _, described = look(name)
    if placement.under_way:
        return 0
    made = _checked(balancing(), placement, described, forced)
    if made.moves:
        view = placement.with_wishes(made.receivers.items(), _stamp())
        fleet.teach(fleet.handles(name), view.to_rows())
    return len(made.moves)


def settle(name: str, timeout_s: float, moved: Moved = nobody, forced: bool = False) -> None:
    """Commit until nothing has to move. Raises as `commit`, and TimeoutError.

    What moves goes on all the same.
    """
    began = time.monotonic()
    while True:
        _, transfers, _ = look(name)
        moved(transfers)
        if not transfers.left and not commit(name, forced):
            return
        passed_s = time.monotonic() - began
        if passed_s > timeout_s:
            raise TimeoutError(
                f"{transfers.left} copies of partitions are still on their way after"
                f" {timeout_s:g} s, and go on moving"
            )
        time.sleep(_rest_s(passed_s))


def _rest_s(passed_s: float) -> float:
    """How long to rest before the next look, after so long: it comes a twentieth too late."""
    return min(LOOK_S_MAX, max(LOOK_S, passed_s / 20))


@dataclass(frozen=True, slots=True)
class Site:
    """Where a new node is to be, and as what; `machine` is empty where machines have no names."""

    node: str
    zone: str
    machine: str
    folder: str


def site_for(name: str, node: str | None, zone: str = "", old: str | None = None) -> Site:
    """Where a new node of the cluster is to be: named `node`, or by the next name that is free.

    On several machines it goes where the fewest are, or where the `old` one is that it replaces,
    and into the zone of that one. Raises BadRequestError for a name that is none, or under which
    something lies there already.
    """
    from dynamo_ray.actors.placement import do_on

    placement, _, described = look(name)
    known = [one["data_dir"] for one in described.values() if "data_dir" in one]
    if not known:
        raise UnavailableError(1, 0, "no storage node answers")
    replaced = None if old is None else member_of(placement.ring, old)
    home = _home(placement, "" if replaced is None else replaced.machine)
    if home and zone:
        raise BadRequestError(f"zones come from the Ray nodes' label {ZONE}; leave it out")
    zone = home.zone if home else zone if replaced is None else replaced.zone
    machine, folder = home.name if home else "", Path(known[0]).parent
    left = do_on(machine, names_in, folder)
    node = name_for(node, placement, left)
    return Site(node, zone, machine, str(folder / node))


def names_in(folder: Path) -> list[str]:
    """What lies in a folder of this machine."""
    return os.listdir(folder) if folder.is_dir() else []


def _home(placement: Placement, preferred: str = "") -> Machine | None:
    """The machine for a new node: that one if it is there; None where machines have no names."""
    from dynamo_ray.actors.placement import machines

    used = [member.machine for member in placement.ring.members]
    if not any(used):
        return None
    there = machines()
    if not there:
        raise BadRequestError(f"no machine with the label {MACHINE} answers; see docs/machines.md")
    same = (machine for machine in there if machine.name == preferred)
    return next(same, None) or freest(there, used)


def add(
    name: str, node: str | None, zone: str = "", weight: float = 1.0, forced: bool = False
) -> str:
    """Start a new node, which owns nothing yet; its name.

    Raises BadRequestError, and UnsafeChangeError where a partition that moves has fewer than W
    living copies.
    """
    site = site_for(name, node, zone)
    member = newcomer(site.node, site.zone, weight, site.machine)
    _agree(name, adding(member), forced)
    _start(name, member, site.folder, View())
    return member.name


def drain(name: str, node: str, weight: float = 0.0, forced: bool = False) -> None:
    """Let a node own nothing any more, or its share of another weight.

    Raises BadRequestError, UnavailableError, and UnsafeChangeError where a partition that moves has
    fewer than W living copies.
    """
    from dynamo_ray.actors import fleet

    _agree(name, weighing(node, weight), forced)
    fleet.weigh(name, node, weight)


def is_empty(name: str, node: str) -> bool:
    """True if a node owns nothing and keeps nothing for others: it may go."""
    placement, _, described = look(name)
    told = described.get(node, {})
    is_quiet = told.get("state") == "up" and not told["hints"] and not told["owned"]
    return is_quiet and not placement.owned(member_of(placement.ring, node).node)


def end(name: str, node: str) -> None:
    """A node that has nothing left is a member no more, and its process ends. Its data stays."""
    from dynamo_ray.actors import fleet

    placement, _, _ = look(name)
    view = View(ends={member_of(placement.ring, node).node: b""})
    fleet.teach(fleet.handles(name), view.to_rows())
    time.sleep(1.0)  # whoever asks it meanwhile is told who owns what now
    fleet.end(name, node)


def end_removed(name: str) -> None:
    """End the processes of members of before: a command was interrupted before it could."""
    from dynamo_ray.actors import fleet

    _, _, described = look(name)
    for node, told in described.items():
        if told["state"] == "removed":
            fleet.end(name, node)


def take_over(name: str, old: str, node: str | None, forced: bool = False) -> str:
    """Start a new node in the place of one that is gone for good; its name.

    Raises BadRequestError if the old one answers (unless `forced`), UnsafeChangeError where what it
    owned has fewer than W other living copies.
    """
    from dynamo_ray.actors import fleet

    site = site_for(name, node, old=old)
    new = newcomer(site.node, site.zone, machine=site.machine)
    made = _agree(name, replacing(old, new, forced), forced)
    (gone,) = made.dead
    member = member_of(made.after, site.node)
    fleet.end(name, old)
    _start(name, member, site.folder, View(ends={gone: member.node}))
    return member.name


def doubted(name: str, node: str) -> int:
    """How much of what a node owns it cannot prove to hold yet (DESIGN rule 9)."""
    placement, _, described = look(name)
    told = described.get(node, {})
    owned = len(placement.owned(member_of(placement.ring, node).node))
    is_told = told.get("state") == "up" and told["owned"] == owned
    return int(told["doubted"]) if is_told else owned


def _agree(name: str, wish: Wish, forced: bool) -> Plan:
    """What a wish would do to the cluster as it is now. Raises what speaks against it."""
    placement, _, described = look(name)
    return _checked(wish, placement, described, forced)


def _checked(
    wish: Wish, placement: Placement, described: dict[str, dict[str, Any]], forced: bool
) -> Plan:
    states = {name: one["state"] for name, one in described.items()}
    made = wish(placement.ring, states)
    check_safety(made, states, placement.charter.settings.w, forced)
    return made


def _start(name: str, member: Member, folder: str, known: View) -> None:
    from dynamo_ray.actors import fleet

    place, _ = fleet.survey(name)
    rows = placed(place.charter, place.view).learn(known).view.to_rows()
    fleet.join(place, member, folder, rows)


def _stamp() -> bytes:
    """Later commands come after earlier ones, as far as clocks agree."""
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(8)


class Changing:
    """What a Cluster can be told about its storage nodes; `name` is the cluster's."""

    name: str

    def add_node(
        self,
        name: str | None = None,
        *,
        zone: str = "",
        weight: float = 1.0,
        force: bool = False,
        timeout_s: float = 600.0,
        moved: Moved = nobody,
    ) -> str:
        """A new storage node joins and gets its share of the data while clients go on; its name.

        Waits until the ring is balanced; after `timeout_s` TimeoutError, and the copies go on
        moving. `moved` hears how far they are. Raises BadRequestError for a name that is taken, and
        UnsafeChangeError, unless `force`, where a partition has fewer than W living copies.
        """
        node = add(self.name, name, zone, weight, force)
        settle(self.name, timeout_s, moved, force)
        return node

    def drain_node(
        self,
        name: str,
        *,
        weight: float = 0.0,
        force: bool = False,
        timeout_s: float = 600.0,
        moved: Moved = nobody,
    ) -> None:
        """What a node owns goes to others until it owns nothing, or its share by another `weight`.

        It stays a member, and may stand in. Raises UnsafeChangeError, unless `force`, where a
        partition has fewer than W living copies; TimeoutError as `add_node`.
        """
        drain(self.name, name, weight, force)
        settle(self.name, timeout_s, moved, force)

    def remove_node(
        self,
        name: str,
        *,
        force: bool = False,
        timeout_s: float = 600.0,
        moved: Moved = nobody,
    ) -> None:
        """A node hands over all that it has, and then is a member no more. Its data stays on disk.

        Raises as `drain_node`, and TimeoutError while it keeps copies for nodes that are away.
        """
        deadline = time.monotonic() + timeout_s
        self.drain_node(name, force=force, timeout_s=timeout_s, moved=moved)
        _wait(lambda: is_empty(self.name, name), deadline, f"{name} to be empty")
        end(self.name, name)

    def replace_node(
        self,
        old: str,
        new: str | None = None,
        *,
        force: bool = False,
        timeout_s: float = 600.0,
        moved: Moved = nobody,
    ) -> str:
        """A new node takes the place of one that is gone for good; its name.

        What the old one owned is copied from the other owners; `moved` hears how many copies are
        left. That cannot be taken back: the old node serves nobody any more, should it return.
        Raises BadRequestError if it is up, and UnsafeChangeError where fewer than W other copies
        live, unless `force`; TimeoutError.
        """
        deadline = time.monotonic() + timeout_s
        node = take_over(self.name, old, new, force)

        def is_whole() -> bool:
            left = doubted(self.name, node)
            moved(Transfers(left, 0, 0, {}))
            return not left

        _wait(is_whole, deadline, f"{node} to be whole")
        return node

    def rebalance(
        self, *, force: bool = False, timeout_s: float = 600.0, moved: Moved = nobody
    ) -> None:
        """Go on with changes of nodes that were interrupted, until every node has its share.

        Processes of nodes that were removed end, if some are left. Raises as `drain_node`.
        """
        settle(self.name, timeout_s, moved, force)
        end_removed(self.name)
