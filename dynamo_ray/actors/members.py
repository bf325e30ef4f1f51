"""The two kinds of Ray actor: a storage node and a coordinator, each around one server.

Ray gives them their lives: it places, starts, restarts in place and names them. Requests reach them
over the wire; `handle` is the other door, with the same messages. A restart runs the constructor
again with the same arguments: a node then takes its identity from its data directory and a new
incarnation (DESIGN rule 2), so nothing that it promised is forgotten and no dot is used twice.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

import ray

from dynamo_ray.actors.hosting import Hosted
from dynamo_ray.actors.placement import own_address
from dynamo_ray.core.charter import charter_from
from dynamo_ray.core.membership import View, merge_views, view_from
from dynamo_ray.core.pool import LEAVING
from dynamo_ray.core.ring import Member as RingMember
from dynamo_ray.server.coordinator import open_coordinator
from dynamo_ray.server.member import Member, monotonic_ms
from dynamo_ray.server.node import open_node
from dynamo_ray.server.recovering import Recovering
from dynamo_ray.wire.keys import CLIENT, PEER

Founding = dict[str, Any]
NAMESPACE = "dynamo_ray"
TODAY_S = 5.0


def view_of_today(cluster: str) -> View:
    """What the cluster's nodes know now, as far as Ray finds them; bounded in time.

    A coordinator that Ray starts again gets the view of its founding, and the nodes of that time
    may all be gone. Nodes have no need of it: theirs is in their directories.
    """
    view = View()
    asked: list[Any] = []
    with suppress(ray.exceptions.RayError, ValueError, KeyError):  # then the founding's is all
        for one in ray.util.list_named_actors(all_namespaces=True):
            if one["namespace"] == NAMESPACE and one["name"].startswith(f"{cluster}/node/"):
                node = ray.get_actor(one["name"], namespace=NAMESPACE)
                asked.append(node.introduce.remote())
        for answer in ray.wait(asked, num_returns=len(asked), timeout=TODAY_S)[0]:
            view = merge_views(view, view_from(ray.get(answer)["view"]))
    return view


class MemberActor:
    """What both kinds answer to their cluster's owner."""

    def __init__(self, founding: Founding, name: str) -> None:
        self.founding = founding
        self.name = name
        self.charter = charter_from(founding["charter"])
        self.secrets: list[bytes] = founding["secrets"]
        self.hosted = Hosted(self._open)

    async def _open(self) -> Member:
        raise NotImplementedError

    def _view(self) -> View:
        return view_from(self.founding["view"])

    def describe(self, wait_s: float = 0.0) -> dict[str, Any]:
        """The server's own description; waits up to `wait_s` for it to have started."""
        return self.hosted.describe(wait_s)

    def introduce(self) -> Founding:
        """All that somebody inside this Ray cluster needs to join as a client or coordinator."""
        described = self.describe(5.0)
        rows = described.get("view", self.founding["view"])
        return {"charter": self.founding["charter"], "secrets": self.secrets, "view": rows}

    def learn(self, rows: list[Any]) -> None:
        """Merge a view that came by Ray."""

        async def learn() -> None:
            self.hosted.server.learn(view_from(rows))

        self.hosted.run(learn())

    def reading(self) -> int:
        """This process's monotonic clock in ms: requests say when they expire by it."""
        return monotonic_ms()

    def pid(self) -> int:
        """The actor's own process, for drills."""
        return os.getpid()

    def stop(self) -> bool:
        """Close the server; a node has then synced its log."""
        self.hosted.close()
        return True


class NodeActor(MemberActor):
    """A storage node; its data lives in `data_dir`, and `member` is a row of `fleet.row_of`.

    `host` may be empty: its machine's own.
    """

    def __init__(self, founding: Founding, member: list[Any], data_dir: str, host: str) -> None:
        self.data_dir = data_dir
        self.host = host or own_address()
        self.member = RingMember(*member)
        self.recovering = Recovering(self.member.name)
        super().__init__(founding, self.member.name)

    def describe(self, wait_s: float = 0.0) -> dict[str, Any]:
        """As any member; while it reads its data back, also how far that is."""
        told = super().describe(wait_s)
        if told["state"] == "starting" and self.recovering.has_begun:
            told |= {"state": "recovering", "recovery": self.recovering.to_dict()}
        return {**told, "data_dir": self.data_dir}

    def weigh(self, weight: float) -> None:
        """Have another weight from now on: with 0 it should own nothing."""

        async def weigh() -> None:
            self.hosted.server.weigh(weight)

        self.hosted.run(weigh())

    def snapshot(self, timeout_s: float) -> dict[str, Any]:
        """Take a snapshot and wait for it; what was written, or the `problem`.

        By Ray alone: who reaches the actors has the cluster's secret, and who has the client's
        token may read and write, and nothing else.
        """
        server = self.hosted.server
        if server is None:
            return {"problem": "it has not started yet"}

        async def take() -> Any:
            return await server.snapshot()

        try:
            return dict(self.hosted.run(take(), timeout_s))
        except TimeoutError:
            return {"problem": f"it is not done within {timeout_s:g} s, and goes on"}

    async def _open(self) -> Member:
        return await open_node(
            self.charter,
            self.secrets,
            self.member,
            self.data_dir,
            self.host,
            self._view(),
            self._is_first_start(),
            self.recovering,
        )

    def _is_first_start(self) -> bool:
        """True where an empty directory is no lost disk: at the founding, before any restart."""
        context = ray.get_runtime_context()
        return bool(self.founding["first_start"]) and not context.was_current_actor_reconstructed

    def handle(self, request: bytes) -> bytes:
        """The Ray door of a storage node."""
        return self.hosted.handle(request, PEER)


class CoordinatorActor(MemberActor):
    """A coordinator. `host` may be empty: its machine's own address."""

    def __init__(self, founding: Founding, name: str, host: str) -> None:
        self.host = host or own_address()
        self.leaving = False
        super().__init__(founding, name)

    def describe(self, wait_s: float = 0.0) -> dict[str, Any]:
        """As any member, until it leaves."""
        server = self.hosted.server
        if self.leaving or (server is not None and server.leaving):
            return {"state": LEAVING, "pid": os.getpid()}
        return super().describe(wait_s)

    def leave(self, timeout_s: float) -> bool:
        """Leave the pool: finish what is in flight, at most so long, and close.

        Told again, it closes at once.
        """
        first, self.leaving = not self.leaving, True
        if first and self.hosted.server is not None:
            self.hosted.run(self.hosted.server.leave(timeout_s))
        return self.stop()

    async def _open(self) -> Member:
        view = self._view()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            view = merge_views(view, await asyncio.to_thread(view_of_today, self.charter.name))
        return await open_coordinator(self.charter, self.secrets, self.name, self.host, view)

    def handle(self, request: bytes) -> bytes:
        """The Ray door of a coordinator."""
        return self.hosted.handle(request, CLIENT)
