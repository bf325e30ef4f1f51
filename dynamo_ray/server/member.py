"""What a storage node's server and a coordinator's have in common.

A member listens at one port, keeps a connection to every storage node, hears their heartbeats, and
knows the view: who is where, and keeps it up to date by gossip (server/gossiping.py). There is no
central member. One asyncio loop owns all of it; nothing here takes a lock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.detector import Detector, Silence
from dynamo_ray.core.kinds import (
    DIGESTS,
    LOCATED,
    NEWS,
    STATUS,
    STATUSED,
    VIEW,
    VIEWED,
    WHERE,
)
from dynamo_ray.core.membership import Fact, View
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.ring import Ring, partition_of
from dynamo_ray.core.slots import placed
from dynamo_ray.server.gossiping import Gossiping
from dynamo_ray.wire.connections import Connection
from dynamo_ray.wire.errors import FrameError
from dynamo_ray.wire.handshake import Identity
from dynamo_ray.wire.keys import peer_credentials
from dynamo_ray.wire.listener import Door, Listener, serve
from dynamo_ray.wire.options import Options
from dynamo_ray.wire.peers import Hooks, Peer
from dynamo_ray.wire.turns import Turn, turn_of

REACH_POLL_S = 0.005
# The longest pause between two attempts to reach a node. An attempt that nobody answers asks twice,
# a second apart, and lasts two: so somebody who is reachable again is asked within a second and a
# half, and met within two.
RETRY_S = 0.5

_log = logging.getLogger("dynamo_ray.server")


def monotonic_ms() -> int:
    """This process's monotonic clock in ms; expiries are readings of it."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """The wall clock in ms since 1970: for stamps, expiry of values, and people."""
    return time.time_ns() // 1_000_000


class Member:
    """One server of a cluster. Subclasses say what they do with requests."""

    def __init__(self, charter: Charter, secrets: list[bytes], me: bytes, view: View) -> None:
        self.charter = charter
        self.settings = charter.settings
        self.placement = placed(charter, view)
        self.me = me
        self.fact: Fact | None = None
        times, limits = self.settings.times, self.settings.limits
        self.detector = Detector(times)
        self.peers: dict[bytes, Peer] = {}
        self.listener: Listener | None = None
        self.longest_hold_s = 0.0
        self.started_at = time.time()
        self._secrets = secrets
        self._options = Options(
            max_frame_bytes=limits.frame_bytes,
            max_in_flight=limits.in_flight,
            max_out_bytes=limits.queued_bytes,
            interval_s=times.heartbeat_s,
            missed_pings=20,
            backoff_most_s=RETRY_S,
        )
        self._chance = random.Random()
        self._gossip = Gossiping(view, self.peers, self._chance, self.learn, self.on_told)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._turn: Turn | None = None

    @property
    def view(self) -> View:
        """What this member believes of the cluster."""
        return self.placement.view

    @property
    def ring(self) -> Ring:
        """The ring that follows from it."""
        return self.placement.ring

    # ---- what subclasses answer

    def on_message(self, connection: Any, call: int, kind: int, fields: list[Any]) -> None:
        """A request that is not about views, status or places."""
        raise NotImplementedError

    def on_suspicion(self, new: frozenset[bytes]) -> None:
        """The detector's verdict has changed; `new` are newly suspected."""

    def on_tick(self) -> None:
        """What should be true now?"""

    def on_view(self, is_other_ring: bool) -> None:
        """The view has changed, and with it perhaps the ring."""

    def on_told(self, node: bytes, view: View | None) -> None:
        """An exchange with a node has ended: it knows `view` by now, or did not answer (None).

        What it knows was learnt. Of `view` it may lack facts of nodes that have come to their end.
        """

    def status(self) -> dict[str, Any]:
        """What this member knows of itself, as plain values."""
        now, suspected = time.monotonic(), self.detector.suspected
        heard = {node: self.detector.silence_of(node, now) for node in self.peers}
        return {
            "name": self.fact.name if self.fact else "",
            "role": self.fact.role if self.fact else "",
            "address": f"{self.fact.host}:{self.fact.port}" if self.fact else "",
            "suspected": {self._name(n): round(heard[n].silence_s, 3) for n in suspected},
            "heard": {self._name(n): _rounded(silence) for n, silence in heard.items()},
            "connected": sorted(self._name(n) for n, p in self.peers.items() if p.connected),
            "longest_hold_ms": round(self.longest_hold_s * 1000, 1),
            "uptime_s": round(time.time() - self.started_at, 1),
            "epoch": self.ring.epoch.hex(),
        }

    def where(self, key: bytes) -> dict[str, Any]:
        """The key's place on the ring: its partition, owners and later nodes."""
        partition = partition_of(key, self.ring.partitions)
        preference = self.ring.preference(partition)
        n = self.settings.n
        return {
            "partition": partition,
            "owners": [self._name(node) for node in preference[:n]],
            "stand_ins": [self._name(node) for node in preference[n:]],
            "suspected": sorted(self._name(node) for node in self.detector.suspected),
        }

    # ---- opening and closing

    async def open(self, host: str, port: int, identity: Identity) -> tuple[str, int]:
        """Listen; the address that others reach this member at. Raises PortInUseError."""
        door = Door(identity, self._secrets)
        self.listener = await serve(host, port, self._heed, door=door, options=self._options)
        return host, self.listener.port

    def join(self, fact: Fact) -> None:
        """Say who and where this member is, connect to the nodes, and start the ticks."""
        self.fact = fact
        self.placement = self.placement.learn(View().with_facts([fact]))
        self._follow_view(is_other_ring=True)
        self._spread()
        self.spawn(self._ticking())

    async def reach_nodes(self, timeout_s: float, at_least: int | None = None) -> None:
        """Connect to the nodes; wait, at most so long, until all, or so many, are reached."""
        self._follow_view()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while loop.time() < deadline:
            wanted = len(self.peers) if at_least is None else at_least
            if sum(peer.connected for peer in self.peers.values()) >= wanted:
                break
            await asyncio.sleep(REACH_POLL_S)

    def start_without_door(self) -> None:
        """Connect to the nodes and tick, listening to nobody (client-driven coordination)."""
        self._follow_view()
        self.spawn(self._ticking())

    def learn(self, view: View) -> None:
        """Merge a view that came from elsewhere."""
        before = self.placement
        self.placement = before.learn(view)
        if self.placement is not before:
            self._follow_view(self.placement.ring is not before.ring)
            self.at_the_end_of_this_turn(self._spread)

    async def close(self) -> None:
        """Stop listening, hang up, end the ticks; bounded in time."""
        self._closing = True
        for task in tuple(self._tasks):
            task.cancel()
        for peer in self.peers.values():
            peer.close()
        if self.listener is not None:
            await self.listener.close()

    def spawn(self, work: Any) -> None:
        """Run a coroutine for as long as this member lives; what it raises is in the log."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_coro(), exc_info=error)

    def at_the_end_of_this_turn(self, act: Callable[[], None]) -> None:
        """Do it once all that has arrived is handled, before anything is written."""
        if self._turn is None:
            self._loop = asyncio.get_running_loop()
            self._turn = turn_of(self._loop)
        self._turn.before_flush(act, self._loop)

    # ---- messages

    def _heed(self, connection: Connection, call: int, kind: int, fields: list[Any]) -> None:
        begun = time.perf_counter()
        self.handle(connection, call, kind, fields)
        self.held_since(begun)

    def held_since(self, begun: float) -> float:
        """The loop was held since that reading of `perf_counter`; for how long, in seconds."""
        held = time.perf_counter() - begun
        if held > self.longest_hold_s:
            self.longest_hold_s = held
        return held

    def handle(self, connection: Any, call: int, kind: int, fields: list[Any]) -> None:
        """One message by either door; `connection` can `reply` and has a `role`."""
        if kind == VIEW:
            connection.reply(
                call, VIEWED, (self.view.to_rows(), json.dumps(self.charter.to_dict()))
            )
        elif kind in (NEWS, DIGESTS):
            self._gossip.handle(connection, call, kind, fields)
        elif kind == STATUS:
            connection.reply(call, STATUSED, (json.dumps(self.status()),))
        elif kind == WHERE:
            self._tell_where(connection, call, fields)
        else:
            self.on_message(connection, call, kind, fields)

    def _tell_where(self, connection: Any, call: int, fields: list[Any]) -> None:
        if len(fields) == 1 and type(fields[0]) is bytes:
            connection.reply(call, LOCATED, (json.dumps(self.where(fields[0])),))
        else:
            connection.reply(call, Refused.KIND, (int(Code.BAD_REQUEST), "where is which key?"))

    # ---- peers

    def _name(self, node: bytes) -> str:
        known = self.view.nodes().get(node)
        if known is not None:
            return known.name
        found = next((m.name for m in self.charter.members if m.node == node), None)
        return found or node.hex()

    def _follow_view(self, is_other_ring: bool = False) -> None:
        for node in self.peers.keys() & self.view.ends.keys():
            self.peers.pop(node).close()
        for node, fact in self.view.nodes().items():
            if node == self.me:
                continue
            peer = self.peers.get(node)
            if peer is None:
                self.peers[node] = self._peer(node, fact)
                self.peers[node].start()
            else:
                peer.set_address((fact.host, fact.port))
        self.detector.watch(self.peers, time.monotonic())
        self.on_view(is_other_ring)
        self._gossip.on_view(self.view)

    def _peer(self, node: bytes, fact: Fact) -> Peer:
        hooks = Hooks(
            on_up=lambda connection: self._on_up(node),
            on_down=lambda reason: self._judge(self.detector.on_down(node, time.monotonic())),
            on_heard=lambda at: self._on_heard(node, at),
            handler=self._heed,
        )
        return Peer(
            (fact.host, fact.port),
            peer_credentials(self._secrets[0], self.charter.cluster_id),
            rng=self._chance,
            hooks=hooks,
            options=self._options,
        )

    def _on_up(self, node: bytes) -> None:
        self._on_heard(node, time.monotonic())
        self.exchange(node)

    def _on_heard(self, node: bytes, at: float) -> None:
        if self.detector.on_heard(node, at):
            self._judge(frozenset())

    def _judge(self, new: frozenset[bytes]) -> None:
        if not self._closing:
            self.on_suspicion(new)

    def exchange(self, node: bytes) -> None:
        """Learn what a node knows, and show it what is known here; then `on_told`."""
        self._gossip.exchange(node)

    def _spread(self) -> None:
        if not self._closing:
            self._gossip.spread()

    # ---- the periodic tick

    async def _ticking(self) -> None:
        tick_s = self.settings.times.tick_s
        while True:
            now = time.monotonic()
            try:
                before = self.detector.suspected
                new = self.detector.on_tick(now)
                if self.detector.suspected != before:
                    self._judge(new)
                begun = time.perf_counter()
                self.on_tick()
                self.held_since(begun)
                self._gossip.on_tick(now)
            except Exception:
                _log.exception("a tick failed; the next one tries again")
            await asyncio.sleep(tick_s)


def reply_to(connection: Any, call: int, kind: int, fields: Any) -> None:
    """Answer, unless the reply is too long for the other side: then say that instead."""
    try:
        connection.reply(call, kind, fields)
    except FrameError as error:
        connection.reply(call, Refused.KIND, (int(Code.TOO_LONG), str(error)))


def _rounded(silence: Silence) -> dict[str, float]:
    return {name: round(number, 3) for name, number in silence._asdict().items()}
