"""How a node gives away slots that others should have, while both serve (DESIGN rules 15 to 17).

    wished ─► Offer ─► compare, send what lacks ─► little was sent: close ─► all logged and hashed?
                ▲            ▲    └ much was sent: again                          │
                │            └────────────────────┐                 compare, send the rest
                └── refused, silent, too long: open again, later ◄──┐             │
                                                  └─────────────────┴─ Seal ◄─────┘
                                                                        └► Publish: it is theirs

Until the receiver has fsynced everything this node alone is the owner and serves: nobody is on the
new ring before that. While it is closed, for some tenths of a second, a partition takes no writes
here; other owners and stand-ins do, and reads go on. What the receiver holds beside it, for others,
does no harm: it must hold all that this node holds, not the same. A comparison at a time, with an
allowance of bytes and time; where more is written than is sent so, the next one does not rest. If
either side ends, the next start begins again with what is there: a wish is a part of the view, and
what was sent is compared, not sent again.

What this node inherited (core/inheriting.py) it publishes, too, and is closed until all know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.inheriting import Inheriting
from dynamo_ray.core.membership import Slot, View, Wish
from dynamo_ray.core.messages import Effect, Send
from dynamo_ray.core.move import Moving, Step
from dynamo_ray.core.pace import TRANSFER_SHARE, Allowance
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.rounds import Turn
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.sync import Sync
from dynamo_ray.core.upkeep import Offer, Offered, Seal, Sealed
from dynamo_ray.core.values import value

NEAR_KEYS = 100  # one page
AGAIN_MS = 1000
CLOSED_MS_MAX = 3000


@value
class Publish:
    """Effect: note durably who owns these slots now, then let everybody know (rule 15).

    Durably before that: of `doubted` it may lack something. What it has published as its own, and
    does not doubt, a start takes to be complete (rule 9).
    """

    slots: Mapping[int, Slot]
    doubted: frozenset[int] = frozenset()


Out = Effect | Publish | Exchange


class Handover:
    """The machine of one node that gives slots away, one at a time."""

    def __init__(self, replica: Replica, settings: Settings) -> None:
        limits = settings.limits
        self._replica = replica
        self._copies = settings.n
        allowance = Allowance(limits.transfer_bytes, TRANSFER_SHARE)
        self._sync = Sync(replica, self, allowance, limits.batch_bytes, may_lack=True)
        self._wishes: dict[int, Wish] = {}
        self._taken_back: dict[int, Slot] = {}
        self._inheriting = Inheriting(replica.node)
        self._waits: dict[int, int] = {}
        self._hurried: set[int] = set()
        self._current: Moving | None = None
        self._question: Any = None
        self._publishing: Mapping[int, Slot] = {}
        self._now_ms = 0
        self._unreachable: frozenset[bytes] = frozenset()
        self._given = 0
        self.closed: frozenset[int] = frozenset()
        """Partitions that take no writes here now."""

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to give and nothing to publish."""
        return not (self._current or self._wishes or self._inheriting.slots or self._taken_back)

    @property
    def inheriting(self) -> frozenset[int]:
        """The partitions that it owns now and not everybody knows that; nothing proves them yet."""
        return self._inheriting.partitions

    def on_placement(self, placement: Placement) -> None:
        """What is wished of this node's slots, and what it owns without having said so."""
        me = self._replica.node
        self._wishes = placement.wished(me)
        self._taken_back = placement.taken_back(me)
        self._inheriting.on_placement(placement, self._replica.doubted)
        self._replica.doubted |= self._inheriting.partitions  # nobody said that all is here
        current = self._current
        if current is not None and current.step is not Step.PUBLISHING:
            if self._wishes.get(current.slot) != current.wish:
                self._let_go()
        self._reckon_closed()

    def on_told(self, node: bytes, view: View) -> None:
        """Another node knows that much by now."""
        self._inheriting.on_told(node, view)
        self._reckon_closed()

    def on_tick(self, now_ms: int, unreachable: frozenset[bytes]) -> list[Out]:
        """Ask what should be true now (rule 11)."""
        self._now_ms, self._unreachable = now_ms, unreachable
        publish = [*self._due_to_publish(), *self._inheriting.to_tell(unreachable)]
        current = self._current
        if current is not None and self._is_hopeless(current, unreachable):
            self._fail(current)
        if self._current is None:
            return [*publish, *self._offer_next()]
        if current is not None and current.step is Step.CLOSING and self._is_still(current):
            self._begin(current, Step.FINISHING)
        return [*publish, *self._sync.on_tick(now_ms), *self._seal_if_due()]

    def has_asked(self, request: Any) -> bool:
        """True if this is a question whose end is waited for."""
        is_own = self._question is not None and request is self._question
        return is_own or self._sync.has_asked(request)

    def on_peer(self, request: Any, reply: Any, now_ms: int = 0) -> list[Out]:
        """The question has come to its end: an answer, a refusal, or None for neither."""
        if self._sync.has_asked(request):
            effects: list[Out] = [*self._sync.on_end(reply, now_ms)]
            return effects + self._seal_if_due()
        self._question, current = None, self._current
        if current is None:
            return []
        if isinstance(request, Offer) and isinstance(reply, Offered):
            current.token = reply.token
            self._begin(current, Step.COPYING)
            return [*self._sync.go_on(now_ms), *self._seal_if_due()]
        elif isinstance(request, Seal) and isinstance(reply, Sealed):
            current.step = Step.PUBLISHING
            return self._due_to_publish()
        else:
            self._fail(current)
        return []

    def on_published(self, is_durable: bool) -> list[Out]:
        """It is durable and known here, or the disk did not take it and nothing has changed."""
        published, self._publishing, current = self._publishing, {}, self._current
        if current is None or current.step is not Step.PUBLISHING:
            return []
        if current.slot not in published:  # it was sealed while others were on their way
            return self._due_to_publish() if is_durable else []
        self._given += is_durable
        if is_durable:
            self._replica.handed_over[current.partition] = current.wish.receiver
        self._fail(current)
        if not is_durable:
            return self._offer_next()
        self._hurried.discard(current.slot)
        return [Exchange(current.wish.receiver), *self._offer_next()]

    def status(self, name: Callable[[bytes], str]) -> dict[str, Any]:
        """What moves and what is left to move, for people."""
        current = self._current
        return {
            "partition": None if current is None else current.partition,
            "to": None if current is None else name(current.wish.receiver),
            "step": None if current is None else current.step.name.lower(),
            "left": len(self._wishes),
            "given": self._given,
            "keys": self._sync.keys_sent,
            "bytes": self._sync.bytes_moved,
        }

    # ---- turns of its comparisons

    def next(self) -> Turn | None:
        """The partition on its way, compared with its receiver."""
        current = self._current
        if current is None or current.step not in (Step.COPYING, Step.FINISHING):
            return None
        return Turn(current.partition, current.wish.receiver, True, False)

    @property
    def is_waited_for(self) -> bool:
        """True while a partition is closed, or is written faster than it is sent with rests."""
        current = self._current
        is_closed = current is not None and current.step is Step.FINISHING
        return current is not None and (is_closed or current.slot in self._hurried)

    def on_end(self, turn: Turn, began_ms: int, is_done: bool) -> None:
        """A comparison has ended: close, compare again, or begin anew."""
        current = self._current
        if current is None or turn.partition != current.partition:
            return
        sent = self._sync.keys_sent - current.sent_before
        if current.step is Step.FINISHING:
            if is_done:
                current.step = Step.SEALING
            else:
                self._fail(current)
        elif current.step is Step.COPYING:
            before, is_hurried = current.last_sent, current.slot in self._hurried
            shrinks = before is None or before >= 2 * sent
            if not is_done:
                self._fail(current)
            elif sent <= NEAR_KEYS or (is_hurried and not shrinks):
                self._close(current)
            else:
                if not shrinks:
                    self._hurried.add(current.slot)
                current.last_sent = sent if shrinks else None
                current.sent_before = self._sync.keys_sent

    # ---- steps

    def _offer_next(self) -> list[Out]:
        """Begin with the first slot that is due and whose receiver can be reached."""
        for slot, wish in self._wishes.items():
            if self._may_offer(slot, wish):
                move = self._current = Moving(slot, slot // self._copies, wish)
                return self._ask(move, Offer(move.partition, slot, wish.generation + 1))
        return []

    def _may_offer(self, slot: int, wish: Wish) -> bool:
        """Not what may lack something here: the receiver's copies are to count at once (rule 9)."""
        is_doubted = slot // self._copies in self._replica.doubted
        is_whole = slot not in self._inheriting.slots and not is_doubted
        is_due = self._waits.get(slot, 0) <= self._now_ms
        return is_whole and is_due and wish.receiver not in self._unreachable

    def _begin(self, current: Moving, step: Step) -> None:
        current.step = step
        current.sent_before = self._sync.keys_sent

    def _close(self, current: Moving) -> None:
        """Take no more writes; what was taken must be logged, and in the tree, before the last."""
        current.step = Step.CLOSING
        current.closed_ms = self._now_ms
        current.closed_at = self._replica.queue.last
        self._reckon_closed()
        if self._is_still(current):
            self._begin(current, Step.FINISHING)

    def _reckon_closed(self) -> None:
        closed = set(self._inheriting.partitions)
        if self._current is not None and self._current.closed_at is not None:
            closed.add(self._current.partition)
        self.closed = frozenset(closed)

    def _is_still(self, current: Moving) -> bool:
        replica = self._replica
        if not replica.queue.is_persisted(current.closed_at or 0):
            return False
        return replica.forest.is_exact(current.partition)

    def _seal_if_due(self) -> list[Out]:
        current = self._current
        if current is None or current.step is not Step.SEALING or self._question is not None:
            return []
        generation = current.wish.generation + 1
        return self._ask(current, Seal(current.partition, current.slot, generation, current.token))

    def _ask(self, current: Moving, question: Offer | Seal) -> list[Out]:
        self._question = question
        return [Send(current.wish.receiver, question)]

    def _is_hopeless(self, current: Moving, unreachable: frozenset[bytes]) -> bool:
        if current.step is Step.PUBLISHING:
            return False
        is_closed = current.closed_at is not None
        is_late = is_closed and self._now_ms - current.closed_ms > CLOSED_MS_MAX
        return is_late or current.wish.receiver in unreachable

    def _fail(self, current: Moving) -> None:
        """Open again, and let other slots go first."""
        self._waits[current.slot] = self._now_ms + AGAIN_MS
        self._let_go()

    def _let_go(self) -> None:
        self._current = self._question = None
        self._sync.stop()
        self._reckon_closed()

    # ---- publishing

    def _due_to_publish(self) -> list[Out]:
        """Only one at a time is on its way to the disk; what is left is due again."""
        current, inheriting, due = self._current, self._inheriting, self._inheriting.to_publish()
        slots = {s: own for s, own in self._taken_back.items() if s not in inheriting.slots} | due
        if current is not None and current.step is Step.PUBLISHING:
            slots[current.slot] = Slot(current.wish.generation + 1, current.wish.receiver)
        if self._publishing or not slots:
            return []
        self._publishing = slots
        return [Publish(slots, frozenset(slot // self._copies for slot in due))]
