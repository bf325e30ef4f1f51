"""A storage node around its replica: late work is dropped, answers wait for the log.

    request ─► (expired? refuse) ─► Replica ─► Append ─► appended / synced ─► Answer
    tick ─► hints, reaping, comparisons ─► ToPeer ─► its end

What "persisted" means is the durability level's: `memory` waits for nothing, `written` for the
append, `synced` for the fsync that covers it. An answer that is asked to be durable (someone gives
up a copy for it: rule 8) always waits for the fsync. Times are the node's own clocks: `now_ms`
monotonic, for expiry; `wall_ms`, for what a mint stamps. What the node asks all members it asks
itself, too, by the same way.
"""

from __future__ import annotations

from typing import Any

from dynamo_ray.core.compare import answer
from dynamo_ray.core.forget import confirm, reap
from dynamo_ray.core.messages import (
    Code,
    Effect,
    Fetch,
    Merge,
    Merged,
    Mint,
    Persist,
    Refused,
    Renew,
    Reply,
    Send,
)
from dynamo_ray.core.pages import Pages
from dynamo_ray.core.reap import Reaper
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.sync import Sync
from dynamo_ray.core.unlogged import Unlogged
from dynamo_ray.core.upkeep import (
    Compare,
    Confirm,
    Confirmed,
    Copy,
    Descend,
    Enumerate,
    Reap,
    Scan,
)
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


Out = Answer | ToPeer | Persist | Renew


class Node:
    """The machine of one storage node's server."""

    def __init__(self, replica: Replica, settings: Settings, ring: Ring) -> None:
        self.replica = replica
        self.reaper = Reaper(replica, ring, settings)
        self.sync = Sync(replica, ring, settings)
        self._level = settings.durability
        self._grace_ms = int(settings.times.grace_s * 1000)
        self._wall_ms = 0  # at the last tick, for what may be a little old
        self._pages = Pages(replica, settings.limits.batch_bytes)
        self._timeout_max_ms = int((settings.times.timeout_max_s + settings.times.linger_s) * 1000)
        self._waiting: list[Reply] = []
        self._appended = 0
        self._synced = 0
        self._unlogged = Unlogged()

    @property
    def wants_sync(self) -> bool:
        """True if an answer waits for an fsync."""
        return bool(self._waiting) and any(map(self._needs_sync, self._waiting))

    def on_request(
        self, to: Any, message: Any, expires_ms: int, now_ms: int, wall_ms: int
    ) -> list[Out]:
        """A request; `expires_ms` is a reading of this node's monotonic clock, 0 for never."""
        if expires_ms and expires_ms < now_ms:
            return [Answer(to, EXPIRED)]
        if isinstance(message, Mint):
            if not 0 < expires_ms <= now_ms + self._timeout_max_ms:
                return [Answer(to, STALE_MINT)]
            return self._take(self.replica.on_mint(to, message, wall_ms))
        return self._take(self._act(to, message))

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
        self._wall_ms = wall_ms
        effects = self.replica.on_tick(now_ms, unreachable)
        if self.replica.lives.begun:
            effects += self._unlogged.again(self.replica)
            effects += self.reaper.on_tick(now_ms, wall_ms, unreachable)
            effects += self.sync.on_tick(now_ms, unreachable)
        return self._take(effects)

    def on_peer(self, node: bytes, request: Any, reply: Any) -> list[Out]:
        """The end of a request to `node`: its answer, or None if none came."""
        if self.sync.has_asked(request):
            return self._take(self.sync.on_end(reply))
        if isinstance(request, Reap):
            self.reaper.on_reaped(node)
        elif isinstance(reply, Merged):
            return self._take(self.replica.on_delivered(node))
        elif isinstance(reply, Confirmed):
            return self._take(self.reaper.on_confirmed(node, request, reply))
        elif isinstance(request, Confirm):
            self.reaper.on_refused(request)
        else:
            self.replica.on_not_delivered(node)
        return []

    def _act(self, to: Any, message: Any) -> list[Effect]:
        """What needs no clock."""
        if isinstance(message, Fetch):
            return self.replica.on_fetch(to, message)
        if isinstance(message, Merge):
            return self.replica.on_merge(to, message)
        if isinstance(message, Copy | Scan):
            return [self._pages.page(to, message)]
        if isinstance(message, Compare | Descend | Enumerate):
            return answer(self.replica, to, message)
        if isinstance(message, Confirm):
            return confirm(self.replica, to, message, self._wall_ms - self._grace_ms)
        if isinstance(message, Reap):
            return reap(self.replica, to, message)
        return [Reply(to, Refused(Code.BAD_REQUEST, "not a request to a storage node"))]

    def _take(self, effects: list[Effect]) -> list[Out]:
        out: list[Out] = []
        for effect in effects:
            if isinstance(effect, Reply):
                if self._is_due(effect):
                    out += self._answer(effect.to, effect.message)
                else:
                    self._waiting.append(effect)
            elif isinstance(effect, Send) and effect.node == self.replica.node:
                out += self._take(self._act(Own(effect.message), effect.message))
            elif isinstance(effect, Send):
                out.append(ToPeer(effect.node, effect.message))
            elif isinstance(effect, Persist | Renew):
                if self._level == "memory" and isinstance(effect, Persist):
                    self.replica.on_persisted(effect.position)
                    self._unlogged.on_persist(effect)
                out.append(effect)
        return out

    def _release(self) -> list[Out]:
        due: list[Reply] = []
        left: list[Reply] = []
        for reply in self._waiting:
            if self._is_due(reply):
                due.append(reply)
            else:
                left.append(reply)
        self._waiting = left
        return [out for reply in due for out in self._answer(reply.to, reply.message)]

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
