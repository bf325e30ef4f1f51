"""node add, drain, remove, replace, ring commit and ring transfers: nodes that come and go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .cluster import agreed, attached_by_ray
from .exits import Exit
from .options import Change, Json, Target
from .reach import connected, name_of
from .rings import shown_plan

if TYPE_CHECKING:
    from dynamo_ray.changing import Transfers
    from dynamo_ray.cluster import Cluster

LOOK_S = 0.5
WAIT_S = 3600.0

Wait = Annotated[
    float,
    typer.Option(
        "--wait", metavar="SECONDS", min=0.1, max=604_800, help="How long to look on, at most."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Also where fewer than W copies are left to copy from.")
]
Place = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        show_default=False,
        help="The new node's own directory; beside the others' by default.",
    ),
]
Node = Annotated[
    str, typer.Argument(metavar="NODE", show_default=False, help="The node's name, as n1.")
]


async def add(
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
    data_dir: Place = None,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Add a storage node: it joins, and gets its share while clients go on."""
    cluster = _attached(target)
    name = node or await _next_name(target)
    plan = await shown_plan(target, add=[f"{name}:{zone}:{weight:g}"])
    if not agreed(change, f"add node {name} to cluster {cluster.name}"):
        return
    bar = _Bar()
    cluster.add_node(
        name, zone=zone, weight=weight, data_dir=data_dir, timeout_s=wait, moved=bar.moved
    )
    bar.end()
    _told(as_json, "node_add", cluster, name, plan, f"{name} has joined {cluster.name}")


async def drain(
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
    cluster = _attached(target)
    if not agreed(change, f"give node {node} of cluster {cluster.name} the weight {weight:g}"):
        return
    bar = _Bar()
    cluster.drain_node(node, weight=weight, force=force, timeout_s=wait, moved=bar.moved)
    bar.end()
    _told(as_json, "node_drain", cluster, node, {}, f"{node} has what its weight gives it")


async def remove(
    target: Target,
    change: Change,
    node: Node,
    force: Force = False,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Remove a storage node: it hands over all it has first. Its data stays on its disk."""
    cluster = _attached(target)
    plan = await shown_plan(target, remove=[node], forced=force)
    if not agreed(change, f"remove node {node} from cluster {cluster.name}"):
        return
    bar = _Bar()
    cluster.remove_node(node, force=force, timeout_s=wait, moved=bar.moved)
    bar.end()
    _told(as_json, "node_remove", cluster, node, plan, f"{node} has left {cluster.name}")


async def replace(
    target: Target,
    change: Change,
    old: Annotated[
        str, typer.Argument(metavar="OLD", show_default=False, help="The node that is gone.")
    ],
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="NEW", show_default=False, help="The new one's name."),
    ] = None,
    data_dir: Place = None,
    force: Force = False,
    wait: Wait = WAIT_S,
    as_json: Json = False,
) -> None:
    """Put a new node in the place of one that is gone for good. It cannot be taken back."""
    cluster = _attached(target)
    name = by or await _next_name(target)
    plan = await shown_plan(target, replaced=[f"{old}:{name}"], forced=force)
    if not agreed(change, f"replace node {old} of cluster {cluster.name} by {name}, for good"):
        return
    cluster.replace_node(old, name, data_dir=data_dir, force=force, timeout_s=wait)
    _told(as_json, "node_replace", cluster, name, plan, f"{name} has all that {old} owned")


async def commit(
    target: Target, change: Change, wait: Wait = WAIT_S, as_json: Json = False
) -> None:
    """Go on with changes of nodes that were interrupted, until every node has its share."""
    cluster = _attached(target)
    if not agreed(change, f"give every node of cluster {cluster.name} its share"):
        return
    bar = _Bar()
    cluster.rebalance(timeout_s=wait, moved=bar.moved)
    bar.end()
    _told(as_json, "ring_commit", cluster, "", {}, f"the ring of {cluster.name} is balanced")


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
            left = len(connection.client.session.placement().under_way)
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
    render.show(f"{left:,} copies of partitions are on their way")


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
        done = 1 - left / self._most if self._most else 1.0
        of = f"{self._most - left:,} of {self._most:,} copies"
        self._bar.at(done, f"{of}, {render.size(size)} sent")

    def end(self) -> None:
        """Take it away."""
        self._bar.end()


def _attached(target: Target) -> Cluster:
    from dynamo_ray.config import load_profile

    name = name_of(target)
    return attached_by_ray(name, load_profile(name))


async def _next_name(target: Target) -> str:
    from dynamo_ray.changing import free_name

    async with connected(target, members_only=True) as connection:
        return free_name(connection.client.session.placement())


def _told(
    as_json: bool, what: str, cluster: Cluster, node: str, plan: dict[str, Any], sentence: str
) -> None:
    if as_json:
        told = {"name": cluster.name, "node": node, "moves": plan.get("moves")}
        render.show_json({"schema": f"dynamo_ray.{what}/1", **told})
    else:
        render.say(sentence)
