"""A storage node around its replica: late work is dropped, answers wait for the log.

    request ─► (expired? another ring? refuse) ─► Replica ─► Append ─► appended / synced ─► Answer
    tick ─► hints, reaping, comparisons, slots to give ─► ToPeer ─► its end
    placement ─► who owns what now, for all of these

What "persisted" means is the durability level's: `memory` waits for nothing, `written` for the
append, `synced` for the fsync that covers it. An answer that is asked to be durable (someone gives
up a copy for it: rule 8) always waits for the fsync. Times are the node's own clocks: `now_ms`
monotonic, for expiry; `wall_ms`, for what a mint stamps. What it asks all members it asks itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamo_ray.core.agreeing import CLOSED, OTHER_EPOCH, OWNERS, Exchange, epoch_for, judge
from dynamo_ray.core.handover import Handover, Publish
from dynamo_ray.core.membership import View
from dynamo_ray.core.messages import (
    Code,
    Merge,
    Merged,
    Mint,
    Persist,
    Refused,
    Renew,
    Reply,
    Send,
)
from dynamo_ray.core.pace import REPAIR_SHARE, Allowance
from dynamo_ray.core.reap import Reaper
from dynamo_ray.core.receive import Grant, Receiver
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.rounds import Rounds
from dynamo_ray.core.serving import Serving
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.sync import Sync
from dynamo_ray.core.unlogged import Unlogged
from dynamo_ray.core.upkeep import Confirm, Confirmed, Reap
from dynamo_ray.core.values import value

EXPIRED = Refused(Code.EXPIRED, "the request came too late and was not done")
STALE_MINT = Refused(Code.EXPIRED, "a mint must say when it expires, by this node's clock")
READ_ONLY = Refused(Code.READ_ONLY, "the node's log takes no writes now; try another node")
LEFT_BEHIND = Refused(Code.UNKNOWN, "the node's log failed half-way; read the key to see")


@value
class Answer:
    """Effect: answer the request `to`."""

    to: Any
    message: Any


@value
class Own:
    """Who asked, if it was the node itself: its answer comes back as a peer's would."""

    request: Any


@value
class ToPeer:
    """Effect: send a request to another node; its end comes back as `on_peer`."""

    node: bytes
    message: Any
    epoch: bytes


@value
class Fsync:
    """Effect: an answer waits until what the log has been given is fsynced."""


Out = Answer | ToPeer | Persist | Fsync | Renew | Publish | Grant | Exchange


class Node:
    """The machine of one storage node's server."""

    def __init__(
        self,
        replica: Replica,
        settings: Settings,
        placement: Placement,
        granted: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        ring, limits = placement.ring, settings.limits
        self.replica = replica
        self.reaper = Reaper(replica, ring, settings)
        self.rounds = Rounds(replica.node, ring, settings.times.repair_s)
        allowance = Allowance(limits.repair_bytes, REPAIR_SHARE)
        self.sync = Sync(replica, self.rounds, allowance, limits.batch_bytes)
        self.handover = Handover(replica, settings)
        self.receiver = Receiver(replica, granted or {})
        self._level = settings.durability
        self._now_ms = self._wall_ms = 0  # at the last tick, for what may be a little old
        self._serving = Serving(replica, self.receiver, settings)
        self._timeout_max_ms = int((settings.times.timeout_max_s + settings.times.linger_s) * 1000)
        self._waiting: list[Reply] = []
        self._appended = 0
        self._synced = 0
        self._unlogged = Unlogged()
        self._ring = ring
        self._is_over = False
        self.on_placement(placement)
        # Of what it is not an owner it can prove nothing, but what it promised to keep (rule 9).
        unsure = frozenset(range(ring.partitions)) - replica.owned - self.receiver.promised
        replica.doubted |= unsure

    def on_placement(self, placement: Placement) -> None:
        """What is known of the members has changed, and with it perhaps who owns what."""
        before, self._ring = self._ring, placement.ring
        self._is_over = self.replica.node in placement.view.ends
        self.replica.on_placement(placement)
        self.handover.on_placement(placement)
        self.receiver.on_placement(placement)
        if placement.ring is not before:
            self.sync.stop()  # with whoever it was: who owned that may own it no more
            self.rounds.on_ring(placement.ring)
            self.reaper.on_ring(placement.ring)

    @property
    def to_prove(self) -> frozenset[int]:
        """What it doubts and may prove by copying it: of what it inherits others must know."""
        return self.replica.doubted - self.handover.inheriting

    def on_request(
        self,
        to: Any,
        message: Any,
        expires_ms: int,
        now_ms: int,
        wall_ms: int,
        epoch: bytes | None = None,
    ) -> list[Out]:
        """A request; `expires_ms` is a reading of this node's monotonic clock, 0 for never.

        `epoch` as in core/agreeing.py: None for what hangs on no owner.
        """
        if expires_ms and expires_ms < now_ms:
            return [Answer(to, EXPIRED)]
        refused = judge(self._ring, self.replica.owned, self.handover.closed, message, epoch)
        if self._is_over and isinstance(message, Mint | Merge):
            refused = OTHER_EPOCH  # what it would keep for others now it could not hand over
        if refused is not None:
            return [Answer(to, refused)]
        if isinstance(message, Mint):
            if not 0 < expires_ms <= now_ms + self._timeout_max_ms:
                return [Answer(to, STALE_MINT)]
            return self._take(self.replica.on_mint(to, message, wall_ms))
        return self._take(self._serving.perform(to, message, self._wall_ms))

    def on_appended(self, position: int) -> list[Out]:
        """The log has been given everything up to `position`."""
        self._appended = max(self._appended, position)
        self._unlogged.on_appended(position)
        if self._level == "written":
            self.replica.on_persisted(position)
        return self._release()

    def on_synced(self, position: int) -> list[Out]:
        """Everything up to `position` is fsynced."""
        self._synced = max(self._synced, position)
        self.replica.on_persisted(position)
        return self._release()

    def on_append_failed(self, cut_back: bool = True) -> list[Out]:
        """What was queued is not to be acknowledged: undo it, tell its callers, start anew.

        Unless the log could be `cut_back`, a part of it may be read again after a crash, so its
        outcome is unknown and not a refusal (rule 7).
        """
        failed = [reply for reply in self._waiting if reply.after > self._appended]
        self._waiting = [reply for reply in self._waiting if reply.after <= self._appended]
        self._unlogged.on_append_failed()
        end = READ_ONLY if cut_back else LEFT_BEHIND
        answers = [out for reply in failed for out in self._answer(reply.to, end)]
        return answers + self._take(self.replica.on_append_failed(self._appended))

    def on_incarnation(self, incarnation: bytes) -> None:
        """A fresh incarnation is fsynced: the node may mint."""
        self.replica.on_incarnation(incarnation)

    def on_tick(self, now_ms: int, wall_ms: int, unreachable: frozenset[bytes]) -> list[Out]:
        """Ask what should be true now (rule 11)."""
        self._now_ms, self._wall_ms = now_ms, wall_ms
        effects: list[Any] = [*self.replica.on_tick(now_ms, unreachable)]
        if self.replica.lives.begun:
            effects += self._unlogged.again(self.replica)
            effects += self.reaper.on_tick(now_ms, wall_ms, unreachable)
            self.rounds.on_tick(now_ms, unreachable)
            self.replica.forest.on_tick()
            effects += self.sync.on_tick(now_ms)
            effects += self.handover.on_tick(now_ms, unreachable)
            effects += self.receiver.on_tick(now_ms)
        return self._take(effects)

    def on_told(self, node: bytes, view: View) -> None:
        """Another node knows this, and perhaps more."""
        self.handover.on_told(node, view)

    def on_published(self, is_durable: bool) -> list[Out]:
        """What was to be published is durable and known here, or could not be put on disk."""
        return self._take(self.handover.on_published(is_durable))

    def on_granted(self, grant: Grant, is_durable: bool) -> list[Out]:
        """What was promised is on disk, or could not be put there."""
        return self._take(self.receiver.on_granted(grant, is_durable))

    def on_peer(self, node: bytes, request: Any, reply: Any, now_ms: int = 0) -> list[Out]:
        """The end of a request to `node`: its answer, or None if none came."""
        self._now_ms = max(self._now_ms, now_ms)
        out = self._end_of(node, request, reply)
        if isinstance(reply, Refused) and reply.code == Code.OTHER_EPOCH:
            out.append(Exchange(node))
        return out

    def repair_status(self) -> dict[str, Any]:
        """How comparisons with other owners stand, for people."""
        return {**self.rounds.status(), **self.sync.status()}

    def _end_of(self, node: bytes, request: Any, reply: Any) -> list[Out]:
        if self.sync.has_asked(request):
            return self._take(self.sync.on_end(reply, self._now_ms))
        if self.handover.has_asked(request):
            return self._take(self.handover.on_peer(request, reply, self._now_ms))
        if isinstance(request, Reap):
            self.reaper.on_reaped(node)
        elif isinstance(request, Merge) and request.durable:  # a delivery, and no old repair
            if isinstance(reply, Merged):
                return self._take(self.replica.on_delivered(node, self.receiver.expects))
            self.replica.on_not_delivered(node)
        elif isinstance(reply, Confirmed):
            return self._take(self.reaper.on_confirmed(node, request, reply))
        elif isinstance(request, Confirm):
            self.reaper.on_refused(request)
        return []

    def _take(self, effects: Sequence[Any]) -> list[Out]:
        out: list[Out] = []
        for effect in effects:
            if isinstance(effect, Reply):
                if self._is_due(effect):
                    out += self._answer(effect.to, effect.message)
                else:
                    self._waiting.append(effect)
                    out += self._fsync_for([effect])
            elif isinstance(effect, Send) and effect.node == self.replica.node:
                out += self._ask_itself(effect.message)
            elif isinstance(effect, Send):
                epoch = epoch_for(self._ring, effect.message)
                out.append(ToPeer(effect.node, effect.message, epoch))
            elif isinstance(effect, Persist | Renew | Publish | Grant | Exchange):
                if self._level == "memory" and isinstance(effect, Persist):
                    self.replica.on_persisted(effect.position)
                    self._unlogged.on_persist(effect)
                out.append(effect)
        return out

    def _ask_itself(self, message: Any) -> list[Out]:
        """It hangs on no ring; but its repairs end where a partition changes hands, or has."""
        to, owned, closed = Own(message), self.replica.owned, self.handover.closed
        if isinstance(message, Merge) and judge(self._ring, owned, closed, message, OWNERS):
            return self._answer(to, CLOSED)
        return self._take(self._serving.perform(to, message, self._wall_ms))

    def _release(self) -> list[Out]:
        out: list[Out] = []
        waiting, self._waiting = self._waiting, []
        for reply in waiting:
            if self._is_due(reply):
                out += self._answer(reply.to, reply.message)
            else:
                self._waiting.append(reply)
        return out + self._fsync_for(self._waiting)

    def _fsync_for(self, waiting: Sequence[Reply]) -> list[Out]:
        """Whoever waits for an fsync alone, and for nothing that is still to be appended."""
        due, appended = self._unlogged.due, self._appended
        wants = any(self._needs_sync(one) and max(one.after, due) <= appended for one in waiting)
        return [Fsync()] if wants else []

    def _answer(self, to: Any, message: Any) -> list[Out]:
        if isinstance(to, Own):
            return self.on_peer(self.replica.node, to.request, message)
        return [Answer(to, message)]

    def _needs_sync(self, reply: Reply) -> bool:
        return reply.durable or self._level == "synced"

    def _is_due(self, reply: Reply) -> bool:
        if self._needs_sync(reply):
            return max(reply.after, self._unlogged.due) <= self._synced
        return self._level == "memory" or reply.after <= self._appended
