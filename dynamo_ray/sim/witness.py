"""What the shell of a node alone can see, told to the history: mints, records, answers, losses.

Whatever is wrong at the moment at which it happens becomes a breach: an answer ahead of its log, a
copy that is let go of too early, a start that finds less than was acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_ray.core.messages import Fetched, Merge, Merged, Mint, Minted
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.upkeep import Copied
from dynamo_ray.sim.history import Reaped, decode
from dynamo_ray.sim.journal import Row

if TYPE_CHECKING:
    from dynamo_ray.sim.nodes import StorageNode


class Witness:
    """Looks at one node."""

    def __init__(self, node: StorageNode) -> None:
        self._node = node
        self.kept_for_others: set[bytes] = set()
        """The keys whose last record had a hint."""

    def states(self, message: Mint) -> list[bytes | None]:
        """What is held of the keys of a mint now."""
        node = self._node
        maps = node.replica.maps
        rows = zip(message.partitions, message.keys, strict=True)
        return [maps[partition].get(key) for partition, key in rows]

    def tell_mints(self, message: Mint, before: list[bytes | None]) -> None:
        """A mint was handled; `before` is what was held."""
        node = self._node
        after = self.states(message)
        rows = zip(message.keys, message.put_ids, message.contexts, before, after, strict=True)
        for key, put_id, context, old, new in rows:
            node.history.on_minted(node.name, node.world.now, key, put_id, context, old, new)

    def tell_forgotten(self, before: dict[bytes, bytes], may_forget: bool, disk_lost: bool) -> None:
        """What a start did not find again of what was acknowledged.

        Never without a doubt, and never without a cause: a power loss below `synced`, any end at
        `memory`, or damage to the disk since the last start.
        """
        node = self._node
        q, ring, doubted = node.settings.partitions, node.placement.ring, node.replica.doubted
        if doubted:
            node.history.forget_what(node.name)
        for key, state in before.items():
            partition, after = partition_of(key, q), node.logged.get(key)
            if after == state:
                continue
            owners = ring.owners(partition)
            of = _left if disk_lost else _held
            holders = {peer.id: of(peer, partition, key) for peer in node.peers.values()}
            at_owners = [held for peer, held in holders.items() if peer in owners]
            forgot = node.history.on_forgotten(
                key, node.stopped_at, (state, after), at_owners, list(holders.values())
            )
            if forgot and (partition not in doubted or not may_forget):
                text = f"{node.name} lost {key!r}"
                text += " without a cause" if partition in doubted else " and does not doubt that"
                node.history.breach("recovery", node.world.now, text)

    def tell_gone(self, before: dict[bytes, bytes]) -> None:
        """The node is gone for good, with all that it had acknowledged."""
        node = self._node
        node.history.forget_what(node.name)
        for key, state in before.items():
            partition = partition_of(key, node.settings.partitions)
            owners = node.placement.ring.owners(partition)
            others = [peer for peer in node.directory.values() if peer.is_there(node)]
            holders = {peer.id: _left(peer, partition, key) for peer in others}
            at_owners = [held for peer, held in holders.items() if peer in owners]
            node.history.on_forgotten(
                key, node.world.now, (state, None), at_owners, list(holders.values())
            )

    def tell_logged(self, row: Row) -> None:
        """A record was given to the log."""
        node = self._node
        held = node.logged.get(row.key)
        if held is not None and row.partition in node.replica.owned and _is_less(held, row.state):
            peers = node.peers.values()
            others = {p.name: p.logged[row.key] for p in peers if row.key in p.logged}
            limit_ms = node.wall_ms - int(node.settings.times.grace_s * 1000)
            reaped = Reaped(node.world.now, node.name, held, row.state, limit_ms)
            node.history.on_reaped(row.key, reaped, others)
        was_hinted = row.key in self.kept_for_others
        self.kept_for_others.discard(row.key)
        if row.state is None:
            node.logged.pop(row.key, None)
            if row.partition not in node.replica.owned:
                if was_hinted or row.partition in node.ever_owned:
                    self._check_handed_home(row, held)
            return
        node.logged[row.key] = row.state
        if row.hints:
            self.kept_for_others.add(row.key)
        node.history.on_logged(node.name, node.world.now, row.key, row.state, not node.ousted)
        is_ours = row.partition in node.replica.owned or row.partition in node.ever_owned
        if not is_ours and not row.hints and not node.node.receiver.expects(row.partition):
            text = f"{node.name} logged a copy of {row.key!r} that it does not own, without a hint"
            node.history.breach("hints", node.world.now, text)

    def _check_handed_home(self, row: Row, held: bytes | None) -> None:
        """Rule 8: whoever gives up a copy knows that an owner has it fsynced, at every level."""
        node = self._node
        owners = [
            node.directory[one]
            for one in node.placement.ring.owners(row.partition)
            if one != node.id
        ]
        for owner in owners:
            kept = owner.synced.get(row.key)
            if held is None or kept == held:
                return
            if kept is not None and decode(kept).clock.includes(decode(held).clock):
                return
        text = f"{node.name} let go of {row.key!r} and no owner has it fsynced"
        node.history.breach("let go", node.world.now, text)

    def check_persisted(self, request: Any, message: Any) -> None:
        """Rule 8: whatever an answer speaks of is persisted as the durability level says."""
        node = self._node
        level = node.settings.durability
        durable = level == "synced" or (isinstance(request, Merge) and request.durable)
        if level == "memory" and not durable:
            return
        if isinstance(message, Minted | Fetched):
            keys, partitions, states = request.keys, request.partitions, message.states
        elif isinstance(message, Merged) and isinstance(request, Merge):
            keys, partitions, states = request.keys, request.partitions, request.states
        elif isinstance(message, Copied):
            keys, states = message.keys, message.states
            partitions = [request.partition] * len(keys)
        else:
            return
        held = node.synced if durable else node.logged
        owned = node.replica.owned
        for key, partition, state in zip(keys, partitions, states, strict=True):
            known = held.get(key)
            if state is None or known == state or (known is None and partition not in owned):
                continue
            if known is None or not decode(known).clock.includes(decode(state).clock):
                text = f"{node.name} answered {type(request).__name__} of {key!r} before its log"
                node.history.breach("persist", node.world.now, text)


def _held(peer: StorageNode, partition: int, key: bytes) -> bytes | None:
    """What a node holds now."""
    return peer.kept.get(key)


def _left(peer: StorageNode, partition: int, key: bytes) -> bytes | None:
    """What it will hold: what it gave away it lets go of, for it was sealed on another disk."""
    return None if partition in peer.replica.handed_over else _held(peer, partition, key)


def _is_less(before: bytes, after: bytes | None) -> bool:
    """True if a state lets go of something that it had seen."""
    return after is None or not decode(after).clock.includes(decode(before).clock)
