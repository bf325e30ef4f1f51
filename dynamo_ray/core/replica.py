"""One storage node's decisions: what it holds, and what must be persisted before it answers.

    Mint, Merge ─► the map changes ─► Persist(position) ─► Reply(after=position)
    Fetch ───────────────────────────────────────────────► Reply(after=what it shows, if queued)

The map changes at the mint, before persisting; whatever answers, replicates or reads that key waits
until what it shows is persisted (rule 1). There is one ordered log queue. A failed append undoes
its map changes and those queued behind it, and asks for a new incarnation. A refusal applied
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dynamo_ray.core.clock import Dot
from dynamo_ray.core.forest import Forest
from dynamo_ray.core.hints import Hints
from dynamo_ray.core.lives import Lives
from dynamo_ray.core.merge import merge, replaced
from dynamo_ray.core.messages import (
    Code,
    Effect,
    Fetch,
    Fetched,
    Merge,
    Merged,
    Mint,
    Minted,
    Persist,
    Refused,
    Renew,
    Reply,
    Send,
)
from dynamo_ray.core.mint import Body, again, mint, operation_id
from dynamo_ray.core.orders import Orders
from dynamo_ray.core.plain import Plain, minted_of
from dynamo_ray.core.remembered import RememberedPuts
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.unpersisted import Changes, Unpersisted
from dynamo_ray.core.version import Kind, MalformedStateError, decode, dot_of, siblings

NOT_READY = Refused(Code.NOT_READY, "the node has no incarnation yet; try another node")
TOO_LONG = Refused(Code.TOO_LONG, "the states are too long for one answer; ask for fewer keys")
HINTS_FULL = Refused(Code.HINTS_FULL, "the node keeps as many hints as it may; try another node")


class Replica:
    """The machine of a storage node. `maps` holds one {key: state} per partition."""

    def __init__(
        self,
        node: bytes,
        settings: Settings,
        maps: list[dict[bytes, bytes]],
        owned: frozenset[int],
    ) -> None:
        self.node = node
        self.maps = maps
        self.owned = owned
        self.doubted: frozenset[int] = frozenset()
        self.handed_over: dict[int, bytes] = {}  # to whom, with all that was here: sealed (rule 17)
        self.hints = Hints(settings.limits.hint_bytes)
        keep_ms = int(settings.times.timeout_max_s * 10 * 1000)
        self.puts = RememberedPuts(keep_ms, settings.limits.remembered_puts)
        self.lives = Lives(node)
        self.queue = Unpersisted()
        self.forest = Forest(maps)
        self.orders = Orders(maps)
        self._limits = settings.limits

    @property
    def in_doubt(self) -> frozenset[int]:
        """The partitions that it owns and cannot prove to hold completely (rule 9)."""
        return self.doubted & self.owned

    def load_hints(self, hints: dict[bytes, bytes]) -> None:
        """Take over the hints that recovery found beside the maps."""
        self.hints.load(hints, self.maps)

    def on_incarnation(self, incarnation: bytes) -> None:
        """A new incarnation, never used before and fsynced (rule 2): minting may begin."""
        self.lives.begin(incarnation)

    def on_mint(self, to: Any, message: Mint, now_ms: int) -> list[Effect]:
        """Make one dot per key, at wall time `now_ms`; a key that must be refused fails alone."""
        if not self.lives.begun:
            return [Reply(to, NOT_READY)]
        if message.hint_for and not self.hints.has_room(_size(message.values)):
            return [Reply(to, HINTS_FULL)]
        changes = Changes()
        minted = self._mint_all(message, now_ms, changes)
        if message.hint_for:
            held = [i for i, state in enumerate(minted.states) if state is not None]
            self._keep(message.hint_for, message, held, changes)
        return self._persist(to, minted, changes, message.keys)

    def on_merge(self, to: Any, message: Merge) -> list[Effect]:
        """Merge whole states that others minted; no limit of the client's binds here (rule 19)."""
        if message.hint_for and not self.hints.has_room(_size(message.states)):
            return [Reply(to, HINTS_FULL)]
        changes = Changes()

        def general(row: int) -> None:
            key, partition, state = message.keys[row], message.partitions[row], message.states[row]
            self._merge_one(key, partition, state, changes)

        self._plain().merge(message, changes, general)
        self.puts.settle()
        if message.hint_for:
            self._keep(message.hint_for, message, range(len(message.keys)), changes)
        return self._persist(to, Merged(), changes, message.keys, message.durable)

    def on_fetch(self, to: Any, message: Fetch) -> list[Effect]:
        """The states as they are; the answer waits for what it shows (rule 1)."""
        maps = self.maps
        states = [
            maps[partition].get(key)
            for partition, key in zip(message.partitions, message.keys, strict=True)
        ]
        if len(states) > 1 and _size(states) > self._limits.batch_bytes:
            return [Reply(to, TOO_LONG)]
        asked = message.partitions
        complete = self.owned.issuperset(asked) and self.doubted.isdisjoint(asked)
        return [Reply(to, Fetched(states, complete), self.queue.shown_at(message.keys))]

    def on_placement(self, placement: Placement) -> None:
        """Other partitions are owned, and hints are due to others.

        What is held and not owned any more is let go of in core/receive.py.
        """
        before, self.owned = self.owned, placement.owned(self.node)
        self.handed_over = {p: to for p, to in self.handed_over.items() if p not in self.owned}
        self.doubted |= before - self.owned  # it misses what is written from now on
        self.hints.on_ring(placement.ring, self.node, self.maps)

    def on_persisted(self, position: int) -> None:
        """The log holds everything up to `position`."""
        self.queue.on_persisted(position)

    def on_append_failed(self, appended: int = 0) -> list[Effect]:
        """The log took nothing after `appended`: undo that, latest first, and start anew."""
        for changes in self.queue.undo(self.maps, self.puts, self.hints, appended):
            self._mark(changes.partitions, changes.keys)
        self.lives.end()
        return [Renew()]

    def on_tick(self, now_ms: int, unreachable: frozenset[bytes]) -> list[Effect]:
        """Ask what should be true: whoever answers gets what is kept for it (rule 11)."""
        self.puts.on_tick(now_ms)
        effects: list[Effect] = []
        for owner in self.hints.owners():
            if owner not in unreachable and owner != self.node:
                effects += self._deliver(owner)
        return effects

    def on_delivered(self, owner: bytes, expects: Callable[[int], bool]) -> list[Effect]:
        """The owner has fsynced what was sent: let go of hints, and of copies nobody `expects`."""
        changes = Changes()
        for key, sent in self.hints.settled(owner).items():
            partition = self.hints.partition_of(owner, key)
            if partition is None or self.maps[partition].get(key) != sent:
                continue
            owners = self.hints.of(key)
            self.hints.remove(owner, key)
            let_go = not expects(partition) and not self.hints.of(key)
            changes.add(partition, key, sent, None if let_go else sent, owners)
            if let_go:
                self.puts.remember(replaced(sent, None))
                self.lives.forget(key)
                del self.maps[partition][key]
        return [self.record(changes)] if changes else []

    def on_not_delivered(self, owner: bytes) -> None:
        """The owner did not answer, or refused: the next tick tries again."""
        self.hints.settled(owner)

    def _mint_all(self, message: Mint, now_ms: int, changes: Changes) -> Minted:
        """Mint every key: the plain ones the lean way, the others the general way."""
        others: dict[int, tuple[int, bytes | None]] = {}
        asked = message.keys, message.partitions, message.values, message.contexts
        columns: tuple[Sequence[Any], ...] = (*asked, message.put_ids, message.ttls_ms)

        def general(row: int) -> bytes | None:
            code, state, after = self._mint_one(
                [column[row] for column in columns], now_ms, changes
            )
            others[row] = code, after
            return state

        states = self._plain().mint(message, now_ms, changes, general)
        self.puts.settle()
        return minted_of(states, others)

    def _plain(self) -> Plain:
        return Plain(self.maps, self.lives, self.puts, self.hints.of_key)

    def _mint_one(
        self, row: Sequence[Any], now_ms: int, changes: Changes
    ) -> tuple[int, bytes | None, bytes | None]:
        key, partition, value, context, put_id, ttl_ms = row
        kind, payload = (Kind.TOMBSTONE, b"") if value is None else (Kind.VALUE, value)
        operation = operation_id(put_id, kind, payload, context, ttl_ms)
        held = self.maps[partition].get(key)
        first = self._minted_before(held, operation)
        if first is not None:
            # It may have gone home, and another branch be held since: that would prove nothing.
            known = held is not None and decode(held).clock.covers(first)
            return (Code.OK, held, again(held, first, context)) if known else UNKNOWN
        expiry_ms = now_ms + ttl_ms if ttl_ms else 0
        body = Body(kind, now_ms, expiry_ms, operation, payload)
        dot = self.lives.next_dot(key, held)
        try:
            state, after = mint(held, dot, context, body)
        except MalformedStateError:
            return Code.INVALID_CONTEXT, None, None
        most = max(self._limits.sibling_bytes, len(held or b""))
        if len(state) > most and siblings(state) > 1:
            return Code.TOO_MANY_SIBLINGS, None, None
        self._take(key, partition, held, state, changes)
        self.lives.minted(key, dot, state, context is not None)
        return Code.OK, state, after

    def _minted_before(self, held: bytes | None, operation: bytes) -> Dot | None:
        """The dot that this very operation has already, if it is known here (rule 7)."""
        dot = self.puts.get(operation)
        if dot is not None:
            return Dot(dot[:30], int.from_bytes(dot[30:], "big"))
        return dot_of(held, operation) if held is not None and operation in held else None

    def _merge_one(self, key: bytes, partition: int, state: bytes, changes: Changes) -> None:
        held = self.maps[partition].get(key)
        merged = state if held is None else merge(held, state)
        if merged != held:
            self._take(key, partition, held, merged, changes)
            self.lives.watch(key, held, merged)

    def _take(
        self, key: bytes, partition: int, held: bytes | None, state: bytes, changes: Changes
    ) -> None:
        changes.add(partition, key, held, state, self.hints.of(key))
        self.maps[partition][key] = state
        if held is not None:
            self.puts.remember(replaced(held, state))

    def _keep(
        self, owner: bytes, message: Mint | Merge, rows: Sequence[int], changes: Changes
    ) -> None:
        """The copies are kept for `owner` too; a hint that is new needs a record of its copy."""
        for i in rows:
            key, partition = message.keys[i], message.partitions[i]
            state = self.maps[partition][key]
            if self.hints.partition_of(owner, key) is None:
                changes.add(partition, key, state, state, self.hints.of(key))
            self.hints.add(owner, key, partition, len(state))

    def _persist(
        self,
        to: Any,
        message: Any,
        changes: Changes,
        keys: Sequence[bytes],
        durable: bool = False,
    ) -> list[Effect]:
        """Record the changes, then answer once all that the answer speaks of is in the log."""
        if not changes:
            # `durable` speaks of the states, new or not: they must be fsynced all the same.
            after = self.queue.last if durable else self.queue.shown_at(keys)
            return [Reply(to, message, after, durable)]
        record = self.record(changes)
        return [record, Reply(to, message, record.position, durable)]

    def record(self, changes: Changes) -> Persist:
        """Put them to the log; of a key that changed twice the later row counts."""
        of, keys = self.hints.of, changes.keys
        self._mark(changes.partitions, keys)
        hints = [of(key) for key in keys] if len(self.hints) else ()
        return Persist(self.queue.add(changes), changes.partitions, keys, changes.after, hints)

    def _mark(self, partitions: Sequence[int], keys: Sequence[bytes]) -> None:
        self.forest.mark(partitions, keys)
        self.orders.mark(partitions, keys)

    def _deliver(self, owner: bytes) -> list[Effect]:
        merge_home = self.hints.delivery(owner, self.maps, self._limits.batch_bytes)
        if merge_home is None or self.queue.shown_at(merge_home.keys):
            return []
        self.hints.sent(owner, dict(zip(merge_home.keys, merge_home.states, strict=True)))
        return [Send(owner, merge_home)]


UNKNOWN = (int(Code.UNKNOWN), None, None)


def _size(payloads: Sequence[bytes | None]) -> int:
    return sum(map(len, filter(None, payloads)))
