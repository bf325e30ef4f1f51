"""The shell of a storage node in the simulator: the twin of the node server.

    request ─► Node ─► Persist ─► gathered ─► append ─► appended ─► Answer
                │                                       sync ─► synced
                └► ToPeer ─► call, with a time limit ─► on_peer

One append of all that was gathered is under way at a time; a sync may run beside it. A crash may
come before the write, between the write and its answer, or after it. What only the shell can see it
lets its witness (sim/witness.py) tell the history.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.detector import Detector
from dynamo_ray.core.gossip import Digests, News
from dynamo_ray.core.handover import Publish
from dynamo_ray.core.membership import NODE_ROLE, Fact, View, merge_views
from dynamo_ray.core.merge import replaced
from dynamo_ray.core.messages import Fetch, Merge, Mint, Persist
from dynamo_ray.core.node import Answer, Fsync, Node, Out, ToPeer
from dynamo_ray.core.receive import Grant
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement
from dynamo_ray.sim.gossip import Gossiper
from dynamo_ray.sim.history import History
from dynamo_ray.sim.journal import AppendRefusedError, Journal, Recovered, Row
from dynamo_ray.sim.network import Network, Peer
from dynamo_ray.sim.rebuilding import Rebuilding
from dynamo_ray.sim.snapshots import Snapshots
from dynamo_ray.sim.witness import Witness
from dynamo_ray.sim.world import SECOND, World
from dynamo_ray.storage.errors import StorageError, SyncFailedError

RESTART_US = SECOND // 5
LEAVE_US = 2 * SECOND


class StorageNode(Gossiper):
    """One storage node: its machines, its log, and what it was seen to have logged."""

    def __init__(
        self, world: World, network: Network, name: str, node_id: bytes, journal: Journal
    ) -> None:
        super().__init__(world, network, name)
        self.id = node_id
        self.journal = journal
        self.append_us = 100
        self.sync_us = 2000
        self.takes_snapshots = False
        self.settings: Settings
        self.history: History
        self.weight = 1.0
        self.zone = ""
        self.ended = False
        self.ousted = False
        self.ever_owned: frozenset[int] = frozenset()
        self._founded: Placement
        self._durable_view = View()
        self.witness = Witness(self)
        self.logged: dict[bytes, bytes] = {}
        self.stopped_at = 0
        self._lost_power = False
        self.synced: dict[bytes, bytes] = {}
        self._ever_given: set[tuple[bytes, bytes | None]] = set()
        self._chance = world.stream("disk")

    @property
    def peers(self) -> dict[bytes, StorageNode]:
        """The other nodes that this one knows of."""
        return self.known

    def begin(self, placement: Placement, settings: Settings, history: History) -> None:
        """Join the cluster, for the first time."""
        self._founded, self.settings, self.history = placement, settings, history
        self.placement = placement
        self.start()

    def start(self) -> None:
        """Start, or start again: read the log back, draw a new incarnation, watch the peers."""
        level = self.settings.durability
        may_forget = level == "memory" or (level == "written" and self._lost_power)
        disk_lost = self.journal.is_damaged
        may_forget = may_forget or disk_lost
        found, incarnation = None, None
        with suppress(StorageError):
            found = self.journal.recover()
            incarnation = self.journal.new_incarnation(self.wall_ms)
        if found is None or incarnation is None:
            self.journal.crash(power_loss=False)
            self._start_later()
            return
        self.up = True
        times = self.settings.times
        # What it knew when it wrote of its slots is durable; of the rest it may know less again.
        known = self._durable_view if self._lost_power else self.placement.view
        self._lost_power = self.journal.is_damaged = False  # what it has done is found, and noted
        self.placement = self._founded.learn(known)
        self._take_over(found, may_forget, disk_lost)
        self.rebuilding = Rebuilding(self)
        self.node = Node(self.replica, self.settings, self.placement, found.granted)
        self.detector = Detector(times)
        self.detector.watch(sorted(self.peers), self.mono_s)
        self._gathered: list[Persist] = []
        self._appending = self._syncing = False
        self._may_append = self._sync_due = False
        self._appended_at = 0
        self._synced_at = 0
        self.after(self.taking(self.sync_us), "incarnation", self._renewed, incarnation)
        self.after(int(times.tick_s * SECOND), "tick", self._tick)
        self.after(int(times.sync_s * SECOND), "sync due", self._sync_timer)
        self.begin_gossip()
        if self.takes_snapshots:
            Snapshots(self).begin()

    def stop(self, power_loss: bool = False) -> None:
        """The process ends at once."""
        self.end_run()
        self.stopped_at = self.world.now
        self._lost_power = self._lost_power or power_loss
        self.journal.crash(power_loss)
        if power_loss or self.takes_snapshots:
            self.history.forget_what(self.name)
        self.break_off()

    def on_call(
        self, src: Peer, call: int, message: Any, expires_ms: int, epoch: bytes | None
    ) -> None:
        """A request came."""
        if isinstance(message, News | Digests):
            self.hear(src, call, message)
            return
        to = (src, src.run, call, message)
        before = self.witness.states(message) if isinstance(message, Mint) else []
        out = self.node.on_request(to, message, expires_ms, self.mono_ms, self.wall_ms, epoch)
        if isinstance(message, Mint):
            self.witness.tell_mints(message, before)
        self._perform(out)

    def on_heard(self, peer: Peer) -> None:
        """A sign of life of a peer."""
        self.detector.on_heard(_id(peer), self.mono_s)

    def on_peer_down(self, peer: Peer) -> None:
        """A peer's connection closed, or was refused."""
        self.detector.on_down(_id(peer), self.mono_s)

    @property
    def kept(self) -> dict[bytes, bytes]:
        """The states that the node may have acknowledged, as its level says; also while down."""
        if self.settings.durability == "memory":
            return {key: state for of in self.replica.maps for key, state in of.items()}
        if self.settings.durability == "written":
            return self.logged
        # What was handed home since is gone on purpose, whether or not that is synced.
        return {key: state for key, state in self.synced.items() if key in self.logged}

    def prove(self, partitions: frozenset[int]) -> None:
        """These partitions were compared with enough other owners: they count again (rule 9)."""
        try:
            sure = partitions & self.node.to_prove
            if self.journal.proved(sure):
                self.replica.doubted -= sure
        except SyncFailedError:
            self.fail()

    def take_in(self, partition: int, message: Merge) -> None:
        """A merge of what was copied from another owner, as if it had been sent."""
        to = (self, self.run, partition, message)
        self._perform(self.node.on_request(to, message, 0, self.mono_ms, self.wall_ms))

    def on_placement(self, is_other_ring: bool) -> None:
        """Who is there, and who owns what, is another thing now."""
        self.detector.watch(sorted(self.known), self.mono_s)
        self.node.on_placement(self.placement)
        if is_other_ring:
            self.rebuilding.on_ring(self.placement.ring)
        self.ever_owned |= self.replica.owned
        if self.id in self.placement.view.ends:
            self._come_to_an_end()

    def on_told(self, node: bytes, view: View | None) -> None:
        """A node knows this by now."""
        if view is not None:
            self.node.on_told(node, view)

    def _come_to_an_end(self) -> None:
        """It was removed, or another took its place: it stops once all others can have heard."""
        if not self.ended:
            self.ended = True
            if self.weight > 0:  # it was to stay: what it had is not handed over
                self.witness.tell_gone(self.kept)
            self.after(LEAVE_US, "left", self.stop)

    def lose_view(self) -> None:
        """The disk is empty: what it knew of the others is gone, too."""
        self._durable_view = View()
        self.placement = self._founded

    def say(self) -> None:
        """Tell everybody what this node is now."""
        known = self.placement.view.nodes().get(self.id)
        revision = known.revision + 1 if known is not None else 0
        place = self.name, "host", 1, self.zone, self.weight
        self.learn(
            View().with_facts([Fact(self._incarnation, revision, self.id, NODE_ROLE, *place)])
        )

    def is_there(self, node: StorageNode) -> bool:
        """True if it is another node than that, and holds what it has acknowledged."""
        return self is not node and self.counts and hasattr(self, "replica")

    @property
    def counts(self) -> bool:
        """True unless it has come to its end, or another has its place and it has not heard."""
        return not self.ended and not self.ousted

    @property
    def is_known(self) -> bool:
        """True if it has an incarnation in which to say what it is."""
        return self.up and self._may_append

    @property
    def has_nothing_left(self) -> bool:
        """True if it owns nothing and keeps nothing for others: it may go."""
        is_empty = not self.replica.owned and not len(self.replica.hints)
        return self.up and is_empty and self.is_still and self.weight == 0

    @property
    def is_still(self) -> bool:
        """True if the log has all that the machine has given it, and takes more."""
        return self._may_append and not self._appending and not self._gathered

    @property
    def is_busy(self) -> bool:
        """True while the log has work, or slots are to be given away."""
        is_working = self._appending or bool(self._gathered) or self.node.reaper.is_busy
        return is_working or not self.node.handover.is_idle

    def _take_over(self, found: Recovered, may_forget: bool, disk_lost: bool) -> None:
        """What recovery found; replaced versions leave their put ids behind (rule 7)."""
        before = self.kept if self.run > 1 else {}
        self.logged = {key: state for of in found.maps for key, state in of.items()}
        for key, _ in sorted(self.logged.items() - self._ever_given):
            text = f"{self.name} found a state of {key!r} that its log was never given"
            self.history.breach("recovery", self.world.now, text)
        self.replica = Replica(self.id, self.settings, found.maps, self.placement.owned(self.id))
        self.ever_owned |= self.replica.owned
        self.replica.doubted = found.doubted
        for old, new in found.replaced:
            self.replica.puts.remember(replaced(old, new))
        self.replica.load_hints(found.hints)
        self.synced = dict(self.logged)
        self.witness.kept_for_others = set(found.hints)
        self.witness.tell_forgotten(before, may_forget, disk_lost)

    def _start_later(self) -> None:
        """The disk does not let the node start, or it ended by itself: somebody tries again."""

        def again() -> None:
            if not self.up and not self.ended:
                self.start()

        self.world.plan(RESTART_US, None, "start again", again)

    def fail(self) -> None:
        """An fsync failed: what the system dropped nobody knows, so nothing more is promised."""
        self._may_append = False
        run = self.run

        def end() -> None:
            if self.run == run:
                self.stop()
                self._start_later()

        self.world.plan(0, None, "fsync failed", end)

    def _tick(self) -> None:
        times = self.settings.times
        for peer in self.known.values():
            if self.network.hears(self, peer):
                self.take_reading(peer)
        self.detector.on_tick(self.mono_s)
        if not self.replica.lives.begun:
            self._renew()
        out = self.node.on_tick(self.mono_ms, self.wall_ms, self.detector.suspected)
        self._perform(out)
        self.rebuilding.on_tick()
        self.after(int(times.tick_s * SECOND), "tick", self._tick)

    def _sync_timer(self) -> None:
        self._sync_due = True
        self._work()
        self.after(int(self.settings.times.sync_s * SECOND), "sync due", self._sync_timer)

    def _perform(self, out: list[Out]) -> None:
        for effect in out:
            if isinstance(effect, Answer):
                self._answer(effect)
            elif isinstance(effect, ToPeer):
                self._deliver(effect)
            elif isinstance(effect, Persist):
                self._gathered.append(effect)
            elif isinstance(effect, Fsync):
                self._sync_due = True
            elif isinstance(effect, Exchange):
                self.exchange(effect.node)
            elif isinstance(effect, Publish):
                self.after(self.taking(self.sync_us), "published", self._published, effect)
            elif isinstance(effect, Grant):
                self.after(self.taking(self.sync_us), "granted", self._granted, effect)
            else:
                self._renew()
        self._work()

    def _published(self, effect: Publish) -> None:
        """It is durable now: this node says so, and nobody said it before (rule 15)."""
        try:
            is_durable = self.journal.doubt(effect.doubted) and not self.journal.full
        except SyncFailedError:
            self.fail()
            return
        if is_durable:
            view = View(slots=effect.slots)
            self._durable_view = merge_views(self.placement.view, view)
            self.learn(view)
        self._perform(self.node.on_published(is_durable))

    def _granted(self, effect: Grant) -> None:
        what = effect.partition, effect.slot, effect.generation
        try:
            is_durable = self.node.receiver.stands(effect) and self.journal.grant(*what)
        except SyncFailedError:
            self.fail()
            return
        self._perform(self.node.on_granted(effect, is_durable))

    def _answer(self, effect: Answer) -> None:
        src, run, call, request = effect.to
        self.witness.check_persisted(request, effect.message)
        if self.ousted and isinstance(request, Fetch):
            self.history.on_read_at_ousted(request.keys, self.world.now)
        if src is self:
            self.rebuilding.on_taken(call, effect.message)
        elif src.run == run:
            self.answer(src, call, effect.message)

    def _deliver(self, effect: ToPeer) -> None:
        node = effect.node
        self.ask(
            self.directory[node],
            effect.message,
            self.settings.times.peer_s,
            lambda reply: self._perform(
                self.node.on_peer(node, effect.message, reply, self.mono_ms)
            ),
            effect.epoch,
        )

    def _work(self) -> None:
        """Give the log what is due: an append, or a sync, which may run beside appends."""
        if not self._may_append:
            return
        if self._gathered and not self._appending:
            self._append()
        if self._sync_due and not self._syncing and self._synced_at < self._appended_at:
            self._sync()

    def _append(self) -> None:
        gathered, self._gathered = self._gathered, []
        rows = [row for persist in gathered for row in _rows(persist)]
        self._ever_given.update((row.key, row.state) for row in rows)
        try:
            self.journal.append(rows)
        except AppendRefusedError as error:
            self._perform(self.node.on_append_failed(cut_back=not error.unknown))
            return
        except SyncFailedError:
            self.fail()
            return
        self._appending = True
        for row in rows:
            self.witness.tell_logged(row)
        self.after(self.taking(self.append_us), "appended", self._appended, gathered[-1].position)

    def _appended(self, position: int) -> None:
        self._appending = False
        self._appended_at = position
        self._perform(self.node.on_appended(position))

    def _sync(self) -> None:
        self._syncing, self._sync_due = True, False
        covered = self._appended_at, dict(self.logged)
        if early := self._chance.random() < 0.5:
            if not self._is_synced():
                return
        self.after(self.taking(self.sync_us), "synced", self._synced, not early, *covered)

    def _synced(self, late: bool, position: int, states: dict[bytes, bytes]) -> None:
        self._syncing = self._sync_due = False
        if late and not self._is_synced():
            return
        self.synced = states
        self._synced_at = position
        self._perform(self.node.on_synced(position))

    def _is_synced(self) -> bool:
        """Sync; False if that failed, and with it this run of the node."""
        try:
            self.journal.sync()
        except SyncFailedError:
            self.fail()
            return False
        return True

    def _renew(self) -> None:
        try:
            incarnation = self.journal.new_incarnation(self.wall_ms)
        except SyncFailedError:
            self.fail()
            return
        if incarnation is not None:
            self.after(self.taking(self.sync_us), "incarnation", self._renewed, incarnation)

    def _renewed(self, incarnation: bytes) -> None:
        self._may_append, self._incarnation = True, incarnation
        if self.gossips:
            self.say()
        self.node.on_incarnation(incarnation)
        self._work()

    def taking(self, typical_us: int) -> int:
        """How long it takes this time, in µs."""
        return int(typical_us * (0.5 + self._chance.random()))


def _id(peer: Peer) -> bytes:
    return getattr(peer, "id", b"")


def _rows(persist: Persist) -> list[Row]:
    hints = persist.hints or [b""] * len(persist.keys)
    columns = persist.partitions, persist.keys, persist.states, hints
    return [Row(*row) for row in zip(*columns, strict=True)]
