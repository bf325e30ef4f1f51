"""node add, drain, remove, replace, ring commit and ring transfers: nodes that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .cluster import agreed, attached_by_ray
from .exits import CommandError, Exit
from .options import Change, Json, Target
from .reach import connected, name_of
from .rings import shown_plan

if TYPE_CHECKING:
    from dynamo_ray.changing import Transfers
    from dynamo_ray.cluster import Cluster

LOOK_S = 1.0  # each look takes all members' time from clients
WAIT_S = 3600.0
STATUS = "`doubted` in `dynamo-ray status --json`"
AGAIN = "`dynamo-ray ring transfers` shows how far it is, `dynamo-ray ring commit` waits for it"

Wait = Annotated[
    float,
    typer.Option(
        "--wait", metavar="SECONDS", min=0.1, max=604_800, help="How long to look on, at most."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Also where fewer than W copies are up.")]
Node = Annotated[
    str, typer.Argument(metavar="NODE", show_default=False, help="The node's name, as n1.")
]


def add(
    target: Target,
    change: Change,
    node: Annotated[
        str | None,
        typer.Argument(metavar="[NODE]", show_default=False, help="Its name; the next one free."),
    ] = None,
    zone: Annotated[str, typer.Option("--zone", metavar="ZONE", help="The zone it is in.")] = "",
    weight: Annotated[
        float, typer.Option("--weight", metavar="W", min=0, help="Its share of the data.")
    ] = 1.0,
    force: Force = False,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Add a storage node: it joins, and gets its share while clients go on."""
    from dynamo_ray.changing import site_for
    from dynamo_ray.planning import adding, newcomer

    cluster = _attached(target)
    site = site_for(cluster.name, node, zone)
    wish = adding(newcomer(site.node, site.zone, weight, site.machine))
    name, plan = site.node, asyncio.run(shown_plan(target, wish, force))
    if not agreed(change, f"add node {name} to cluster {cluster.name}"):
        return
    with _looking_on(AGAIN) as moved:
        given: dict[str, Any] = {"zone": zone, "weight": weight, "force": force}
        cluster.add_node(name, **given, timeout_s=wait, moved=moved)
    _told(as_json, "node_add", cluster, name, plan, f"{name} has joined {cluster.name}")


def drain(
    target: Target,
    change: Change,
    node: Node,
    weight: Annotated[
        float,
        typer.Option("--weight", metavar="W", min=0, help="The share it is to have from now on."),
    ] = 0.0,
    force: Force = False,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Let a node own nothing any more, before work on its machine; with --weight, give it back."""
    from dynamo_ray.planning import weighing

    cluster = _attached(target)
    plan = asyncio.run(shown_plan(target, weighing(node, weight), force))
    if not agreed(change, f"give node {node} of cluster {cluster.name} the weight {weight:g}"):
        return
    with _looking_on(AGAIN) as moved:
        cluster.drain_node(node, weight=weight, force=force, timeout_s=wait, moved=moved)
    ended = f"{node} has the share that its weight, {weight:g}, gives it"
    _told(as_json, "node_drain", cluster, node, plan, ended)


def remove(
    target: Target,
    change: Change,
    node: Node,
    force: Force = False,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Remove a storage node: it hands over all it has first. Its data stays on its disk."""
    from dynamo_ray.planning import weighing

    cluster = _attached(target)
    plan = asyncio.run(shown_plan(target, weighing(node, 0), force))
    if not agreed(change, f"remove node {node} from cluster {cluster.name}"):
        return
    again = f"`dynamo-ray node remove {node}`, given again, removes it once it has nothing left"
    with _looking_on(again) as moved:
        cluster.remove_node(node, force=force, timeout_s=wait, moved=moved)
    ended = f"{node} has left {cluster.name}; its directory stays as it is"
    _told(as_json, "node_remove", cluster, node, plan, ended)


def replace(
    target: Target,
    change: Change,
    old: Annotated[
        str, typer.Argument(metavar="OLD", show_default=False, help="The node that is gone.")
    ],
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="NEW", show_default=False, help="The new one's name."),
    ] = None,
    force: Force = False,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Put a new node in the place of one that is gone for good. It cannot be taken back."""
    from dynamo_ray.changing import site_for
    from dynamo_ray.planning import newcomer, replacing

    cluster = _attached(target)
    site = site_for(cluster.name, by, old=old)
    wish = replacing(old, newcomer(site.node, site.zone, machine=site.machine), force)
    name, plan = site.node, asyncio.run(shown_plan(target, wish, force))
    if not agreed(change, f"replace node {old} of cluster {cluster.name} by {name}, for good"):
        return
    with _looking_on(f"{STATUS} says how much {name} has to copy yet") as moved:
        cluster.replace_node(old, name, force=force, timeout_s=wait, moved=moved)
    _told(as_json, "node_replace", cluster, name, plan, f"{name} has all that {old} owned")


def commit(
    target: Target,
    change: Change,
    force: Force = False,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Go on with changes of nodes that were interrupted, until every node has its share."""
    from dynamo_ray.planning import balancing

    cluster = _attached(target)
    plan = asyncio.run(shown_plan(target, balancing(), force))
    if not agreed(change, f"give every node of cluster {cluster.name} its share"):
        return
    with _looking_on(AGAIN) as moved:
        cluster.rebalance(force=force, timeout_s=wait, moved=moved)
    _told(as_json, "ring_commit", cluster, None, plan, f"the ring of {cluster.name} is balanced")


async def transfers(
    target: Target,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look on until nothing moves any more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which copies of partitions are on their way to another node. Exit 9 if any are."""
    from dynamo_ray.survey import status

    bar = _Bar()
    while True:
        async with connected(target, members_only=True) as connection:
            known = await status(connection.client.session, connection.credentials)
            wished = len(connection.client.session.placement().under_way)
        # Who was asked may not have heard yet; of a giver that is away only the view tells.
        left = max(wished, sum(node.handover.get("left", 0) for node in known.nodes))
        if not watch or not left:
            break
        bar.at(left, sum(node.handover.get("bytes", 0) for node in known.nodes))
        await asyncio.sleep(LOOK_S)
    bar.end()
    giving = [
        {"name": node.name, **node.handover}
        for node in known.nodes
        if node.handover.get("left") or node.handover.get("step")
    ]
    if as_json:
        render.show_json({"schema": "dynamo_ray.transfers/1", "left": left, "giving": giving})
    else:
        _show_giving(left, giving)
    if left:
        raise SystemExit(Exit.DEGRADED)


def _show_giving(left: int, giving: list[dict[str, Any]]) -> None:
    if not left:
        render.show("no copy of a partition is on its way")
        return
    rows = [
        (
            one["name"],
            "-" if one["partition"] is None else f"p{one['partition']}",
            one["to"] or "-",
            one["step"] or "waiting",
            f"{one['left']:,}",
            f"{one['keys']:,}",
            render.size(one["bytes"]),
        )
        for one in giving
    ]
    heads = ("FROM", "PARTITION", "TO", "STEP", "LEFT", "KEYS SENT", "BYTES")
    head, *lines = render.table(heads, rows, right=frozenset({4, 5, 6}))
    render.show(head, "dim")
    for line in lines:
        render.show(line)
    render.show(f"copies of partitions on their way: {left:,}")


class _Bar:
    """How many copies are left of the most that were seen to be on their way."""

    def __init__(self) -> None:
        self._bar = render.Progress("moving", 1.0)
        self._most = 0

    def moved(self, transfers: Transfers) -> None:
        """As a change of nodes tells it."""
        self.at(transfers.left, transfers.bytes)

    def at(self, left: int, size: int) -> None:
        """So many copies are left, and so many bytes were sent."""
        self._most = max(self._most, left)
        if self._most:
            sent = f", {render.size(size)} sent" if size else ""
            text = f"{self._most - left:,} of {self._most:,} copies{sent}"
            self._bar.at(1 - left / self._most, text)

    def end(self) -> None:
        """Take it away."""
        self._bar.end()


@contextmanager
def _looking_on(how: str) -> Iterator[Callable[[Transfers], None]]:
    """A bar for what goes on by itself; who interrupts the command is told `how` to look on."""
    bar = _Bar()
    try:
        yield bar.moved
    except KeyboardInterrupt as error:
        told = f"interrupted; what has begun goes on without this command: {how}"
        raise CommandError(Exit.INTERRUPTED, told) from error
    except TimeoutError as error:
        raise CommandError(Exit.DEGRADED, f"{error}; {how}") from error
    finally:
        bar.end()


def _attached(target: Target) -> Cluster:
    from dynamo_ray.config import load_profile

    name = name_of(target)
    return attached_by_ray(name, load_profile(name))


def _told(
    as_json: bool,
    what: str,
    cluster: Cluster,
    node: str | None,
    plan: dict[str, Any],
    sentence: str,
) -> None:
    """The end of a command: for programs with its node and how many copies its plan moved."""
    if not as_json:
        render.say(sentence)
        return
    told: dict[str, Any] = {"schema": f"dynamo_ray.{what}/1", "name": cluster.name}
    if node is not None:
        told["node"] = node
    render.show_json(told | {"moves": plan["moves"]})
