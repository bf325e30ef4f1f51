"""A storage node's server: the machine of core/node.py between the wire and the log.

What many messages of one turn of the loop persist goes to the log in one append (group commit), and
their answers leave together. Small appends are made in the loop, because handing them to a thread
costs more than the write; large ones, every fsync and every snapshot go to a thread. There is one
log queue: nothing is appended while an append is under way, so the order of positions is the order
of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.charter import Charter
from dynamo_ray.core.encoding import BadMessageError, from_fields, to_fields
from dynamo_ray.core.handover import Publish
from dynamo_ray.core.kinds import COPY, REPAIR, REPAIRED, SCAN
from dynamo_ray.core.membership import NODE_ROLE, Fact, View, merge_views
from dynamo_ray.core.messages import Code, Fetch, Merge, Mint, Persist, Refused, Renew
from dynamo_ray.core.node import Answer, Fsync, Node, Out
from dynamo_ray.core.receive import Grant
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member as RingMember
from dynamo_ray.core.upkeep import (
    Compare,
    Confirm,
    Copy,
    Descend,
    Enumerate,
    Offer,
    Reap,
    Scan,
    Seal,
)
from dynamo_ray.server.member import Member, monotonic_ms, reply_to, wall_ms
from dynamo_ray.server.proving import Proving
from dynamo_ray.server.recovering import Recovering
from dynamo_ray.server.snapshots import Snapshotting
from dynamo_ray.server.vault import Vault, bytes_about, open_vault
from dynamo_ray.storage.errors import AppendFailedError, StorageError
from dynamo_ray.wire.errors import Failure, PortInUseError
from dynamo_ray.wire.handshake import Identity
from dynamo_ray.wire.keys import PEER

INLINE_BYTES = 1024 * 1024
RENEW_EVERY_S = KEEP_EVERY_S = 1.0
LOG_POLL_S = 0.001
CLOSE_S = 5.0
_LOOKING = (Compare.KIND, Descend.KIND, Enumerate.KIND)  # clients may: they can read all of it
_UPKEEP = (Confirm.KIND, Reap.KIND, Offer.KIND, Seal.KIND)
_NODE_KINDS = (Mint.KIND, Merge.KIND, Fetch.KIND, *_UPKEEP, *_LOOKING)
_log = logging.getLogger("dynamo_ray.server")


class NodeServer(Member):
    """Takes Mint, Merge and Fetch from coordinators, and from other nodes what they kept for it."""

    def __init__(
        self, charter: Charter, secrets: list[bytes], me: bytes, view: View, vault: Vault
    ) -> None:
        super().__init__(charter, secrets, me, view)
        self.vault = vault
        replica = Replica(me, charter.settings, vault.maps, self.placement.owned(me))
        vault.hand_over(replica)
        self.node = Node(replica, charter.settings, self.placement, vault.granted)
        self.incarnation = b""
        self._appends: list[Persist] = []
        self._scheduled = False
        self._appending = False
        self._syncing = self._sync_due = False
        self._last_sync = 0.0
        self._renewing = False
        self.proving = Proving(self)
        self._snapshot: asyncio.Future[dict[str, Any]] | None = None
        self._last_snapshot: dict[str, Any] = {}
        self._cutting = False
        self._keeping = False
        self._keep_from = 0.0

    # ---- requests

    def on_message(self, connection: Any, call: int, kind: int, fields: list[Any]) -> None:
        """A peer's request, a page of a partition, or something that a client may not ask."""
        if kind in (SCAN, COPY):
            self._list(connection, call, kind, fields)
            return
        if kind == REPAIR:
            self._repair(connection, call, fields)
            return
        message = self._judge_envelope(connection, kind, fields)
        if message is None:
            try:
                message = from_fields(kind, fields[2:])
            except BadMessageError as error:
                message = Refused(Code.BAD_REQUEST, str(error))
        if isinstance(message, Refused):
            reply_to(connection, call, Refused.KIND, to_fields(message))
            return
        to, now_ms = (connection, call), monotonic_ms()
        self._perform(self.node.on_request(to, message, fields[0], now_ms, wall_ms(), fields[1]))

    def _judge_envelope(self, connection: Any, kind: int, fields: list[Any]) -> Refused | None:
        if connection.role != PEER and kind not in _LOOKING:
            return Refused(Code.FORBIDDEN, "a client asks coordinators, not storage nodes")
        is_shaped = len(fields) >= 2 and isinstance(fields[0], int) and type(fields[1]) is bytes
        if kind not in _NODE_KINDS or not is_shaped:
            return Refused(Code.BAD_REQUEST, "not a request to a storage node")
        return None

    def _list(self, connection: Any, call: int, kind: int, fields: list[Any]) -> None:
        """A page of a partition's keys, or of keys and states; of an owner's, under an epoch."""
        given: list[Any] = fields if len(fields) in (2, 3) else [None]
        partition, *rest = given
        known = range(self.ring.partitions)
        is_shaped = all(type(one) is bytes for one in rest)
        if type(partition) is not int or partition not in known or not is_shaped:
            refused = Refused(Code.BAD_REQUEST, "which keys of which partition?")
            reply_to(connection, call, Refused.KIND, to_fields(refused))
        else:
            message = (Copy if kind == COPY else Scan)(partition, rest[0])
            self.take_in((connection, call), message, *rest[1:])

    def _repair(self, connection: Any, call: int, fields: list[Any]) -> None:
        """Compare a partition, or all, at once: bounded work that can do no harm."""
        partition, q = fields[0] if len(fields) == 1 else None, self.ring.partitions
        if type(partition) is not int or not -1 <= partition < q:
            refused = Refused(Code.BAD_REQUEST, f"partitions are numbered from 0 to {q - 1}")
            reply_to(connection, call, Refused.KIND, to_fields(refused))
            return
        wanted = range(q) if partition < 0 else (partition,)
        away = self.node.rounds.on_demand(wanted, self._unreachable())
        told = {**self.node.repair_status(), "left_out": sorted(map(self._name, away))}
        reply_to(connection, call, REPAIRED, (json.dumps(told),))

    def take_in(self, to: Any, message: Any, epoch: bytes | None = None) -> None:
        """A request that hangs on no clock; `to` is a connection and a call, `epoch` as in core."""
        self._perform(self.node.on_request(to, message, 0, monotonic_ms(), wall_ms(), epoch))

    # ---- effects

    def _perform(self, out: list[Out]) -> None:
        for effect in out:
            if isinstance(effect, Answer):
                connection, call = effect.to
                message = effect.message
                reply_to(connection, call, message.KIND, to_fields(message))
            elif isinstance(effect, Persist):
                self._appends.append(effect)
                self._schedule()
            elif isinstance(effect, Fsync):
                self._sync()
            elif isinstance(effect, Renew):
                self._renew()
            elif isinstance(effect, Exchange):
                self.exchange(effect.node)
            elif isinstance(effect, Publish):
                self.spawn(self._publish(effect))
            elif isinstance(effect, Grant):
                self.spawn(self._grant(effect))
            else:
                self._send(effect.node, effect.message, effect.epoch)

    def _send(self, node: bytes, message: Any, epoch: bytes) -> None:
        peer = self.peers.get(node)
        if peer is None or peer.connection is None:
            self._perform(self.node.on_peer(node, message, None))
            return

        def on_reply(kind: int, fields: list[Any]) -> None:
            try:
                reply = from_fields(kind, fields)
            except BadMessageError:
                reply = None
            self._perform(self.node.on_peer(node, message, reply, monotonic_ms()))

        def on_failure(failure: Failure) -> None:
            self._perform(self.node.on_peer(node, message, None, monotonic_ms()))

        patience_s = self.settings.times.peer_s
        expires_ms = peer.connection.remote_expiry(int(patience_s * 1000))
        fields = (expires_ms, epoch, *to_fields(message))
        peer.connection.call(message.KIND, fields, on_reply, on_failure, patience_s)

    # ---- the log

    def _schedule(self) -> None:
        if not self._scheduled and not self._appending:
            self._scheduled = True
            self.at_the_end_of_this_turn(self._append)

    def _append(self) -> None:
        self._scheduled = False
        if self._appending or not self._appends:
            return
        batch, self._appends = self._appends, []
        size = sum([sum(map(len, filter(None, one.states))) for one in batch])
        if size <= INLINE_BYTES and not self.vault.starts_segment:
            self._on_append(batch, self.vault.append(batch))
        else:
            self._appending = True
            self.spawn(self._append_in_thread(batch))

    async def _append_in_thread(self, batch: list[Persist]) -> None:
        problem = await self._exclusively(self.vault.append, batch)
        self._on_append(batch, problem)

    async def _exclusively(self, act: Callable[..., Any], *args: Any) -> Any:
        """Let a thread have the log; what comes meanwhile waits, in order."""
        self._appending = True
        try:
            return await asyncio.to_thread(act, *args)
        finally:
            self._appending = False
            if self._appends:
                self._schedule()

    def _on_append(self, batch: list[Persist], problem: AppendFailedError | None) -> None:
        if problem is None:
            self._perform(self.node.on_appended(batch[-1].position))
        else:
            self._appends.clear()  # what came meanwhile was made on top of what is undone
            self._perform(self.node.on_append_failed(problem.cut_back))

    def _sync(self) -> None:
        self._sync_due = True
        if not self._syncing:
            self._syncing = True
            self.spawn(self._sync_in_thread())

    async def _sync_in_thread(self) -> None:
        try:
            while self._sync_due:
                position = self.vault.appended
                await asyncio.to_thread(self.vault.sync)
                self._last_sync = asyncio.get_running_loop().time()
                self._sync_due = False  # whoever waits for what came meanwhile asks again
                self._perform(self.node.on_synced(position))
        finally:
            self._syncing = False

    def _renew(self) -> None:
        """A new incarnation after a failed append; tried again for as long as the disk is full."""
        if not self._renewing:
            self._renewing = True
            self.spawn(self._renewed())

    async def _renewed(self) -> None:
        renew = self.vault.new_incarnation
        while not (incarnation := await self.with_the_log(renew, wall_ms())):
            await asyncio.sleep(RENEW_EVERY_S)
        self.begin(incarnation)
        self._renewing = False

    async def prove(self, partitions: frozenset[int]) -> None:
        """These partitions were compared with enough other owners: they count again (rule 9)."""
        await self.log_is_free()
        sure = partitions & self.node.to_prove  # not what it has inherited meanwhile
        if await self._exclusively(self.vault.proved, sure):
            self.node.replica.doubted -= sure & self.node.to_prove

    async def _keep_view(self) -> None:
        """Remember what is known for the next start; what others wrote of it they tell again."""
        await asyncio.to_thread(self.vault.keep_view, self.view)
        self._keeping = False

    async def _publish(self, effect: Publish) -> None:
        """Slots change hands: durable here first, then known to all (DESIGN rule 15)."""
        view = View(slots=effect.slots)
        is_durable = not effect.doubted or await self.with_the_log(self.vault.doubt, effect.doubted)
        known = merge_views(self.view, view)
        is_durable = is_durable and await asyncio.to_thread(self.vault.keep_view, known)
        if is_durable:
            self.learn(view)
        self._perform(self.node.on_published(is_durable))

    async def _grant(self, effect: Grant) -> None:
        """Promise to keep what was given; all of it is in the log before that."""
        await self.log_is_free()
        stands = self.node.receiver.stands(effect)
        is_durable = stands and await self._exclusively(self.vault.grant, effect)
        self._perform(self.node.on_granted(effect, is_durable))

    def begin(self, incarnation: bytes) -> None:
        """A fresh incarnation is on disk: mint under it, and say so to everybody."""
        self.incarnation = incarnation
        self.node.on_incarnation(incarnation)
        if self.fact is not None:
            self.say(replace(self.fact, incarnation=incarnation, revision=0))

    def weigh(self, weight: float) -> None:
        """Have another weight from now on, over restarts, too."""
        assert self.fact is not None
        self.say(replace(self.fact, weight=weight, revision=self.fact.revision + 1))

    def say(self, fact: Fact) -> None:
        """This is what this node is now."""
        self.fact = fact
        self.learn(View().with_facts([fact]))

    # ---- ticks

    def on_tick(self) -> None:
        """Hints home, the periodic fsync, a snapshot when the log has grown."""
        self._perform(self.node.on_tick(monotonic_ms(), wall_ms(), self._unreachable()))
        now = asyncio.get_running_loop().time()
        if now - self._last_sync >= self.settings.times.sync_s and self.vault.wants_sync:
            self._sync()
        self.proving.on_tick(self._unreachable(), now)
        if now >= self._keep_from and not self._keeping and not self.vault.is_kept(self.view):
            self._keeping, self._keep_from = True, now + KEEP_EVERY_S
            self.spawn(self._keep_view())
        if self._snapshot is None:
            if self.vault.wants_snapshot(self.node.replica.maps):
                self.snapshot()
            elif self.vault.wants_cut and not self._cutting:
                self._cutting = True
                self.spawn(self._cut_log())

    def snapshot(self) -> asyncio.Future[dict[str, Any]]:
        """Take a snapshot, or wait for the one that is being taken; what was written, in the end.

        `problem` says why there is none.
        """
        if self._snapshot is None:
            self._snapshot = asyncio.get_running_loop().create_future()
            self.spawn(self._take_snapshot(self._snapshot))
        return asyncio.shield(self._snapshot)

    async def _take_snapshot(self, taken: asyncio.Future[dict[str, Any]]) -> None:
        written = {"problem": "the node is closing"}
        try:
            written = await Snapshotting(self).take()
            if "problem" not in written:
                self._last_snapshot = written
        finally:
            self._snapshot = None
            taken.set_result(written)

    async def _cut_log(self) -> None:
        try:
            await self.with_the_log(self.vault.cut_log)
        except StorageError as error:
            _log.warning("old log segments stay: %s", error)
        finally:
            self._cutting = False

    async def with_the_log(self, act: Callable[..., Any], *args: Any) -> Any:
        """Do it in a thread once the log is free, and nothing beside it: nothing is overtaken."""
        await self.log_is_free()
        return await self._exclusively(act, *args)

    async def log_is_free(self) -> None:
        """Wait until all that was to be appended is."""
        while self._appending or self._appends:
            await asyncio.sleep(LOG_POLL_S)

    def on_view(self, is_other_ring: bool) -> None:
        """Who is there, and who owns what, is another thing now."""
        self.node.on_placement(self.placement)
        if is_other_ring:
            self.proving.on_ring(self.ring)

    def on_told(self, node: bytes, view: View | None) -> None:
        """A node showed what it knows."""
        if view is not None:
            self.node.on_told(node, view)

    def _unreachable(self) -> frozenset[bytes]:
        down = {node for node, peer in self.peers.items() if not peer.connected}
        return self.detector.suspected | down

    def status(self) -> dict[str, Any]:
        """What this node knows of itself."""
        replica = self.node.replica
        return {
            **super().status(),
            "state": self._state(),
            "pid": os.getpid(),
            "incarnation": self.incarnation.hex(),
            "keys": sum(map(len, replica.maps)),
            "bytes": bytes_about(replica.maps),
            "doubted": len(replica.in_doubt),
            "owned": len(replica.owned),
            "weight": self.fact.weight if self.fact else 0,
            "zone": self.fact.zone if self.fact else "",
            "handover": self.node.handover.status(self._name),
            "hints": {self._name(o): replica.hints.count_for(o) for o in replica.hints.owners()},
            "repair": self.node.repair_status(),
            "log_bytes": self.vault.log_bytes,
            "recovery": self.vault.recovery,
            "snapshot": self._last_snapshot,
        }

    def _state(self) -> str:
        if self.me in self.view.ends:
            return "removed"
        return "up" if self.node.replica.lives.begun else "read-only"

    async def close(self) -> None:
        """Take no more requests, fsync what is appended, let go of the directory."""
        await super().close()
        if self._snapshot is not None:
            await asyncio.wait([self._snapshot], timeout=CLOSE_S)
        with contextlib.suppress(StorageError):
            await asyncio.to_thread(self.vault.close)


async def open_node(
    charter: Charter,
    secrets: list[bytes],
    member: RingMember,
    data_dir: str,
    host: str,
    view: View,
    first_start: bool = True,
    recovering: Recovering | None = None,
) -> NodeServer:
    """Recover a node from its directory and start serving, at its old port if that is free.

    `recovering` can be looked at meanwhile.
    """
    recovering = recovering or Recovering(member.name)
    vault = await asyncio.to_thread(open_vault, charter, member, data_dir, first_start, recovering)
    known = vault.known_view(view)
    server = NodeServer(charter, secrets, member.node, known, vault)
    incarnation = await asyncio.to_thread(vault.new_incarnation, wall_ms())
    if not incarnation:
        raise OSError(f"{data_dir} takes no writes; free some space and start again")
    server.begin(incarnation)
    identity = Identity(charter.cluster_id, member.node, incarnation)
    before = known.nodes().get(member.node)
    try:
        host, port = await server.open(host, before.port if before else 0, identity)
    except PortInUseError:
        host, port = await server.open(host, 0, identity)
    who = incarnation, 0, member.node, NODE_ROLE, member.name
    place = (before.zone, before.weight) if before else (member.zone, member.weight)
    server.join(Fact(*who, host, port, *place, member.machine))
    return server
